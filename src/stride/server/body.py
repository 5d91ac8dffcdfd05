"""Request bodies: JSON that is small enough, shallow enough, and text all through."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
from collections.abc import Iterable
from typing import NoReturn

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from stride.errors import RequestError
from stride.server.errors import GoneError

MAX_DEPTH = 200
"""Levels of nesting; what walks a request afterwards may then recurse."""
MAX_VALUES = 1 << 20
"""Values of one body. The smallest takes two bytes on the wire, and some 70 in memory."""
SMALL = 64 << 10
"""Bytes that are parsed at once; more are parsed beside other requests."""
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
"""A string, one without an end too: no quote is looked at twice."""


async def read_json(request: Request, max_bytes: int) -> object:
    """The body, parsed.

    Raises:
        HTTPException: 413, it is larger than ``max_bytes``.
        GoneError: the client did not wait for its end.
        RequestError: it is no JSON, too deep, or holds what is no text.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    data = bytearray()
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > max_bytes:
                raise _too_large(max_bytes)
    except ClientDisconnect:
        raise GoneError from None
    return parse_json(data) if len(data) <= SMALL else await asyncio.to_thread(parse_json, data)


def parse_json(data: bytes | bytearray) -> object:
    """JSON as the standard has it: no NaN, nothing infinite, at most `MAX_DEPTH` levels, Unicode strings without NUL.

    Raises:
        RequestError: it is something else, or more than `MAX_VALUES` values.
    """
    _check_size(data)
    try:
        value = json.loads(data.decode(), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise RequestError(f"the body is not UTF-8: byte {error.start} is wrong") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise RequestError(f"the body is no JSON: {error}") from None
    _check(value)
    return value


def _check_size(data: bytes | bytearray) -> None:
    """Before anything is made of it."""
    if _n_values(data) > MAX_VALUES and _n_values(_TEXT.sub(b"", data)) > MAX_VALUES:  # texts have commas too
        raise RequestError(f"the body has more than {MAX_VALUES} values")


def _n_values(data: bytes | bytearray) -> int:
    """Items of lists and members of objects; an empty one counts as if there were one."""
    return sum(map(data.count, (b",", b"[", b"{")))


def _check(value: object) -> None:
    level = [value]
    for depth in itertools.count():
        containers = [item for item in level if isinstance(item, dict | list)]
        for item in level:
            if isinstance(item, str):
                _check_text(item)
            elif isinstance(item, float) and math.isinf(item):
                raise RequestError("the body has a number beyond what a double can hold")
        if not containers:
            return
        if depth == MAX_DEPTH:
            raise _too_deep()
        level = [child for item in containers for child in _children(item)]


def _children(container: dict[str, object] | list[object]) -> Iterable[object]:
    return itertools.chain(container.keys(), container.values()) if isinstance(container, dict) else container


def _check_text(text: str) -> None:
    if "\0" in text:
        raise RequestError("the body has a text with a NUL character")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise RequestError("the body has a text with half of a surrogate pair") from None


def _no_constant(name: str) -> NoReturn:
    raise RequestError(f"the body is no JSON: {name} is no number")


def _too_deep() -> RequestError:
    return RequestError(f"the body is nested deeper than {MAX_DEPTH} levels")


def _too_large(max_bytes: int) -> HTTPException:
    return HTTPException(413, f"the body is larger than {max_bytes} bytes")

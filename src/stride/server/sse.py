"""Streams on the wire: how chunks are framed, and the response that sends them as they come."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json as _to_json
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from stride.server import errors
from stride.server.observe import SEND

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

_LINE_ENDS = tuple((char.encode(), f"\\u{ord(char):04x}".encode()) for char in "\x85\u2028\u2029")
"""Characters that may stand as they are in JSON, but at which clients such as httpx end a line, and their escapes."""
_WHITE_SPACE = {ord(char): " " for char in "\t\n\r"}
_PLACE = secrets.token_hex(16)
"""Stands for a `JsonText` while the rest is encoded; nobody can know it."""


class JsonText:
    """A value that is JSON already, and goes out as it was written: no number loses digits, or is too large."""

    def __init__(self, text: str) -> None:
        self.text = text


def to_json(value: object) -> bytes:
    """Compact JSON in UTF-8, on one line for whatever reads lines.

    A number that JSON has not is null, as llama-server's is.
    """
    texts: list[bytes] = []

    def leave_place(item: object) -> str:
        if not isinstance(item, JsonText):
            raise TypeError(f"{type(item).__name__} has no JSON")
        texts.append(item.text.translate(_WHITE_SPACE).encode())
        return _PLACE

    data = _to_json(value, inf_nan_mode="null", fallback=leave_place)
    if texts:
        first, *rest = data.split(f'"{_PLACE}"'.encode())
        data = first + b"".join(part for pair in zip(texts, rest, strict=True) for part in pair)
    for char, escape in _LINE_ENDS:
        data = data.replace(char, escape)
    return data


def with_list(head: dict[str, Any], name: str, items: Iterable[object]) -> bytes:
    """JSON of ``{**head, name: [*items]}``, an item at a time: encoding all at once would hold up other threads."""
    return to_json(head)[:-1] + b"," + to_json(name) + b":" + list_of(items) + b"}"


def list_of(items: Iterable[object]) -> bytes:
    """JSON of a list, an item at a time."""
    return b"[" + b",".join(map(to_json, items)) + b"]"


def frame(value: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + to_json(value) + b"\n\n"


def named_frame(value: dict[str, Any]) -> bytes:
    """One server-sent event that has its type as its name."""
    return f"event: {value['type']}\n".encode() + frame(value)


@dataclass(frozen=True, slots=True)
class Framing:
    """How a stream is written: each chunk, what breaks a silence, what is said at the end, or where it fails."""

    end: bytes
    frame: Callable[[dict[str, Any]], bytes] = frame
    ping: bytes = b": ping\n\n"
    media_type: str = "text/event-stream"
    error: errors.Form = errors.body


OPENAI = Framing(end=b"data: [DONE]\n\n")
NATIVE = Framing(end=b"")
"""llama-server's own streams end without a word."""


class StreamedResponse(Response):
    """Sends data as it comes. ``close`` is called at the end, also where nobody wanted the rest.

    The way of a token is short: data go past the middlewares, to the server's own ``send``, in a task of their own, so
    that waiting for the next does not wake and put to sleep the coroutines of all middlewares.
    """

    def __init__(self, data: AsyncIterator[bytes], media_type: str, close: Callable[[], object]) -> None:
        super().__init__(headers=HEADERS, media_type=media_type)
        del self.headers["content-length"]
        self._data = data
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await asyncio.create_task(self._send_data(scope.get(SEND, send)))
        finally:
            self._close()

    async def _send_data(self, send: Send) -> None:
        async for data in self._data:
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

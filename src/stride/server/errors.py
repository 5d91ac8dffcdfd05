"""Errors on the wire: ``{"error": {"code", "message", "type"}}``, and which error has which status."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from stride.errors import (
    ClosedError,
    ContextOverflowError,
    DeadlineError,
    InsufficientMemoryError,
    OverloadedError,
    RequestError,
    StrideError,
    UnsupportedError,
    shown,
)

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
    499: "invalid_request_error",
    500: "server_error",
    501: "not_supported_error",
    503: "unavailable_error",
    504: "timeout_error",
}
ANTHROPIC_TYPES = {400: "invalid_request_error", 413: "request_too_large", 500: "api_error", 503: "overloaded_error"}
"""Where Anthropic's name is another."""
STATUS: tuple[tuple[type[Exception], int], ...] = (
    (RequestError, 400),
    (UnsupportedError, 501),
    (OverloadedError, 429),
    (InsufficientMemoryError, 503),
    (ClosedError, 503),
    (DeadlineError, 504),
    (StrideError, 500),
)
"""The first that fits."""
RETRY_SECONDS = {429: 1, 503: 1}


class LoadingError(HTTPException):
    """The model is not there yet (HTTP 503)."""

    def __init__(self) -> None:
        super().__init__(503, "Loading model")


class UnloadedError(HTTPException):
    """The model is not in memory, and this request does not load it (HTTP 503)."""

    def __init__(self, name: str) -> None:
        super().__init__(503, f"{name!r} is not loaded; a request for an answer of it loads it")


class GoneError(HTTPException):
    """The client went away before its answer (nginx's 499): only logs and counts get to see it."""

    def __init__(self) -> None:
        super().__init__(499, "the client went away")


class NoModelError(HTTPException):
    """No model is served under that name (HTTP 404)."""

    def __init__(self, name: str, names: Sequence[str]) -> None:
        super().__init__(404, f"there is no model {shown(name)}, only {', '.join(map(repr, names))}")


def body(error: Exception) -> dict[str, Any]:
    """The envelope of an error: with ``param``, the field it names, and counts where the context is too small."""
    more: dict[str, Any] = {}
    status, message = 500, "the server failed at this request; its log says why"
    if isinstance(error, HTTPException):
        status, message = error.status_code, error.detail
    elif isinstance(error, StrideError):
        status, message = next(code for kind, code in STATUS if isinstance(error, kind)), str(error)
    kind = TYPES[status]
    if isinstance(error, ContextOverflowError):
        kind = "exceed_context_size_error"
        more = {"n_prompt_tokens": error.n_prompt_tokens, "n_ctx": error.n_ctx}
    elif isinstance(error, RequestError | UnsupportedError) and error.field:
        more = {"param": error.field}
    return {"error": {"code": status, "message": message, "type": kind, **more}}


def anthropic(error: Exception) -> dict[str, Any]:
    """The envelope of an error as Anthropic's clients read it."""
    problem = body(error)["error"]
    kind = ANTHROPIC_TYPES.get(problem.pop("code"), problem["type"])
    return {"type": "error", "error": {**problem, "type": kind}}


def ollama(error: Exception) -> dict[str, Any]:
    """An error as Ollama's clients read it."""
    return {"error": body(error)["error"]["message"]}


Form = Callable[[Exception], dict[str, Any]]
FORMS: tuple[tuple[str, Form], ...] = (
    ("/v1/messages", anthropic),
    ("/api/", ollama),
    ("", body),
)
"""Beginning of a route's path → the form of its errors; the first that fits."""


def form(path: str) -> Form:
    """How a route tells errors."""
    return next(told for start, told in FORMS if path.startswith(start))


def response(error: Exception, headers: Mapping[str, str] | None = None, path: str = "") -> JSONResponse:
    """An error as a response in the form of its route, which says whether and when to try again where clients guess."""
    status = body(error)["error"]["code"]
    retry = {}
    if status in RETRY_SECONDS:
        seconds = error.retry_seconds if isinstance(error, OverloadedError) else RETRY_SECONDS[status]
        retry = {"Retry-After": str(max(1, math.ceil(seconds)))}
    elif status == 501:
        retry = {"x-should-retry": "false"}  # OpenAI's and Anthropic's clients try again after any other 5xx
    return JSONResponse(form(path)(error), status, {**retry, **(headers or {})})


def invalid(error: ValidationError, body: object) -> RequestError:
    """The first field of a body that a schema finds wrong, and what it may be instead."""
    found = [
        (_path(item["loc"], body), item["msg"].removeprefix("Value error, "))
        for item in error.errors(include_url=False, include_input=False)
    ]
    first, _ = found[0]
    field = max(
        (path for path, _ in found if path.startswith(first)), key=len
    )  # of a union, the member that came close
    problems = dict.fromkeys(problem for path, problem in found if path == field)
    return RequestError(f"{field}: {', or '.join(problems)}", field=field)


def _path(loc: Sequence[str | int], body: object) -> str:
    """Where in a body an error is, as in ``messages[0].role``: of a union, pydantic names the members too."""
    path = ""
    for part in loc:
        match part, body:
            case int(), list() if part < len(body):
                path += f"[{part}]"
                body = body[part]
            case str(), dict() if part in body or part == loc[-1]:
                path += f".{part}"
                body = body.get(part)
    return path.removeprefix(".")

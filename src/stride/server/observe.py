"""What is told of each request: its id to the client, a line of the log, a count for ``/metrics``. Never its text."""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from collections import Counter
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stride.server import errors
from stride.types import Completion, Finish

FACTS = "stride.facts"
"""Key of a request's scope: what its line in the log says, beside what is told of every request."""
REQUEST_ID = "x-request-id"
REQUEST_ID_NAMES = (REQUEST_ID, "request-id")
"""Headers of a response that have its id; Anthropic's clients read the second."""
SEND = "stride.send"
"""Key of a request's scope: the server's own ``send``, for the bodies of streams, which no middleware looks at."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_GOOD_ID = re.compile(r"[\x21-\x7e]{1,128}")

_log = logging.getLogger("stride.requests")
_PLAIN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


def note(http: Request, done: Finish | Completion) -> None:
    """Remember how a choice ended, for the log; several choices add up."""
    facts = http.scope.get(FACTS)
    if facts is None:
        return
    facts["choices"] = facts.get("choices", 0) + 1
    counts = {
        "prompt_tokens": done.usage.prompt_tokens,
        "cached_tokens": done.usage.cached_tokens,
        "completion_tokens": done.usage.completion_tokens,
        "prompt_ms": round(done.timings.prompt_ms, 3),
        "predicted_ms": round(done.timings.predicted_ms, 3),
    }
    for name, count in counts.items():
        facts[name] = facts.get(name, 0) + count
    facts["finish_reason"] = done.reason if isinstance(done, Finish) else done.finish_reason


def refused(status: int) -> str:
    """Log what was refused before it was a request; gives the id that it is known by."""
    request_id = secrets.token_hex(16)
    _log.info("request", extra={"request_id": request_id, "method": "none", "path": "none", "status": status})
    return request_id


class Caught:
    """ASGI middleware: an error that nobody foresaw is logged, and answered as any other, if there is no answer yet."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def noticing(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self.app(scope, receive, noticing)
        except Exception as error:
            if scope["type"] != "http" or has_begun:
                raise
            _log.exception("a request failed")
            await errors.response(error, path=scope["path"])(scope, receive, send)


class Observed:
    """ASGI middleware: request ids, the log, and how many requests ended with which status.

    A client's own ``x-request-id`` is kept where it is printable and short; each response has one. ``counts`` is by
    method, route and status, in which routes are patterns, and methods known ones, so that clients cannot make up more.
    """

    def __init__(self, app: ASGIApp, counts: Counter[tuple[str, str, int]]) -> None:
        self.app = app
        self._counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = given if _GOOD_ID.fullmatch(given) else secrets.token_hex(16)
        facts: dict[str, Any] = {}
        scope[FACTS] = facts
        scope[SEND] = send
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                for name in REQUEST_ID_NAMES:
                    MutableHeaders(scope=message)[name] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        finally:
            method = scope["method"] if scope["method"] in METHODS else "other"
            route = _route(scope)
            self._counts[method, route, status] += 1
            milliseconds = round(1e3 * (time.perf_counter() - started), 3)
            told = {"request_id": request_id, "method": method, "path": route, "status": status}
            _log.info("request", extra={**told, "ms": milliseconds, **facts})


def _route(scope: Scope) -> str:
    """The path of a known route, as a pattern where it has parameters."""
    if "route" not in scope:
        return "none"
    if not scope.get("path_params"):
        return str(scope["path"])
    pattern = str(scope["route"].path)  # without the prefix under which its router was included
    version = "/v1" if scope["path"].startswith("/v1/") and not pattern.startswith("/v1/") else ""
    return version + pattern


class JsonLines(logging.Formatter):
    """Each record as one line of JSON: time, level, logger, message, and what was given as ``extra``."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextLines(logging.Formatter):
    """For people: time, level, message, then what was given as ``extra``, as name=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        extra = "".join(f" {name}={value}" for name, value in _extra(record).items())
        return super().formatMessage(record) + extra


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in record.__dict__.items() if name not in _PLAIN}


def configure_logging(level: int, as_json: bool) -> None:
    """Log to stderr from now on, in lines of one form."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if as_json else TextLines())
    logging.basicConfig(handlers=[handler], level=level, force=True)

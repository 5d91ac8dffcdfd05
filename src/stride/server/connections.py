"""Connections that cannot be used up: time for headers, idle ones, clients that never read, and a limit of all."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import h11
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol

from stride.server.errors import body
from stride.server.observe import REQUEST_ID, refused

MAX_HEADER_BYTES = 64 << 10
"""A request's line and headers together; more is 431."""
HEADER_SECONDS = 20.0
"""From a request's first byte to the end of its headers."""
IDLE_SECONDS = 75.0
"""Without a request; longer than clients keep connections, so that theirs are not closed under them."""
WRITE_SECONDS = 60.0
"""During which a client takes nothing of what is sent."""
SPARE_FILES = 256
"""Open files that are left for everything but connections."""
BACKLOG = 2048
"""Connections that wait to be accepted, at most. As many can be accepted before the first of them is looked at."""


def raise_file_limit() -> int:
    """Let this process open as many files as it may; gives the number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError):  # macOS says there is no limit and refuses it
            pass
    return soft if soft != resource.RLIM_INFINITY else sys.maxsize


def capacity(n_files: int) -> tuple[int, int]:
    """How many connections a process that may open so many files can have, and how many more may wait."""
    backlog = min(BACKLOG, n_files // 4)
    return max(1, n_files - backlog - SPARE_FILES), backlog


@dataclass(slots=True)
class ConnectionLimits:
    """Of the connections of one server; ``idle`` holds those without a whole request, the longest idle one first."""

    max_connections: int = sys.maxsize
    header_seconds: float = HEADER_SECONDS
    idle_seconds: float = IDLE_SECONDS
    write_seconds: float = WRITE_SECONDS
    idle: dict[Connection, None] = field(default_factory=dict)


class Connection(H11Protocol):
    """One connection: uvicorn's, with time-outs.

    A new one beyond the limit takes the place of the one that has been without a request for longest; where all have
    one, it is closed itself.
    """

    def __init__(self, *args: Any, limits: ConnectionLimits, **options: Any) -> None:
        super().__init__(*args, **options)
        self._limits = limits
        self._patience: asyncio.TimerHandle | None = None
        self._has_begun = False
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_idle()
        if len(self.connections) > self._limits.max_connections:
            longest = next(iter(self._limits.idle))
            longest._stop_waiting()  # at once: many can come before it is closed
            longest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self in self._limits.idle and not self._has_begun and not self.transport.is_closing():
            self._has_begun = True  # the rest has to come in time, in however many drops
            self._wait(self._limits.header_seconds, self._refuse_late)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._unset_keepalive_if_required()  # uvicorn's timer knows nothing of a connection's first request
        if self.cycle.response_complete and not self.transport.is_closing():
            self._wait_idle()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(self._limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        super().resume_writing()

    def _wait_idle(self) -> None:
        self._stop_waiting()
        self._has_begun = False
        self._limits.idle[self] = None
        self._wait(self._limits.idle_seconds, self.transport.abort)

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._patience = self.loop.call_later(seconds, then)

    def _stop_waiting(self) -> None:
        self._limits.idle.pop(self, None)
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def send_400_response(self, msg: str) -> None:
        """The answer to what is no HTTP: as an error of the wire, with the status that h11 names."""
        problem = sys.exc_info()[1]
        status = problem.error_status_hint if isinstance(problem, h11.RemoteProtocolError) else 400
        self._refuse(HTTPException(status, "the headers are too large" if status == 431 else f"{msg} {problem}"))

    def _refuse_late(self) -> None:
        self._refuse(HTTPException(408, f"the headers took longer than {self._limits.header_seconds:g} s"))

    def _refuse(self, error: HTTPException) -> None:
        """Answer without a route, where an answer is still to come, and close."""
        if self.transport.is_closing() or self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        content = json.dumps(body(error)).encode()
        headers: list[tuple[bytes, bytes]] = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            (b"connection", b"close"),
            (REQUEST_ID.encode(), refused(error.status_code).encode()),
        ]
        parts: list[Any] = [
            h11.Response(status_code=error.status_code, headers=headers),
            h11.Data(data=content),
            h11.EndOfMessage(),
        ]
        self.transport.write(b"".join(self.conn.send(part) or b"" for part in parts))
        self.transport.close()

"""How much each may ask: requests of a key at a time and per minute, and bodies that come in time and fit in memory."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stride.errors import OverloadedError
from stride.server.errors import response
from stride.server.guard import KEY

MINUTE = 60.0


@dataclass(slots=True)
class _Usage:
    """What one key has asked: requests running, when those of the last minute came, seconds that the last ones took."""

    running: int = 0
    begun: deque[float] = field(default_factory=deque)
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=16))


class Limits:
    """ASGI middleware around what is posted; 429 says when to come again. Those without a key count as one.

    Args:
        key_parallel: requests of one key at a time; 0: any number.
        key_per_minute: requests of one key in a minute; 0: any number.
        body_seconds: time for a whole body.
        max_bytes: of all bodies together whose requests are not yet answered.
    """

    def __init__(
        self, app: ASGIApp, key_parallel: int, key_per_minute: int, body_seconds: float, max_bytes: int
    ) -> None:
        self.app = app
        self._key_parallel = key_parallel
        self._key_per_minute = key_per_minute
        self._body_seconds = body_seconds
        self._max_bytes = max_bytes
        self._n_bytes = 0
        self._usages: defaultdict[str, _Usage] = defaultdict(_Usage)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self.app(scope, receive, send)
        try:
            with self._counted(self._usages[scope.get(KEY, "")]), self._body(receive) as bounded:
                return await self.app(scope, bounded, send)
        except OverloadedError as error:
            return await response(error, path=scope["path"])(scope, receive, send)

    @contextmanager
    def _counted(self, usage: _Usage) -> Iterator[None]:
        now = time.monotonic()
        while usage.begun and usage.begun[0] <= now - MINUTE:
            usage.begun.popleft()
        if self._key_parallel and usage.running >= self._key_parallel:
            seconds = sum(usage.seconds) / max(1, len(usage.seconds)) / self._key_parallel
            raise OverloadedError(f"{usage.running} requests of this key are in work, as many as may be", seconds)
        if self._key_per_minute and len(usage.begun) >= self._key_per_minute:
            raise OverloadedError(
                f"{len(usage.begun)} requests of this key came within a minute, as many as may",
                usage.begun[0] + MINUTE - now,
            )
        if self._key_per_minute:
            usage.begun.append(now)
        usage.running += 1
        try:
            yield
        finally:
            usage.running -= 1
            usage.seconds.append(time.monotonic() - now)

    @contextmanager
    def _body(self, receive: Receive) -> Iterator[Receive]:
        """``receive`` with limits until the body's end; afterwards it tells of a client that is gone."""
        deadline = asyncio.get_running_loop().time() + self._body_seconds
        complete = False
        n_bytes = 0

        async def bounded() -> Message:
            nonlocal complete, n_bytes
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"the body took longer than {self._body_seconds:g} s") from None
            complete = message["type"] != "http.request" or not message.get("more_body", False)
            length = len(message.get("body", b""))
            if self._n_bytes + length > self._max_bytes:
                raise HTTPException(503, "too many large requests are in work")
            n_bytes += length
            self._n_bytes += length
            return message

        try:
            yield bounded
        finally:
            self._n_bytes -= n_bytes

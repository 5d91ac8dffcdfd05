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

from stride.errors import OverloadedError, RequestError
from stride.server.errors import response
from stride.server.guard import KEY

MINUTE = 60.0


USAGE = "stride.usage"
"""Key of a request's scope: the `Usage` of its key."""


@dataclass(slots=True)
class Usage:
    """What one key has asked: answers being made, when the last minute's requests came, seconds that the last took.

    A request counts as one answer until it is known how many it wants. ``parallel`` are the answers at a time at most;
    0: any number.
    """

    parallel: int
    running: int = 0
    begun: deque[float] = field(default_factory=deque)
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=16))

    @contextmanager
    def more(self, n: int, field: str) -> Iterator[None]:
        """So many answers more of a request.

        Raises:
            RequestError: that is more than a key may ever have, and ``field`` asks for it.
            OverloadedError: there is no room for them now.
        """
        if self.parallel and n >= self.parallel:
            problem = f"{field} asks for {n + 1} answers, but a key may have {self.parallel} at a time"
            raise RequestError(problem, field=field)
        self.check_room(n)
        self.running += n
        try:
            yield
        finally:
            self.running -= n

    def check_room(self, n: int) -> None:
        """So many answers more may be made.

        Raises:
            OverloadedError: not now.
        """
        if self.parallel and self.running + n > self.parallel:
            seconds = sum(self.seconds) / max(1, len(self.seconds)) / self.parallel
            raise OverloadedError(f"{self.running} answers for this key are in work; {self.parallel} may be", seconds)


class Limits:
    """ASGI middleware around what is posted; 429 says when to come again. Those without a key count as one.

    Args:
        key_parallel: answers of one key at a time; 0: any number.
        key_per_minute: requests of one key in a minute; 0: any number.
        body_seconds: time for a whole body.
        max_bytes: of all bodies together whose requests are not yet answered.
    """

    def __init__(
        self, app: ASGIApp, key_parallel: int, key_per_minute: int, body_seconds: float, max_bytes: int
    ) -> None:
        self.app = app
        self._key_per_minute = key_per_minute
        self._body_seconds = body_seconds
        self._max_bytes = max_bytes
        self._n_bytes = 0
        self._usages: defaultdict[str, Usage] = defaultdict(lambda: Usage(key_parallel))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self.app(scope, receive, send)
        try:
            scope[USAGE] = usage = self._usages[scope.get(KEY, "")]
            with self._counted(usage), self._body(receive) as bounded:
                return await self.app(scope, bounded, send)
        except OverloadedError as error:
            return await response(error, path=scope["path"])(scope, receive, send)

    @contextmanager
    def _counted(self, usage: Usage) -> Iterator[None]:
        now = time.monotonic()
        while usage.begun and usage.begun[0] <= now - MINUTE:
            usage.begun.popleft()
        usage.check_room(1)
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

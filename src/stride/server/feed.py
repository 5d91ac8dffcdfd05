"""Events of one or several streams, on the event loop, as they come."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Protocol

from stride.types import Event, Finish, Timings


class EventSource(Protocol):
    """What the server needs of a `stride.stream.Stream`."""

    @property
    def timings(self) -> Timings: ...

    def subscribe(self, notify: Callable[[], object]) -> None: ...

    def arrived(self) -> list[Event]: ...

    def cancel(self) -> None: ...


class Feed:
    """Gathers what streams give until each has finished. Belongs to the event loop it was made on, and to one reader.

    The cost of waiting is paid for each token: one future, and a timer that is set anew only when it goes off.
    """

    def __init__(self, streams: Sequence[EventSource]) -> None:
        self._streams = streams
        self._unfinished = dict.fromkeys(range(len(streams)))
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[bool] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiting_since = 0.0
        for stream in streams:
            stream.subscribe(self._notify)

    @property
    def has_ended(self) -> bool:
        """Every stream has finished."""
        return not self._unfinished

    async def next(self, seconds: float | None = None) -> list[tuple[int, Event]]:
        """The events there are, once there are some, each with its stream's index; none after so long a silence.

        Raises:
            StrideError: a stream failed.
        """
        self._waiting_since = self._loop.time()
        while True:
            events = [(index, event) for index in self._unfinished for event in self._streams[index].arrived()]
            if events:
                for index, event in events:
                    if isinstance(event, Finish):
                        del self._unfinished[index]
                return events
            if seconds is not None and self._timer is None:
                self._timer = self._loop.call_later(seconds, self._look, seconds)
            self._waiter = self._loop.create_future()
            if not await self._waiter:
                return []

    def cancel(self) -> None:
        """End what still runs, and the timer."""
        if self._timer is not None:
            self._timer.cancel()
        for index in self._unfinished:
            self._streams[index].cancel()

    def _notify(self) -> None:
        """From the engine's thread: there is something."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to read
            self._loop.call_soon_threadsafe(self._wake, True)

    def _wake(self, has_events: bool) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(has_events)

    def _look(self, seconds: float) -> None:
        """Whether it has been silent for so long; else, when it will have been."""
        left = self._waiting_since + seconds - self._loop.time()
        self._timer = None if left <= 0 else self._loop.call_later(left, self._look, seconds)
        if left <= 0:
            self._wake(False)

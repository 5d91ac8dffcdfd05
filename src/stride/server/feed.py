"""Events of one or several streams, on the event loop, as they come."""

from __future__ import annotations

import asyncio
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
    """Gathers what streams give until each has finished. Belongs to the event loop it was made on."""

    def __init__(self, streams: Sequence[EventSource]) -> None:
        self._streams = streams
        self._unfinished = set(range(len(streams)))
        self._arrived = asyncio.Event()
        loop = asyncio.get_running_loop()
        for stream in streams:
            stream.subscribe(lambda: loop.call_soon_threadsafe(self._arrived.set))

    @property
    def has_ended(self) -> bool:
        """Every stream has finished."""
        return not self._unfinished

    async def next(self, seconds: float | None = None) -> list[tuple[int, Event]]:
        """The events there are, once there are some, each with its stream's index; none after so long a silence.

        Raises:
            StrideError: a stream failed.
        """
        while True:
            self._arrived.clear()
            events = [(index, event) for index in sorted(self._unfinished) for event in self._streams[index].arrived()]
            if events:
                self._unfinished -= {index for index, event in events if isinstance(event, Finish)}
                return events
            try:
                async with asyncio.timeout(seconds):
                    await self._arrived.wait()
            except TimeoutError:
                return []

    def cancel(self) -> None:
        """End what still runs."""
        for index in self._unfinished:
            self._streams[index].cancel()

"""From streams of events to a response: whole, or streamed, in the wire form of any answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from stride.errors import StrideError
from stride.server import sse
from stride.server.errors import GoneError
from stride.server.feed import EventSource, Feed
from stride.server.observe import note
from stride.server.wire import timings
from stride.stream import completion
from stride.types import Completion, Event, Finish, StreamedEvent

Chunk = dict[str, Any]


class Asked(Protocol):
    """What a request says about how it is answered."""

    @property
    def stream(self) -> bool | None: ...

    @property
    def timings_per_token(self) -> bool | None: ...

    @property
    def wants_usage(self) -> bool: ...


class Answer(Protocol):
    """The wire form of one answer."""

    @property
    def framing(self) -> sse.Framing: ...

    def opening(self) -> list[Chunk]:
        """The chunks before the first event."""

    def delta(self, event: StreamedEvent) -> list[Chunk]:
        """The chunks of an event: one, or none."""

    def closing(self, finish: Finish, include_usage: bool) -> list[Chunk]:
        """The last chunks."""

    def whole(self, completion: Completion) -> Chunk:
        """The answer in one piece."""


class Choices(Protocol):
    """Several answers as one; ``closing`` is called once for each."""

    @property
    def answers(self) -> Sequence[Answer]: ...

    def closing(self, index: int, finish: Finish, include_usage: bool) -> list[Chunk]:
        """The last chunks of one answer, and after the last one those of all."""

    def whole(self, completions: Sequence[Completion]) -> Any:
        """All answers in one piece."""


class One:
    """An answer that is the only one."""

    def __init__(self, answer: Answer) -> None:
        self.answers = (answer,)

    def closing(self, index: int, finish: Finish, include_usage: bool) -> list[Chunk]:
        return self.answers[0].closing(finish, include_usage)

    def whole(self, completions: Sequence[Completion]) -> Chunk:
        return self.answers[0].whole(completions[0])


async def respond(http: Request, stream: EventSource, answer: Answer, asked: Asked, ping_seconds: float) -> Response:
    """`respond_all` for the one answer that most requests want."""
    return await respond_all(http, (stream,), One(answer), asked, ping_seconds)


async def respond_all(
    http: Request, streams: Sequence[EventSource], choices: Choices, asked: Asked, ping_seconds: float
) -> Response:
    """Send what streams give, each with the answer of its index. A client that goes away cancels all of them.

    An error before the first token is an HTTP error, unless it comes after a silence that had to be broken.

    Raises:
        GoneError: the client went away before that.
        StrideError: a stream failed before that.
    """
    feed = Feed(streams)
    watch = asyncio.create_task(cancel_when_gone(http, feed))

    def close() -> None:
        feed.cancel()
        watch.cancel()

    framing = choices.answers[0].framing
    try:
        if asked.stream:
            first = await feed.next(ping_seconds)
            frames = _frames(http, first, feed, streams, choices, asked, ping_seconds)
            return sse.StreamedResponse(frames, framing.media_type, close)
        completions = await _gather(feed, len(streams))
    except BaseException as error:
        is_gone = watch.done()
        close()
        if is_gone:
            raise GoneError from error
        raise
    watch.cancel()
    for done in completions:
        note(http, done)
    return Response(sse.to_json(choices.whole(completions)), media_type="application/json")


async def _frames(
    http: Request,
    events: list[tuple[int, Event]],
    feed: Feed,
    streams: Sequence[EventSource],
    choices: Choices,
    asked: Asked,
    ping_seconds: float,
) -> AsyncIterator[bytes]:
    """What is to be sent, as much as there is at a time."""
    framing = choices.answers[0].framing
    chunks = [chunk for answer in choices.answers for chunk in answer.opening()]
    while True:
        for index, event in events:
            if isinstance(event, Finish):
                note(http, event)
                chunks += choices.closing(index, event, asked.wants_usage)
                continue
            new = choices.answers[index].delta(event)
            if asked.timings_per_token:
                for chunk in new:
                    chunk["timings"] = timings(streams[index].timings)
            chunks += new
        if not events:
            yield b"".join(map(framing.frame, chunks)) + framing.ping
        elif feed.has_ended:
            yield b"".join(map(framing.frame, chunks)) + framing.end
            return
        elif chunks:
            yield b"".join(map(framing.frame, chunks))
        chunks = []
        try:
            events = await feed.next(ping_seconds)
        except StrideError as error:
            yield framing.frame(framing.error(error))
            return


async def _gather(feed: Feed, n: int) -> list[Completion]:
    events: list[list[Event]] = [[] for _ in range(n)]
    while not feed.has_ended:
        for index, event in await feed.next():
            events[index].append(event)
    return [completion(each) for each in events]


class Cancellable(Protocol):
    def cancel(self) -> None: ...


async def cancel_when_gone(http: Request, work: Cancellable) -> None:
    """Cancel what is done for a client once that has gone. The request's body must have been read."""
    with contextlib.suppress(asyncio.CancelledError):
        while (await http.receive())["type"] != "http.disconnect":
            pass
        work.cancel()

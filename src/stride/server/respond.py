"""From a stream of events to a response: whole, or as server-sent events, in the wire form of any answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from stride.chat.stream import collect
from stride.errors import StrideError
from stride.server import errors, sse
from stride.server.schema import Request as Asked
from stride.server.wire import Answer, timings
from stride.stream import Stream
from stride.types import Completion, Delta, Event, Finish


async def respond(http: Request, stream: Stream, answer: Answer, asked: Asked, ping_seconds: float) -> Response:
    """Send what a stream gives. A client that goes away cancels it, wherever it stands.

    An error before the first token is an HTTP error, unless it comes after a silence that had to be broken.
    """
    watch = asyncio.create_task(_cancel_when_gone(http, stream))
    feed = sse.with_silences(stream, ping_seconds)
    try:
        if not asked.stream:
            return JSONResponse(answer.whole(await _gather(feed)))
        first = await anext(feed)
    except BaseException:
        stream.cancel()
        raise
    finally:
        if not asked.stream:
            watch.cancel()
    chunks = _frames(first, feed, stream, answer, asked)
    return StreamingResponse(_closing(chunks, stream, watch), media_type=sse.MEDIA_TYPE, headers=sse.HEADERS)


async def _frames(
    first: Event | None, feed: AsyncIterator[Event | None], stream: Stream, answer: Answer, asked: Asked
) -> AsyncIterator[bytes]:
    for chunk in answer.opening():
        yield sse.frame(chunk)
    try:
        async for event in _chain(first, feed):
            match event:
                case None:
                    yield sse.PING
                case Finish():
                    for chunk in answer.closing(event, asked.wants_usage):
                        yield sse.frame(chunk)
                case _:
                    for chunk in answer.delta(event):
                        if asked.timings_per_token:
                            chunk["timings"] = timings(stream.timings)
                        yield sse.frame(chunk)
    except StrideError as error:
        yield sse.frame(errors.body(error))
        return
    yield sse.DONE


async def _gather(feed: AsyncIterator[Event | None]) -> Completion:
    deltas: list[Delta] = []
    async for event in feed:
        if isinstance(event, Finish):
            return Completion(collect(deltas), event.reason, event.usage, event.timings)
        if event is not None:
            deltas.append(event)
    raise AssertionError("a stream ends with Finish or an error")


async def _chain(first: Event | None, rest: AsyncIterator[Event | None]) -> AsyncIterator[Event | None]:
    yield first
    async for event in rest:
        yield event


async def _closing(chunks: AsyncIterator[bytes], stream: Stream, watch: asyncio.Task[None]) -> AsyncIterator[bytes]:
    """The chunks; afterwards, also when nobody wanted the rest, generation has ended."""
    try:
        async for chunk in chunks:
            yield chunk
    finally:
        stream.cancel()
        watch.cancel()


async def _cancel_when_gone(http: Request, stream: Stream) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        while (await http.receive())["type"] != "http.disconnect":
            pass
        stream.cancel()

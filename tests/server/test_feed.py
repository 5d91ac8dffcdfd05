"""Events of several streams, gathered on one event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from stride.errors import GenerationError
from stride.server.feed import Feed
from stride.types import ContentDelta, Finish, Timings, Usage

FINISH = Finish("stop", Usage(), Timings())


class Source:
    """A stream whose events are put by hand, from any thread."""

    timings = Timings()

    def __init__(self, *events):
        self.events = list(events)
        self.cancelled = False

    def subscribe(self, notify):
        self.notify = notify

    def arrived(self):
        events, self.events = self.events, []
        if events and isinstance(events[0], Exception):
            raise events[0]
        return events

    def cancel(self):
        self.cancelled = True

    def put(self, event):
        self.events.append(event)
        self.notify()


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 20))


def test_events_have_the_index_of_their_stream():
    async def read():
        feed = Feed([Source(ContentDelta("a")), Source(ContentDelta("b"), FINISH)])
        assert await feed.next() == [(0, ContentDelta("a")), (1, ContentDelta("b")), (1, FINISH)]
        assert not feed.has_ended

    run(read())


def test_it_ends_when_all_have():
    async def read():
        sources = [Source(FINISH), Source()]
        feed = Feed(sources)
        assert await feed.next() == [(0, FINISH)]
        threading.Timer(0.02, sources[1].put, [FINISH]).start()
        assert await feed.next() == [(1, FINISH)]
        assert feed.has_ended

    run(read())


def test_silences_are_empty_and_lose_nothing():
    async def read():
        source = Source()
        feed = Feed([source])
        assert await feed.next(0.01) == []
        assert await feed.next(0.01) == []
        source.put(ContentDelta("a"))
        source.put(ContentDelta("b"))
        assert await feed.next(0.01) == [(0, ContentDelta("a")), (0, ContentDelta("b"))]

    run(read())


def test_errors_come_out():
    async def read():
        feed = Feed([Source(ContentDelta("a")), Source(GenerationError("lost"))])
        with pytest.raises(GenerationError, match="lost"):
            await feed.next()

    run(read())


def test_only_what_still_runs_is_cancelled():
    async def read():
        sources = [Source(FINISH), Source(ContentDelta("a"))]
        feed = Feed(sources)
        await feed.next()
        feed.cancel()
        assert [source.cancelled for source in sources] == [False, True]

    run(read())

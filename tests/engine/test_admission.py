"""Who waits, for how long, and who is sent away: memory that falls short, queues that are full, time that is over."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from stride.engine import Engine, EngineConfig
from stride.engine.kv import PagedCache
from stride.errors import DeadlineError, InsufficientMemoryError, OverloadedError


class Room:
    """Memory for so many pages of all groups together."""

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self.asked: list[Sequence[int]] = []
        self.cache: PagedCache | None = None

    def __call__(self, fresh_pages: Sequence[int]) -> bool:
        self.asked.append(fresh_pages)
        touched = sum(group.allocator.n_touched for group in self.cache.groups) if self.cache else 0
        return touched + sum(fresh_pages) <= self.pages


@pytest.fixture
def limited(model: Any) -> Iterator[Any]:
    """An engine, and the memory that it has."""
    engines: list[Engine] = []

    def start(pages: int, **config: Any) -> tuple[Engine, Room]:
        room = Room(pages)
        engines.append(Engine(model, EngineConfig(**{"n_ctx": 256, "n_parallel": 3, "chunk": 64, **config}), room))
        room.cache = engines[-1]._cache
        return engines[-1], room

    yield start
    for engine in engines:
        engine.close()


def test_fresh_pages_are_those_beyond_what_was_touched() -> None:
    cache = PagedCache((None, 32), n_slots=2, n_ctx=256, chunk=32)
    assert cache.fresh_pages((), 100) == (4, 3)
    slot = cache.open()
    cache.extend(slot, 0, 32)
    assert cache.fresh_pages([(slot, 100)], 0) == (3, 2)
    assert cache.fresh_pages([(slot, 100)], 33) == (3 + 2, 2 + 2)
    assert cache.fresh_pages([(slot, 256)], 256) == (15, 5)
    cache.close(slot)
    assert cache.fresh_pages((), 32) == (0, 0)
    assert cache.fresh_pages((), 64) == (1, 1)


def test_a_request_waits_until_there_is_memory(limited: Any, new_client: Any, model: Any) -> None:
    per_request = sum(PagedCache(model.windows, 3, 256, 64).fresh_pages((), 100))
    engine, room = limited(pages=per_request + 1)
    running: list[int] = []
    model.before_forward = lambda batch: running.append(len(batch.row_starts) - 1)
    clients = [new_client([i + 1] * 90, max_tokens=10) for i in range(3)]
    for client in clients:
        engine.submit(client.request)
    for client in clients:
        assert client.wait().tokens == model.greedy(client.request.prompt_ids, 10)
    assert set(running) == {1}, "one at a time, in the same pages"
    assert not any(room.asked[-1]), "nothing is promised to nobody"


def test_a_request_for_which_nothing_can_be_done_fails_alone(limited: Any, new_client: Any, model: Any) -> None:
    engine, _ = limited(pages=sum(PagedCache(model.windows, 3, 256, 64).fresh_pages((), 64)))
    large, small = new_client([1] * 200), new_client([2, 3], max_tokens=8)
    engine.submit(large.request)
    engine.submit(small.request)
    assert isinstance(large.wait().error, InsufficientMemoryError)
    assert "up to 208 tokens" in str(large.error)
    assert small.wait().tokens == model.greedy([2, 3], 8)


def test_nobody_waits_longer_than_they_may(start: Any, new_client: Any, model: Any) -> None:
    model.before_forward = lambda batch: time.sleep(0.002)
    engine = start(n_parallel=1, queue_seconds=0.05)
    long, waiting = new_client([1], max_tokens=200), new_client([2])
    engine.submit(long.request)
    engine.submit(waiting.request)
    assert isinstance(waiting.wait().error, OverloadedError)
    assert "nobody was free within 0.05 s" in str(waiting.error)
    assert len(long.wait().tokens) == 200


def test_nobody_takes_longer_than_they_may(start: Any, new_client: Any, model: Any) -> None:
    model.before_forward = lambda batch: time.sleep(0.002)
    engine = start(request_seconds=0.05)
    client = new_client([1], max_tokens=200)
    engine.submit(client.request)
    assert isinstance(client.wait().error, DeadlineError)
    assert len(client.tokens) < 200
    assert engine.metrics.running == 0


def test_a_full_queue_says_when_a_place_gets_free(start: Any, new_client: Any, model: Any) -> None:
    engine = start(n_parallel=2, max_queue=0)
    engine._durations.extend([30.0, 50.0])  # seconds that earlier requests took
    may_run = threading.Event()
    model.before_forward = lambda batch: may_run.wait(20)
    clients = [new_client([i + 1]) for i in range(3)]
    for client in clients[:2]:
        engine.submit(client.request)
    with pytest.raises(OverloadedError) as caught:
        engine.submit(clients[2].request)
    assert caught.value.retry_seconds == 20
    may_run.set()
    for client in clients[:2]:
        client.wait()
    assert len(engine._durations) == 4


def test_one_scope_may_fill_the_queue_and_another_still_gets_its_share(start: Any, new_client: Any) -> None:
    hold, held = threading.Event(), threading.Event()
    engine = start(n_parallel=1, max_queue=4)
    threading.Thread(target=engine.exclusively, args=(lambda: (held.set(), hold.wait(20)),)).start()
    held.wait(20)
    many = [new_client([1, 2, n], cache_scope="a") for n in range(5)]
    for client in many:
        engine.submit(client.request)
    with pytest.raises(OverloadedError):
        engine.submit(new_client([5], cache_scope="a").request)
    other = new_client([3], cache_scope="b")
    engine.submit(other.request)
    hold.set()
    assert isinstance(many[-1].wait().end.error, OverloadedError)
    assert other.wait().tokens
    assert other.request.admitted_at < many[1].request.admitted_at
    assert all(client.wait().tokens for client in many[:-1])

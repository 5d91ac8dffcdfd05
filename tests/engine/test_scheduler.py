"""Which rows a step computes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from stride.engine.kv import PagedCache
from stride.engine.pace import ALONE_EVERY
from stride.engine.prefix import PrefixCache
from stride.engine.request import Request
from stride.engine.scheduler import Scheduler
from stride.types import SamplingParams


def new_request(n_prompt: int, max_tokens: int = 100) -> Request:
    request = Request([1] * n_prompt, SamplingParams(max_tokens=max_tokens), deliver=lambda output: None)
    request.prepare(n_ctx=1000, n_vocab=10)
    return request


def new_scheduler(n_slots: int, chunk: int) -> Scheduler:
    return Scheduler(PagedCache((None, 32), n_slots, 1000, chunk), chunk)


def compute(scheduler: Scheduler, seconds_per_token: float = 0.01) -> list[tuple[int, int, int]]:
    """Schedule a step and pretend that it was run: (start, end, outputs) of each row."""
    rows = scheduler.schedule()
    scheduler.ran(rows, seconds_per_token * sum(row.end - row.start for row in rows))
    for row in rows:
        row.request.n_computed = row.end
        if row.n_outputs:
            row.request.append(5)
    return [(row.start, row.end, row.n_outputs) for row in rows]


def test_prompts_share_a_chunk_evenly() -> None:
    scheduler = new_scheduler(n_slots=3, chunk=100)
    for n in (150, 30, 60):
        scheduler.add(new_request(n))
    assert compute(scheduler) == [(0, 35, 0), (0, 30, 1), (0, 35, 0)]
    assert compute(scheduler) == [(30, 31, 1)]  # alone once, to learn what that takes
    assert compute(scheduler)[0] == (31, 32, 1)


def test_short_prompts_do_not_wait_for_a_long_one() -> None:
    scheduler = new_scheduler(n_slots=2, chunk=100)
    scheduler.add(new_request(990, max_tokens=1))
    compute(scheduler)
    short = new_request(90)
    scheduler.add(short)
    compute(scheduler)
    assert compute(scheduler) == [(150, 210, 0), (50, 90, 1)]


@pytest.mark.parametrize("seconds_per_token", [0.0, 0.01])
@pytest.mark.parametrize("chunk", [1, 2, 64])
def test_a_long_prompt_and_decoding_sequences_never_stop_each_other(chunk: int, seconds_per_token: float) -> None:
    scheduler = new_scheduler(n_slots=4, chunk=chunk)
    short = [new_request(1, max_tokens=900) for _ in range(3)]
    for request in short:
        scheduler.add(request)
    while any(request.n_tokens == 1 for request in short):
        compute(scheduler)
    long = new_request(200)
    scheduler.add(long)
    n_steps = 0
    while long.n_computed < long.n_prompt:
        before = [request.n_tokens for request in short]
        rows = compute(scheduler, seconds_per_token)
        assert sum(end - start for start, end, _ in rows) <= max(chunk, len(short) + 1)
        assert [request.n_tokens for request in short] == [n + 1 for n in before]
        n_steps += 1
    assert n_steps <= 2 + 200 * (1 + 1 / ALONE_EVERY)


def test_every_prompt_goes_on_beside_decoding_sequences() -> None:
    scheduler = new_scheduler(n_slots=6, chunk=64)
    scheduler.add(new_request(1, max_tokens=900))
    compute(scheduler)
    compute(scheduler)
    for _ in range(5):
        scheduler.add(new_request(100))
    rows = compute(scheduler)
    assert [end - start for start, end, _ in rows] == [1] * 6


def test_pages_kept_for_later_are_given_back_before_a_request_waits_for_memory() -> None:
    cache = PagedCache((None, 32), 1, 400, 64, (20, 20))
    room = [0, 0]

    def has_room(fresh_pages: Sequence[int]) -> bool:
        return all(n <= most for n, most in zip(fresh_pages, room, strict=True))

    prefixes = PrefixCache(cache)
    scheduler = Scheduler(cache, 64, has_room, prefixes)
    scheduler.add(new_request(300, max_tokens=1))
    assert scheduler.schedule() == []
    room[:] = [20, 20]
    while not scheduler.running or scheduler.running[0].n_tokens == 300:
        compute(scheduler)
    scheduler.remove(scheduler.running[0])
    kept = prefixes.n_pages
    room[:] = [0, 0]
    other = Request([2] * 300, SamplingParams(max_tokens=1), deliver=lambda output: None)
    other.prepare(n_ctx=1000, n_vocab=10)
    scheduler.add(other)
    assert len(scheduler.schedule()) == 1
    assert all(n < before for n, before in zip(prefixes.n_pages, kept, strict=True))


def test_requests_that_begin_alike_compute_it_once() -> None:
    cache = PagedCache((None, 32), 4, 1000, 64, (40, 40))
    scheduler = Scheduler(cache, 64, prefixes=PrefixCache(cache))
    prompts = [[1] * 300, [1] * 300, [1] * 200 + [2] * 150, [1] * 100 + [3] * 300]
    requests = [Request(prompt, SamplingParams(max_tokens=9), deliver=lambda output: None) for prompt in prompts]
    for request in requests:
        request.prepare(n_ctx=1000, n_vocab=10)
        scheduler.add(request)
    compute(scheduler)
    assert [request in scheduler.running for request in requests] == [True, False, False, True]
    while not all(request.n_tokens > request.n_prompt for request in requests):
        compute(scheduler)
    first, same, half, quarter = (request.n_cached for request in requests)
    assert (first, quarter) == (0, 0)
    assert same == 288  # its whole pages
    assert half == 192  # likewise, of what is alike


def test_what_a_request_computed_is_used_by_the_next_unless_either_says_no() -> None:
    cache = PagedCache((None, 32), 1, 1000, 64, (20, 20))
    scheduler = Scheduler(cache, 64, prefixes=PrefixCache(cache))

    def start(cache_prompt: bool = True, scope: str = "") -> int:
        params = SamplingParams(max_tokens=1, cache_prompt=cache_prompt)
        request = Request([1] * 100, params, deliver=lambda output: None, cache_scope=scope)
        request.prepare(n_ctx=1000, n_vocab=10)
        scheduler.add(request)
        while request.n_tokens == 100:
            compute(scheduler)
        scheduler.remove(request)
        found = request.finished("length")
        assert found.usage.cached_tokens == found.timings.cache_n == 100 - found.timings.prompt_n
        return found.usage.cached_tokens

    assert [start(False), start(), start(False), start(), start(scope="other")] == [0, 0, 0, 99, 0]


def test_requests_wait_in_order_for_a_slot() -> None:
    scheduler = new_scheduler(n_slots=1, chunk=100)
    requests = [new_request(n) for n in (5, 6, 7)]
    for request in requests:
        scheduler.add(request)
    for request in requests:
        assert [row.request for row in scheduler.schedule()] == [request]
        scheduler.remove(request)
    assert scheduler.schedule() == []


def test_cancelled_requests_leave_whether_they_wait_or_run() -> None:
    scheduler = new_scheduler(n_slots=1, chunk=100)
    running, waiting, last = (new_request(5) for _ in range(3))
    for request in (running, waiting, last):
        scheduler.add(request)
    scheduler.schedule()
    running.cancelled = waiting.cancelled = True
    assert scheduler.remove_cancelled() == [waiting, running]
    assert [row.request for row in scheduler.schedule()] == [last]


def test_no_logits_are_wanted_for_a_request_of_no_tokens() -> None:
    scheduler = new_scheduler(n_slots=1, chunk=100)
    scheduler.add(new_request(5, max_tokens=0))
    assert compute(scheduler) == [(0, 5, 0)]

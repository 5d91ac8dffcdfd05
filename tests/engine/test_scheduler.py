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


def new_request(
    n_prompt: int, max_tokens: int = 100, prompt: Sequence[int] = (), scope: str | None = None, group: str | None = None
) -> Request:
    params = SamplingParams(max_tokens=max_tokens)
    request = Request(prompt or [1] * n_prompt, params, deliver=lambda output: None, group=group)
    request.prepare(n_ctx=1000, n_vocab=10)
    request.scope = scope
    return request


def new_scheduler(n_slots: int, chunk: int, n_spare: int = 0) -> Scheduler:
    cache = PagedCache((None, 32), n_slots, 1000, chunk, (n_spare, n_spare))
    return Scheduler(cache, chunk, PrefixCache(cache))


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
    scheduler = Scheduler(cache, 64, prefixes, has_room)
    scheduler.add(new_request(300, max_tokens=1, scope=""))
    assert scheduler.schedule() == []
    room[:] = [20, 20]
    while not scheduler.running or scheduler.running[0].n_tokens == 300:
        compute(scheduler)
    scheduler.remove(scheduler.running[0])
    kept = prefixes.n_pages
    room[:] = [0, 0]
    scheduler.add(new_request(300, max_tokens=1, prompt=[2] * 300, scope=""))
    assert len(scheduler.schedule()) == 1
    assert all(n < before for n, before in zip(prefixes.n_pages, kept, strict=True))


def test_requests_that_begin_alike_compute_it_once() -> None:
    scheduler = new_scheduler(n_slots=4, chunk=64, n_spare=40)
    prompts = [[1] * 300, [1] * 300, [1] * 200 + [2] * 150, [1] * 100 + [3] * 300]
    requests = [new_request(0, 9, prompt, scope="") for prompt in prompts]
    for request in requests:
        scheduler.add(request)
    compute(scheduler)
    assert [request in scheduler.running for request in requests] == [True, False, False, True]
    while not all(request.n_tokens > request.n_prompt for request in requests):
        compute(scheduler)
    first, same, half, quarter = (request.n_cached for request in requests)
    assert (first, quarter) == (0, 0)
    assert same == 299  # all but the token whose logits it needs
    assert half == 192  # of what is alike, the whole pages


@pytest.mark.parametrize("n_slots", [1, 2, 5])
@pytest.mark.parametrize("n_prompt", [5, 64, 300, 800])
def test_a_group_computes_its_prompt_once_and_leaves_nothing(n_slots: int, n_prompt: int) -> None:
    cache = PagedCache((None, 32), n_slots, 1000, 64)
    prefixes = PrefixCache(cache)
    scheduler = Scheduler(cache, 64, prefixes)
    requests = [new_request(n_prompt, max_tokens=40, scope="four", group="four") for _ in range(4)]
    for request in [*requests, stranger := new_request(n_prompt, max_tokens=40)]:
        scheduler.add(request)
    ended = 0
    while scheduler.waiting or scheduler.running:
        compute(scheduler)
        for request in [one for one in scheduler.running if one.is_full]:
            scheduler.remove(request)
            ended += request is not stranger
        assert ended < 4 or prefixes.n_pages == (0, 0)
    assert [request.n_cached for request in requests] == [0] + [n_prompt - 1] * 3
    assert stranger.n_cached == 0
    assert [group.allocator.n_busy for group in cache.groups] == [0, 0]


def test_a_group_of_which_none_has_started_leaves_nothing_either() -> None:
    scheduler = new_scheduler(n_slots=1, chunk=64)
    request = new_request(10, scope="two", group="two")
    scheduler.add(request)
    scheduler.remove(request)
    assert not scheduler.waiting


def test_what_a_request_computed_is_used_by_the_next_of_its_scope() -> None:
    scheduler = new_scheduler(n_slots=1, chunk=64, n_spare=20)

    def start(scope: str | None = "") -> int:
        request = new_request(100, max_tokens=1, scope=scope)
        scheduler.add(request)
        while request.n_tokens == 100:
            compute(scheduler)
        scheduler.remove(request)
        found = request.finished("length")
        assert found.usage.cached_tokens == found.timings.cache_n == 100 - found.timings.prompt_n
        return found.usage.cached_tokens

    assert [start(None), start(), start(None), start(), start("other")] == [0, 0, 0, 99, 0]


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

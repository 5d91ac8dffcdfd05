"""Which rows a step computes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from stride.engine.kv import PagedCache
from stride.engine.request import Request
from stride.engine.scheduler import Row, Scheduler
from stride.types import SamplingParams


def new_request(n_prompt: int, max_tokens: int = 100) -> Request:
    request = Request([1] * n_prompt, SamplingParams(max_tokens=max_tokens), deliver=lambda output: None)
    request.prepare(n_ctx=1000, n_vocab=10)
    return request


def new_scheduler(n_slots: int, chunk: int) -> Scheduler:
    return Scheduler(PagedCache((None, 32), n_slots, 1000, chunk), chunk)


def compute(rows: Sequence[Row]) -> list[tuple[int, int, int]]:
    """Pretend the step was run: (start, end, outputs) of each row."""
    for row in rows:
        row.request.n_computed = row.end
        if row.n_outputs:
            row.request.append(5)
    return [(row.start, row.end, row.n_outputs) for row in rows]


def test_prompts_are_computed_in_chunks_in_order_of_admission() -> None:
    scheduler = new_scheduler(n_slots=3, chunk=100)
    for n in (150, 30, 60):
        scheduler.add(new_request(n))
    assert compute(scheduler.schedule()) == [(0, 100, 0)]
    assert compute(scheduler.schedule()) == [(100, 150, 1), (0, 30, 1), (0, 20, 0)]
    assert compute(scheduler.schedule()) == [(150, 151, 1), (30, 31, 1), (20, 60, 1)]
    assert compute(scheduler.schedule()) == [(151, 152, 1), (31, 32, 1), (60, 61, 1)]


@pytest.mark.parametrize("chunk", [1, 2, 64])
def test_a_long_prompt_and_decoding_sequences_never_stop_each_other(chunk: int) -> None:
    scheduler = new_scheduler(n_slots=4, chunk=chunk)
    short = [new_request(1, max_tokens=900) for _ in range(3)]
    for request in short:
        scheduler.add(request)
    while any(request.n_tokens == 1 for request in short):
        compute(scheduler.schedule())
    long = new_request(200)
    scheduler.add(long)
    while long.n_computed < long.n_prompt:
        before = long.n_computed, [request.n_tokens for request in short]
        rows = scheduler.schedule()
        assert sum(row.end - row.start for row in rows) <= max(chunk, len(short) + 1)
        compute(rows)
        assert long.n_computed > before[0]
        assert [request.n_tokens for request in short] == [n + 1 for n in before[1]]


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
    assert compute(scheduler.schedule()) == [(0, 5, 0)]

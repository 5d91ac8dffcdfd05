"""Counts of the engine's work, and that they add up to what was done."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stride.engine import Histogram
from stride.errors import OverloadedError


@given(st.lists(st.floats(0, 100)))
def test_each_value_is_counted_once_below_its_bound(values: list[float]) -> None:
    histogram = Histogram((1.0, 5.0, 25.0))
    for value in values:
        histogram.observe(value)
    assert histogram.counts == [
        sum(low < value <= high for value in values) for low, high in ((-1, 1), (1, 5), (5, 25), (25, 101))
    ]
    assert histogram.sum == pytest.approx(sum(values))


def test_requests_are_measured(start, new_client) -> None:
    engine = start()
    clients = [new_client([1, 2, 3], max_tokens=5) for _ in range(4)]
    for client in clients:
        engine.submit(client.request)
    for client in clients:
        client.wait()
    cancelled = new_client([1], max_tokens=200)
    engine.submit(cancelled.request)
    engine.cancel(cancelled.request)
    cancelled.wait()
    engine.close()
    measures = engine.measures
    first_tokens = sum(measures.first_token_seconds.counts)
    assert first_tokens == sum(measures.queue_seconds.counts) in (4, 5)
    assert sum(measures.inter_token_seconds.counts) >= 16
    assert measures.ends == {"length": 4, "cancelled": 1}
    assert measures.longest == 8
    assert sum(measures.generated_tokens_per_second.counts) == 4
    n_steps = sum(measures.step_seconds.counts)
    assert sum(measures.step_sequences.counts) == n_steps == sum(measures.step_tokens.counts)
    assert measures.step_tokens.sum >= 4 * (3 + 4)


def test_requests_that_were_dropped_are_counted(start, new_client) -> None:
    engine = start(n_parallel=1, max_queue=0, request_seconds=0.05)
    late = new_client([1], max_tokens=100_000)
    late.request.stop = lambda token: time.sleep(0.01) is not None
    engine.submit(late.request)
    with pytest.raises(OverloadedError):
        engine.submit(new_client([1], max_tokens=1).request)
    late.wait()
    assert engine.measures.ends == {"refused": 1, "late": 1}
    engine.close()


def test_slots_are_those_that_run(start, new_client) -> None:
    engine = start(n_parallel=2)
    assert engine.slots == []
    clients = [new_client([1, 2, 3], max_tokens=100) for _ in range(3)]
    for client in clients:
        engine.submit(client.request)
    while len(slots := engine.slots) < 2 or slots[0].n_generated == 0:
        pass
    assert {slot.slot for slot in slots} == {0, 1}
    assert slots[0].n_prompt == 3
    assert slots[0].n_generated + slots[0].n_remaining == 100
    for client in clients:
        engine.cancel(client.request)

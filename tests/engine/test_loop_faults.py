"""Faults stay where they are: what goes wrong for one request changes nothing for the others."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from stride.errors import GenerationError, ModelFileError

# Of conftest.py: the class Client, a FakeModel, and what starts an engine over it.
NewClient = Model = Start = Any


@pytest.mark.parametrize("when", ["waiting", "in prefill", "decoding"])
def test_a_cancelled_request_leaves_within_one_step(
    start: Start, new_client: NewClient, model: Model, when: str
) -> None:
    engine = start(n_parallel=1 if when == "waiting" else 2, chunk=16)
    other = new_client([1, 2], max_tokens=60)
    client = new_client([3] * 100, max_tokens=60)
    cancelled_at: list[int] = []
    submitted = threading.Event()  # both, or the first could end before the second waits

    def cancel_in_time(batch: Any) -> None:
        assert submitted.wait(20)
        request = client.request
        at = {
            "waiting": engine.metrics.queued > 0,
            "in prefill": 0 < request.n_computed < 80,
            "decoding": bool(client.tokens),
        }
        if at[when] and not cancelled_at and len(model.batches) > 2:
            cancelled_at.append(len(model.batches))
            n_before.append(len(client.tokens))
            engine.cancel(request)
        elif cancelled_at and len(model.batches) == cancelled_at[0] + 1:
            assert client.ended.is_set()
            assert len(batch.row_starts) == 2  # the other one's row only

    n_before: list[int] = []
    model.before_forward = cancel_in_time
    engine.submit(other.request)
    engine.submit(client.request)
    submitted.set()
    assert other.wait().tokens == model.greedy([1, 2], 60)
    assert isinstance(client.wait().error, GenerationError)
    assert "cancelled" in str(client.error)
    assert len(client.tokens) == n_before[0]
    engine.cancel(client.request)  # once more is no harm


def test_nan_logits_fail_one_request(start: Start, new_client: NewClient, model: Model) -> None:
    logits = model.logits

    def logits_with_nan(hidden: Any, rows: Any) -> np.ndarray:
        found = logits(hidden, rows)
        batch = model.batches[-1]
        found[batch.positions[batch.outputs[rows]] == 12, 50] = np.nan
        return found

    model.logits = logits_with_nan
    engine = start()
    sick, well = new_client([1] * 10), new_client([2] * 20)
    engine.submit(sick.request)
    engine.submit(well.request)
    assert "nan" in str(sick.wait().error)
    assert sick.tokens == model.greedy([1] * 10, 3)
    assert well.wait().tokens == model.greedy([2] * 20, 8)


@pytest.mark.parametrize(
    "error", [RuntimeError("broken"), MemoryError("no memory"), ModelFileError("file truncated", path="m.gguf")]
)
def test_a_step_that_fails_fails_only_who_fails_alone(
    start: Start, new_client: NewClient, model: Model, error: Exception
) -> None:
    def fail(batch: Any) -> None:
        if 66 in batch.token_ids:
            raise error

    model.before_forward = fail
    engine = start()
    sick, well = new_client([1, 66]), new_client([2] * 20, max_tokens=3)
    assert 66 not in model.greedy([2] * 20, 3)
    engine.submit(well.request)
    engine.submit(sick.request)
    assert str(error) in str(sick.wait().error)
    assert well.wait().tokens == model.greedy([2] * 20, 3)
    after = new_client([2] * 20, max_tokens=3)
    engine.submit(after.request)
    assert after.wait().tokens == well.tokens
    assert engine.metrics.busy_pages == (0, 0)


def test_too_much_memory_for_a_batch_is_no_failure(start: Start, new_client: NewClient, model: Model) -> None:
    def fail(batch: Any) -> None:
        if len(batch.row_starts) > 2:
            raise MemoryError

    model.before_forward = fail
    engine = start()
    clients = [new_client([i] * 50) for i in range(3)]
    for client in clients:
        engine.submit(client.request)
    for client in clients:
        assert client.wait().tokens == model.greedy(client.request.prompt_ids, 8)


@pytest.mark.parametrize("broken", ["stop", "deliver", "mask"])
def test_a_callback_that_raises_fails_its_request(
    start: Start, new_client: NewClient, model: Model, broken: str
) -> None:
    called = threading.Event()

    def explode(*_: object) -> Any:
        called.set()
        raise RuntimeError("callback broken")

    class Mask:
        allowed = accept = explode

    engine = start()
    sick = new_client([1, 2], **{broken: Mask() if broken == "mask" else explode})
    well = new_client([3, 4])
    engine.submit(sick.request)
    engine.submit(well.request)
    assert well.wait().tokens == model.greedy([3, 4], 8)
    assert called.wait(20)
    if broken != "deliver":
        assert "callback broken" in str(sick.wait().error)
    while engine.metrics.running:
        time.sleep(0.001)
    assert engine.metrics.busy_pages == (0, 0)

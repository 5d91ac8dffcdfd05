"""Drafts from the text so far."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stride.engine import Engine, EngineConfig, Request
from stride.engine.draft_length import DraftLength
from stride.engine.draft_lookup import LEAST, MOST, LookupDrafter, continuation


@pytest.mark.parametrize(
    ("tokens", "n", "expected"),
    [
        ([1, 2, 3, 9, 1, 2], 2, [3, 9]),
        ([1, 2, 3, 9, 1, 2], 9, [3, 9, 1, 2, 3, 9, 1, 2, 3]),  # goes round
        ([5, 5, 5], 4, [5, 5, 5, 5]),
        ([7, 1, 2, 3, 0, 1, 2, 4, 8, 7, 1, 2], 1, [3]),  # the longest is right, not the latest
        ([0, 1, 2, 3, 0, 1, 2, 4, 0, 1, 2], 1, [4]),  # of equally long ones, the latest
        ([1, 2, 3, 4], 3, []),
        ([1, 3, 2, 3], 3, []),  # a single token says nothing
        ([1], 3, []),
    ],
)
def test_what_followed_before_follows_again(tokens: list[int], n: int, expected: list[int]) -> None:
    assert continuation(np.array(tokens, np.int32), n).tolist() == expected


@settings(deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.integers(1, 20))
def test_it_is_the_latest_of_the_longest(tokens: list[int], n: int) -> None:
    def alike(end: int) -> int:
        count = 0
        while count < min(end + 1, MOST) and tokens[end - count] == tokens[-1 - count]:
            count += 1
        return count

    best = max(range(len(tokens) - 1), key=lambda end: (alike(end), end), default=0)
    found = continuation(np.array(tokens, np.int32), n).tolist()
    if len(tokens) < 2 or alike(best) < LEAST:
        assert found == []
    else:
        circle = tokens[best + 1 :]
        assert found == [circle[i % len(circle)] for i in range(n)]


class FullLength(DraftLength):
    """Verifies as many as there may be."""

    def choose(self, room: Mapping[Request, int]) -> dict[Request, int]:
        return dict(room)


def test_a_repeating_answer_takes_fewer_steps(
    monkeypatch: pytest.MonkeyPatch, new_client: object, model: object
) -> None:
    """A model that counts in a circle."""
    monkeypatch.setattr("stride.engine.draft.DraftLength", FullLength)

    def logits(hidden: list[int], rows: np.ndarray) -> np.ndarray:
        last = model.batches[-1].token_ids[model.batches[-1].outputs[rows]]
        return np.eye(97, dtype=np.float32)[(last + 1) % 10]

    model.logits = logits
    engine = Engine(model, EngineConfig(n_ctx=1024, n_parallel=1), drafter=lambda runner: LookupDrafter())
    engine.submit((client := new_client([0], max_tokens=500)).request)
    assert client.wait().tokens == [n % 10 for n in range(1, 501)]
    engine.close()
    timings = client.end.timings
    assert timings.draft_n_accepted == timings.draft_n > 400
    assert len(model.batches) < 100

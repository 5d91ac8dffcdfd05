"""Log probabilities against a plain softmax."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stride.engine.sampler_logprobs import logprobs_of
from stride.errors import GenerationError


@given(st.integers(0, 2**32), st.integers(1, 400), st.integers(0, 30), st.floats(0.1, 50))
def test_logprobs_are_those_of_the_softmax(seed: int, n: int, n_top: int, spread: float) -> None:
    logits = (np.random.default_rng(seed).standard_normal(n) * spread).astype(np.float32)
    exact = logits.astype(np.float64)
    expected = exact - exact.max() - np.log(np.exp(exact - exact.max()).sum())
    found = logprobs_of(logits, n - 1, n_top)
    assert found.logprob == pytest.approx(expected[n - 1], abs=1e-4)
    assert [i for i, _ in found.top] == np.argsort(-logits, kind="stable")[:n_top].tolist()
    for token_id, logprob in found.top:
        assert logprob == pytest.approx(expected[token_id], abs=1e-4)


def test_what_cannot_come_is_minus_infinity_and_never_among_the_likeliest() -> None:
    found = logprobs_of(np.array([0, -np.inf, 0], np.float32), 1, 3)
    assert found.logprob == -np.inf
    assert found.top == ((0, pytest.approx(np.log(0.5))), (2, pytest.approx(np.log(0.5))))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_an_error(bad: float) -> None:
    with pytest.raises(GenerationError, match="a logit of"):
        logprobs_of(np.array([0, bad, 0], np.float32), 0, 1)

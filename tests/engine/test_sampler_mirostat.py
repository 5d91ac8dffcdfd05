"""Mirostat: how many tokens it draws from, and how its bound moves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stride.engine import sampler_filters
from stride.engine.sampler import Sampler
from stride.engine.sampler_mirostat import Mirostat, _largest
from stride.types import SamplingParams

ZIPF = np.array([-1.1 * math.log(i + 1) + 0.01 * (i * 7919 % 13) for i in range(300)], np.float32)


def mirostat(version: int, tau: float, n_vocab: int = 300) -> Mirostat:
    return Mirostat(SamplingParams(temperature=1.0, mirostat=version, mirostat_tau=tau, mirostat_eta=0.1), n_vocab)


def n_kept(chooser: Mirostat, logits: np.ndarray) -> int:
    keep = chooser._by_zipf if chooser._params.mirostat == 1 else chooser._by_surprise
    return len(keep(logits))


@pytest.mark.parametrize(
    ("version", "tau", "steps"),
    [
        (1, 1.0, [(1, 1.0), (1, 1.0)]),
        (1, 2.0, [(3, 0.5596654), (3, 0.5596654), (3, 0.1739670), (3, 0.5596654)]),
        (1, 3.0, [(11, 0.3516700), (12, 0.3430892), (13, 0.0222871), (11, 0.1673741)]),
        (1, 5.0, [(153, 0.1003111), (171, 0.0645503), (183, 0.0008552), (130, 0.0397560)]),
        (2, 1.0, [(1, 1.0), (1, 1.0)]),
        (2, 2.0, [(2, 0.6775340), (3, 0.5596654), (3, 0.1739670), (3, 0.5596654)]),
        (2, 3.0, [(10, 0.3614202), (11, 0.3516700), (13, 0.0222871), (10, 0.1720146)]),
        (2, 5.0, [(129, 0.1026953), (144, 0.0660559), (155, 0.0010461), (113, 0.0405578)]),
    ],
)
def test_as_many_tokens_as_llama_cpp(version: int, tau: float, steps: list[tuple[int, float]]) -> None:
    """What llama.cpp kept at each step, and the probability of what it drew there."""
    chooser = mirostat(version, tau)
    for expected, probability in steps:
        assert n_kept(chooser, ZIPF) == expected
        chooser.mu -= 0.1 * (-math.log2(probability) - tau)


@pytest.mark.parametrize("version", [1, 2])
def test_surprise_comes_to_its_target(version: int) -> None:
    chooser = mirostat(version, 3.0)
    random = np.random.default_rng(0)
    surprises = []
    for _ in range(1000):
        before = chooser.mu
        chooser.choose(ZIPF, random.random())
        surprises.append(3.0 - (chooser.mu - before) / 0.1)
    assert np.mean(surprises) == pytest.approx(3.0, abs=0.1)


def test_the_bound_moves_by_the_error() -> None:
    chooser = mirostat(2, 1.0)
    place = chooser.choose(np.log(np.array([0.5, 0.25, 0.25], np.float32)), 0.9)
    assert place == 2
    assert chooser.mu == pytest.approx(2.0 - 0.1 * (2.0 - 1.0))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("logits", [[1.0], [1.0, 1.0, 1.0, 1.0], [0.0, -np.inf, -np.inf], [3.0, -2.0]])
def test_something_is_always_chosen(version: int, logits: list[float]) -> None:
    chooser = mirostat(version, 0.01, n_vocab=4)
    for uniform in (0.0, 0.5, 0.999):
        place = chooser.choose(np.array(logits, np.float32), uniform)
        assert np.isfinite(logits[place])
        assert math.isfinite(chooser.mu)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=50), st.data())
def test_the_largest_are_those_of_a_sort(values: list[int], data: st.DataObject) -> None:
    logits = np.array(values, np.float32)
    k = data.draw(st.integers(1, len(values)))
    assert sorted(_largest(logits, k).tolist()) == sorted(sampler_filters.top_k(logits, k).tolist())


@pytest.mark.parametrize("version", [1, 2])
def test_it_replaces_penalties_and_filters(version: int) -> None:
    logits = np.array([5, 5, -20, -20], np.float32)
    params = SamplingParams(mirostat=version, repeat_penalty=100.0, top_k=1, seed=1, temperature=1.0)
    chooser = Sampler(params, np.array([0, 0, 0]), 4)
    assert {chooser.sample(logits) for _ in range(50)} <= {0, 1}
    assert 0 in {chooser.sample(logits) for _ in range(50)}
    greedy = Sampler(SamplingParams(mirostat=version, temperature=0), np.array([0]), 4)
    assert greedy.sample(np.array([1, 3, 2, 3], np.float32)) == 1


def test_the_draw_is_over_what_is_left() -> None:
    chooser = mirostat(2, 0.5)  # a bound of one bit: only the first two
    logits = np.log(np.array([0.5, 0.5, 1e-6], np.float32))
    assert {chooser.choose(logits, u) for u in np.linspace(0, 0.999, 20)} <= {0, 1}
    assert sampler_filters.draw(logits[:2], 0.75) == 1

"""DRY against llama.cpp's figures, and its books against a plain search."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stride.engine.sampler_dry import Dry, suffix_lengths
from stride.types import SamplingParams

ABC = (1, 2, 3, 3, 2, 3, 9, 1, 2, 3)
BREAK = (1, 2, 3, 4, 9, 1, 2, 3)
DEFAULT: dict[str, Any] = {"dry_multiplier": 1.0, "dry_base": 1.75, "dry_allowed_length": 2, "dry_penalty_last_n": 64}


def penalties(tokens: tuple[int, ...], breakers: dict[int, list[tuple[int, ...]]], **options: Any) -> dict[int, float]:
    """What each token costs that costs anything."""
    logits = np.zeros(12, np.float32)
    Dry(SamplingParams(**{**DEFAULT, **options}), tokens, 12, breakers).apply(logits)
    return {int(i): round(-float(logits[i]), 3) for i in np.flatnonzero(logits)}


@pytest.mark.parametrize(
    ("tokens", "breakers", "options", "expected"),
    [
        ((0, 1, 2, 3), {}, {}, {}),
        (ABC, {}, {}, {3: 1.75, 9: 1.0}),
        (ABC, {}, {"dry_multiplier": 0.8, "dry_base": 2.0, "dry_allowed_length": 1}, {2: 0.8, 3: 3.2, 9: 1.6}),
        ((1, 2, 3), {}, {"dry_multiplier": 0.8, "dry_base": 2.0, "dry_allowed_length": 0}, {2: 0.8, 3: 0.8}),
        (ABC, {}, {"dry_penalty_last_n": 7}, {9: 1.0}),
        (ABC, {}, {"dry_penalty_last_n": -1}, {3: 1.75, 9: 1.0}),
        (BREAK, {}, {}, {4: 1.75}),
        (BREAK, {2: [()]}, {}, {}),
        (BREAK, {2: [(3,)], 1: [()]}, {"dry_allowed_length": 1}, {}),
        (BREAK, {1: [(2,)]}, {"dry_allowed_length": 1}, {4: 1.0}),
        (BREAK, {2: [(5,)]}, {}, {4: 1.75}),
        (BREAK, {4: [()]}, {}, {}),
        ((7,) * 8, {}, {}, {7: 16.413}),
        ((7,) * 8, {}, {"dry_multiplier": 1.5, "dry_base": 1.0}, {7: 1.5}),
        ((7, 7), {}, {}, {}),
    ],
)
def test_penalties_are_llama_cpps(
    tokens: tuple[int, ...], breakers: dict[int, list[tuple[int, ...]]], options: dict[str, Any], expected: object
) -> None:
    assert penalties(tokens, breakers, **options) == expected


def test_a_penalty_grows_no_further_than_a_float_can() -> None:
    logits = np.zeros(8, np.float32)
    Dry(SamplingParams(**{**DEFAULT, "dry_penalty_last_n": -1}), (7,) * 400, 8, {}).apply(logits)
    assert np.isfinite(logits).all()
    assert logits[7] == np.float32(-1e30)


def plain_lengths(tokens: list[int]) -> list[int]:
    lengths = []
    for end in range(len(tokens) - 1):
        n = 0
        while n <= end and tokens[end - n] == tokens[-1 - n]:
            n += 1
        lengths.append(n)
    return lengths


@given(st.lists(st.integers(0, 2), max_size=40), st.lists(st.integers(0, 2), max_size=20), st.integers(-1, 12))
def test_the_books_equal_a_plain_search(prompt: list[int], accepted: list[int], last_n: int) -> None:
    assert suffix_lengths(prompt).tolist() == plain_lengths(prompt)
    options = {**DEFAULT, "dry_allowed_length": 1, "dry_penalty_last_n": last_n}
    grown = Dry(SamplingParams(**options), prompt, 3, {1: [(2,)]})
    for token in accepted:
        grown.accept(token)
    tokens = prompt + accepted
    fresh = Dry(SamplingParams(**options), tokens, 3, {1: [(2,)]})
    a, b = np.zeros(3, np.float32), np.zeros(3, np.float32)
    grown.apply(a)
    fresh.apply(b)
    assert a.tolist() == b.tolist()

"""How many drafts there are: as many as pay, whatever steps cost and however often drafts are right."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from stride.engine.draft_length import DraftLength
from stride.engine.request import Request
from stride.types import SamplingParams

Cost = Callable[[int, int], float]
"""Seconds of a step by its sequences and tokens."""

COSTS: dict[str, Cost] = {
    "free": lambda n, tokens: 1.0,
    "memory bound": lambda n, tokens: 1.0 + 0.25 * (tokens - 1),
    "compute bound": lambda n, tokens: float(tokens),
    "a step every four tokens": lambda n, tokens: float(-(-tokens // 4)),
}


def request() -> Request:
    return Request([1], SamplingParams(), deliver=lambda output: None)


def simulate(
    cost: Cost, rates: Sequence[Sequence[float]], n_steps: int, drafting: float = 0.03, probe_every: int = 48
) -> tuple[float, float]:
    """Tokens per second, over those without drafts, and drafts for each token; one entry of ``rates`` per sequence."""
    chooser, noise = random.Random(1), random.Random(2)
    length = DraftLength(len(rates[0]))
    requests = [request() for _ in rates]
    n_tokens = n_drafts = 0
    seconds = 0.0
    for step_number in range(n_steps):
        verified = length.choose({one: len(rates[0]) for one in requests})
        probes = step_number % probe_every == 0
        guessed = {one: max(n, int(probes)) for one, n in verified.items()}
        depth = max(guessed.values())
        length.drafted(len(requests), depth, drafting * depth)
        n = len(requests) + sum(verified.values())
        step = cost(len(requests), n) * noise.uniform(0.97, 1.1)
        length.stepped(len(requests), n, step)
        seconds += step + drafting * depth
        for one, of_one in zip(requests, rates, strict=True):
            n_right = 0
            while n_right < guessed[one] and chooser.random() < of_one[n_right]:
                n_right += 1
            for position in range(min(n_right + 1, guessed[one])):
                length.judge(one, position, position < n_right)
            n_tokens += 1 + min(n_right, verified[one])
            n_drafts += verified[one]
    plain = len(rates) / (cost(len(rates), len(rates)) * 1.035)
    return n_tokens / seconds / plain, n_drafts / n_tokens


@pytest.mark.parametrize("n_sequences", [1, 8])
@pytest.mark.parametrize("name", COSTS)
def test_wrong_drafts_cost_next_to_nothing(name: str, n_sequences: int) -> None:
    gain, _ = simulate(COSTS[name], [[0.0] * 3] * n_sequences, 2000)
    assert gain > 0.98


@pytest.mark.parametrize("n_sequences", [1, 8])
def test_right_drafts_are_all_verified_where_that_costs_nothing(n_sequences: int) -> None:
    gain, _ = simulate(COSTS["free"], [[1.0] * 3] * n_sequences, 1000)
    assert gain > 0.95 * 4 / 1.09


def test_published_acceptance_at_memory_bound_costs_pays() -> None:
    gain, _ = simulate(COSTS["memory bound"], [[0.89, 0.85, 0.9]], 2000)
    best = max(
        (1 + sum([0.89, 0.76, 0.69][:k])) / (1 + 0.25 * k + 0.03 * k) for k in range(4)
    )  # the best of all fixed lengths
    assert gain > 0.96 * best


def test_drafts_that_cost_what_they_bring_are_left() -> None:
    gain, drafts = simulate(COSTS["compute bound"], [[0.9] * 3], 1000)
    assert gain > 0.98
    assert drafts < 0.05


def test_the_sequence_whose_drafts_are_right_gets_them() -> None:
    length = DraftLength(3)
    good, bad = request(), request()
    for _ in range(20):
        length.stepped(2, 2, 1.0)
        length.stepped(2, 5, 1.6)
        length.stepped(2, 8, 2.2)
        for position in range(3):
            length.judge(good, position, True)
        length.judge(bad, 0, False)
    chosen = length.choose({good: 3, bad: 3})
    assert (chosen[good], chosen[bad]) == (3, 0)
    assert length.choose({good: 1, bad: 3})[good] == 1  # no more than there is room for


def test_a_burst_of_wrong_drafts_ends_them_and_right_ones_bring_them_back() -> None:
    length = DraftLength(2)
    one = request()

    def n_verified(n_steps: int, is_right: bool) -> list[int]:
        counts = []
        for step in range(n_steps):
            verified = length.choose({one: 2})[one]
            length.stepped(1, 1 + verified, 1.0 + 0.3 * verified)
            for position in range(min(max(verified, int(step % 5 == 0)), 2 if is_right else 1)):
                length.judge(one, position, is_right)
            counts.append(verified)
        return counts

    assert n_verified(60, True)[-1] == 2
    assert n_verified(40, False)[-1] == 0
    assert n_verified(200, True)[-1] == 2

"""The pace: whatever steps cost, sequences that decode keep half their speed, and prompts go on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stride.engine.pace import ALONE_EVERY, SLOWDOWN, Pace

Cost = Callable[[int, int], float]

COSTS: dict[str, Cost] = {
    "proportional": lambda decoding, prompt: 0.01 * decoding + 0.001 * prompt,
    "weights read once": lambda decoding, prompt: 0.03 + 0.0005 * decoding + 0.0005 * prompt,
    "more experts for more tokens": lambda decoding, prompt: 0.02 + 0.004 * (decoding + prompt) ** 0.7,
    "a dear first token": lambda decoding, prompt: 0.01 + (0.03 + 0.001 * prompt if prompt else 0.0),
}


def simulate(pace: Pace, cost: Cost, n_decoding: int, n_steps: int) -> list[tuple[int, float]]:
    """(tokens of prompts, seconds) of each step."""
    steps = []
    for _ in range(n_steps):
        n = pace.n_prompt_tokens(n_decoding)
        steps.append((n, cost(n_decoding, n)))
        pace.ran(n_decoding, *steps[-1])
    return steps


@pytest.mark.parametrize("n_decoding", [1, 4])
@pytest.mark.parametrize("name", ["proportional", "weights read once", "more experts for more tokens"])
def test_steps_take_twice_as_long_at_most(name: str, n_decoding: int) -> None:
    cost = COSTS[name]
    steps = simulate(Pace(512), cost, n_decoding, 400)
    alone = cost(n_decoding, 0)
    assert max(seconds for _, seconds in steps) <= 1.15 * SLOWDOWN * alone
    settled = [seconds for n, seconds in steps[50:] if n]
    assert min(settled) > 0.8 * SLOWDOWN * alone  # nor is time left unused


def test_prompts_go_on_even_where_a_single_token_is_too_dear() -> None:
    steps = simulate(Pace(512), COSTS["a dear first token"], 1, 100)
    assert sum(n for n, _ in steps) >= 90


def test_without_decoding_sequences_a_prompt_gets_whole_chunks() -> None:
    pace = Pace(512)
    assert {n for n, _ in simulate(pace, COSTS["proportional"], 0, 5)} == {512}


def test_decoding_is_measured_first_and_now_and_then() -> None:
    steps = simulate(Pace(64), COSTS["proportional"], 2, 3 * ALONE_EVERY)
    alone = [i for i, (n, _) in enumerate(steps) if n == 0]
    assert alone == [0, ALONE_EVERY + 1, 2 * (ALONE_EVERY + 1)]


def test_more_sequences_than_were_measured_count_as_those_that_were() -> None:
    pace = Pace(64)
    pace.ran(2, 0, 0.02)
    assert pace.n_prompt_tokens(1) == 0
    assert pace.n_prompt_tokens(5) > 0


def test_a_hiccup_is_forgotten_soon() -> None:
    pace = Pace(512)
    before = simulate(pace, COSTS["proportional"], 1, 60)[-1][0]
    for _ in range(3):
        pace.ran(1, pace.n_prompt_tokens(1), 5.0)
    assert simulate(pace, COSTS["proportional"], 1, 12)[-1][0] >= 0.8 * before


def test_one_slow_measurement_changes_nothing() -> None:
    pace = Pace(512)
    for _ in range(5):
        pace.ran(1, 0, 0.01)
    before = simulate(pace, COSTS["proportional"], 1, 60)[-1][0]
    pace.ran(1, 0, 5.0)
    assert max(n for n, _ in simulate(pace, COSTS["proportional"], 1, ALONE_EVERY)) <= before


def test_a_chunk_holds_decoding_sequences_and_prompts() -> None:
    pace = Pace(8)
    simulate(pace, lambda decoding, prompt: 1.0 + 0.001 * prompt, 3, 20)
    assert pace.n_prompt_tokens(3) == 5
    pace.ran(20, 0, 1.0)
    assert pace.n_prompt_tokens(20) == 1

"""The sampler: each filter against hand-made tables and a plain reference, draws against the filtered distribution."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stride.engine import sampler_filters as sampling
from stride.engine.sampler import Sampler
from stride.errors import GenerationError
from stride.types import SamplingParams, TokenSet

NO_FILTER: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0}


def logs(*probabilities: float) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(np.array(probabilities)).astype(np.float32)


def candidates(logits: np.ndarray, **options: Any) -> list[int]:
    """Sorted ids that pass the filters; ``xtc_threshold`` switches XTC on."""
    options = {"xtc_probability": float("xtc_threshold" in options), "seed": 0, **options}
    chooser = Sampler(SamplingParams(**{**NO_FILTER, **options, "temperature": 1.0}), np.array([0]), len(logits))
    return sorted(run(chooser, logits)[0].tolist())


def run(chooser: Sampler, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ids that a sampler draws from, and their logits by then."""
    left, narrowed = chooser._edit(logits), []
    for name in chooser._steps:
        left = chooser._step(name, left, narrowed)
    ids = np.arange(len(logits))
    for kept in narrowed:
        ids = ids[kept]
    return ids, left


def sampler(n_vocab: int, prompt: tuple[int, ...] = (), **options: Any) -> Sampler:
    return Sampler(SamplingParams(**{**NO_FILTER, **options}), np.array(prompt, np.int64), n_vocab)


REPELLED = {"presence_penalty": 100.0}
P = logs(0.1, 0.4, 0.05, 0.3, 0.15)
TIES = logs(0.25, 0.25, 0.25, 0.25)


@pytest.mark.parametrize(
    ("logits", "options", "expected"),
    [
        (P, {}, [0, 1, 2, 3, 4]),
        (P, {"top_k": 1}, [1]),
        (P, {"top_k": 3}, [1, 3, 4]),
        (P, {"top_k": 9}, [0, 1, 2, 3, 4]),
        (TIES, {"top_k": 2}, [0, 1]),
        (P, {"top_p": 0.0}, [1]),
        (P, {"top_p": 0.39}, [1]),
        (P, {"top_p": 0.41}, [1, 3]),
        (P, {"top_p": 0.84}, [1, 3, 4]),
        (P, {"top_p": 0.96}, [0, 1, 2, 3, 4]),
        (TIES, {"top_p": 0.5}, [0, 1]),  # at least p: the token that reaches it exactly is the last
        (TIES, {"top_p": 0.51}, [0, 1, 2]),
        (P, {"min_p": 0.3}, [1, 3, 4]),
        (P, {"min_p": 0.37}, [1, 3, 4]),
        (P, {"min_p": 0.38}, [1, 3]),
        (P, {"min_p": 1.0}, [1]),
        # -log p = 2.30 0.92 3.00 1.20 1.90, entropy 1.392: distances .91 .48 1.60 .19 .51
        (P, {"typical_p": 0.0}, [3]),
        (P, {"typical_p": 0.29}, [3]),
        (P, {"typical_p": 0.31}, [1, 3]),
        (P, {"typical_p": 0.71}, [1, 3, 4]),
        (P, {"typical_p": 0.86}, [0, 1, 3, 4]),
        (TIES, {"typical_p": 0.5}, [0, 1, 2]),  # above p: half is not enough
        # the likeliest is the least typical: entropy 1.332, distances .28 .42 .28 .28
        (logs(0.2, 0.4, 0.2, 0.2), {"typical_p": 0.1}, [0]),
        (logs(0.2, 0.4, 0.2, 0.2), {"typical_p": 0.5}, [0, 2, 3]),
        (P, {"top_n_sigma": 0.5}, [1, 3]),
        (P, {"top_n_sigma": 1.0}, [1, 3]),
        (P, {"top_n_sigma": 2.0}, [0, 1, 3, 4]),
        (TIES, {"top_n_sigma": 0.1}, [0, 1, 2, 3]),
        (logs(0.0, 0.6, 0.4), {"top_n_sigma": 1.0}, [1]),
        # all but the last of those at least as likely
        (P, {"xtc_threshold": 0.04}, [2]),
        (P, {"xtc_threshold": 0.12}, [0, 2, 4]),
        (P, {"xtc_threshold": 0.2}, [0, 2, 3, 4]),
        (P, {"xtc_threshold": 0.35}, [0, 1, 2, 3, 4]),
        (P, {"xtc_threshold": 0.5}, [0, 1, 2, 3, 4]),
        (TIES, {"xtc_threshold": 0.2}, [3]),
        (P, {"top_k": 3, "xtc_threshold": 0.17}, [4]),
        # each filter sees the probabilities of what is left: .571 .429 after top-k
        (P, {"top_k": 2, "top_p": 0.5}, [1]),
        (P, {"top_k": 2, "top_p": 0.6}, [1, 3]),
        (P, {"top_p": 0.84, "min_p": 0.5}, [1, 3]),
        (logs(0.0, 0.5, 0.0, 0.5), {"top_k": 3}, [1, 3]),
        (logs(0.0, 0.5, 0.0, 0.5), {"top_p": 0.999}, [1, 3]),
        (logs(0.0, 0.5, 0.0, 0.5), {"typical_p": 0.999}, [1, 3]),
        (logs(0.0, 0.5, 0.0, 0.5), {"min_p": 0.001}, [1, 3]),
    ],
)
def test_filters(logits: np.ndarray, options: dict[str, Any], expected: list[int]) -> None:
    assert candidates(logits, **options) == expected


def reference_prefix(logits: np.ndarray, keys: Callable[[np.ndarray], np.ndarray], p: float, strict: bool) -> set[int]:
    """The shortest prefix of the tokens sorted by key, as it is defined."""
    exact = logits.astype(np.float64)
    probabilities = np.exp(exact - exact.max())
    probabilities /= probabilities.sum()
    kept, mass = set(), 0.0
    for i in np.argsort(keys(probabilities), kind="stable").tolist():
        kept.add(i)
        mass += probabilities[i]
        if mass > p if strict else mass >= p:
            break
    return kept


def typical_keys(probabilities: np.ndarray) -> np.ndarray:
    information = -np.log(probabilities)
    return np.abs(information - (probabilities * information).sum())


@pytest.mark.parametrize("n", [50, 20_000])  # sorted, and through the histogram
@pytest.mark.parametrize("spread", [0.5, 3.0, 8.0])
@pytest.mark.parametrize("p", [0.05, 0.5, 0.9, 0.99])
def test_prefix_filters_equal_their_definition(n: int, spread: float, p: float) -> None:
    logits = (np.random.default_rng(n).standard_normal(n) * spread).astype(np.float32)
    for found, expected in (
        (set(candidates(logits, top_p=p)), reference_prefix(logits, lambda q: -q, p, strict=False)),
        (set(candidates(logits, typical_p=p)), reference_prefix(logits, typical_keys, p, strict=True)),
    ):
        # float32 rounding may move the cut by a token of no mass to speak of
        assert len(found ^ expected) <= max(1, n // 5000), (len(found), len(expected))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 3000), st.sampled_from([100, 4095, 4096, 4097, 9000]), st.booleans())
def test_top_k_equals_a_sort(seed: int, k: int, n: int, ties: bool) -> None:
    logits = np.random.default_rng(seed).standard_normal(n).astype(np.float32)
    if ties:
        logits = np.round(logits * 2)
    assert sampling.top_k(logits, k).tolist() == np.argsort(-logits, kind="stable")[:k].tolist()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"temperature": 0.7}, 0.7),
        ({"temperature": 1.0, "dynatemp_range": 0.5}, 1.365099),
        ({"temperature": 0.8, "dynatemp_range": 2.0, "dynatemp_exponent": 0.7}, 2.529905),
        ({"temperature": 0.0, "dynatemp_range": 1.0, "dynatemp_exponent": 2.0}, 0.748394),
    ],
)
def test_the_temperature_follows_the_entropy(options: dict[str, Any], expected: float) -> None:
    """By what llama.cpp divided the logits."""
    params = SamplingParams(**options)
    assert sampling.dynamic_temperature(P, params) == pytest.approx(expected, abs=1e-4)
    assert sampling.dynamic_temperature(P[:1], params) == params.temperature


def test_the_temperature_ends_where_entropy_does() -> None:
    params = SamplingParams(temperature=1.0, dynatemp_range=0.5)
    assert sampling.dynamic_temperature(TIES, params) == pytest.approx(1.5)
    assert sampling.dynamic_temperature(logs(1.0, 0.0, 0.0), params) == pytest.approx(0.5)


# --- the steps and their order ---


def distribution(chooser: Sampler, logits: np.ndarray) -> np.ndarray:
    """Of what a sampler draws from, over the vocabulary."""
    ids, left = run(chooser, logits)
    weights = np.zeros(len(logits))
    weights[ids] = np.exp(left.astype(np.float64) - left.max())
    return weights / weights.sum()


def reference(logits: np.ndarray, order: tuple[str, ...], prompt: list[int], params: SamplingParams) -> np.ndarray:
    """The steps in words, over a dictionary of logits."""
    left = {i: float(logit) for i, logit in enumerate(logits)}

    def shares() -> list[tuple[float, int]]:
        total = sum(math.exp(logit) for logit in left.values())
        return sorted(((math.exp(logit) / total, i) for i, logit in left.items()), key=lambda one: (-one[0], one[1]))

    for name in order:
        if name == "penalties":
            left = {i: logit - params.presence_penalty * (i in prompt) for i, logit in left.items()}
        elif name == "temperature":
            left = {i: logit / params.temperature for i, logit in left.items()}
        elif name == "top_k":
            left = {i: left[i] for _, i in shares()[: params.top_k]}
        elif name == "top_p":
            mass, kept = 0.0, []
            for share, i in shares():
                kept.append(i)
                mass += share
                if mass >= params.top_p:
                    break
            left = {i: left[i] for i in kept}
        elif name == "min_p":
            largest = shares()[0][0]
            left = {i: left[i] for share, i in shares() if share >= params.min_p * largest}
    found = np.zeros(len(logits))
    for share, i in shares():
        found[i] = share
    return found


@settings(max_examples=150, deadline=None)
@given(
    order=st.lists(st.sampled_from(["penalties", "top_k", "top_p", "min_p", "temperature"]), max_size=6),
    seed=st.integers(0, 2**32),
    n=st.integers(1, 40),
    masked=st.booleans(),
)
def test_steps_are_taken_in_any_order(order: list[str], seed: int, n: int, masked: bool) -> None:
    chooser = np.random.default_rng(seed)
    logits = (chooser.standard_normal(n) * 3).astype(np.float32)
    prompt = chooser.integers(0, n, 5)
    options = {"top_k": 7, "top_p": 0.83, "min_p": 0.03, "temperature": 1.7, "presence_penalty": 2.5}
    params = SamplingParams(**options, samplers=tuple(order), seed=seed % 100)
    one = Sampler(params, prompt, n)
    expected = reference(logits, params.samplers, prompt.tolist(), params)
    assert distribution(one, logits) == pytest.approx(expected, abs=1e-5)
    mask = TokenSet(np.arange(0, n, 2)) if masked else None
    before = logits.copy()
    for _ in range(5):
        token = one.sample(logits, mask)
        assert token % 2 == 0 if masked else expected[token] > 0
    assert (logits == before).all()


def test_the_default_order_is_llama_cpps() -> None:
    logits = np.random.default_rng(1).standard_normal(50).astype(np.float32)
    options = {"presence_penalty": 1.0, "dry_multiplier": 1.0, "top_n_sigma": 2.0, "typical_p": 0.9, "temperature": 0.5}
    names = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")
    prompt = np.array([1, 2, 3, 1, 2, 3, 1, 2])
    default, named = (Sampler(SamplingParams(**options, **more), prompt, 50) for more in ({}, {"samplers": names}))
    assert distribution(default, logits).tolist() == distribution(named, logits).tolist()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # without a temperature in the list there is none, not even 0
        ({"samplers": (), "temperature": 0.0, "top_k": 1}, {0, 1, 2}),
        ({"samplers": ("temperature",), "temperature": 0.0}, {1}),
        ({"samplers": ("temperature", "top_p"), "temperature": 0.0, "top_p": 0.9}, {1}),
        # the likeliest alone is left when the penalties come
        ({"samplers": ("top_k", "penalties", "temperature"), "temperature": 0.0, "top_k": 1, **REPELLED}, {1}),
        ({"samplers": ("penalties", "top_k", "temperature"), "temperature": 0.0, "top_k": 1, **REPELLED}, {0}),
        ({"samplers": ("top_k", "temperature"), "temperature": 1.0, "top_k": 1, **REPELLED}, {1}),
        ({"samplers": ("top_k", "dry"), "top_k": 2, "dry_multiplier": 100.0, "dry_allowed_length": 1}, {0}),
        # a high temperature before top-p leaves more
        ({"samplers": ("top_p", "temperature"), "temperature": 50.0, "top_p": 0.6}, {1}),
        ({"samplers": ("temperature", "top_p"), "temperature": 50.0, "top_p": 0.6}, {0, 1}),
    ],
)
def test_an_order_makes_a_difference(options: dict[str, Any], expected: set[int]) -> None:
    logits = logs(0.2, 0.7, 0.1)
    one = sampler(3, (1, 1, 1), seed=1, **options)
    assert {one.sample(logits) for _ in range(200)} == expected


def test_penalties_after_a_filter_count_what_is_chosen() -> None:
    one = sampler(3, samplers=("top_k", "penalties", "temperature"), temperature=0.0, top_k=2, **REPELLED)
    logits = logs(0.2, 0.7, 0.1)
    first = one.sample(logits)
    one.accept(first)
    assert (first, one.sample(logits)) == (1, 0)


def test_xtc_happens_with_its_probability() -> None:
    logits = logs(0.5, 0.3, 0.2)
    counts = [0, 0, 0]
    chooser = sampler(3, seed=3, xtc_probability=0.5, xtc_threshold=0.1)
    for _ in range(2000):
        counts[chooser.sample(logits)] += 1
    assert counts[0] == pytest.approx(500, abs=80)  # half of the time it is out
    assert counts[2] == pytest.approx(1200, abs=100)
    never = sampler(3, seed=3, xtc_probability=1.0, xtc_threshold=0.51)
    assert 0 in {never.sample(logits) for _ in range(50)}


def test_greedy_takes_the_largest_and_the_lowest_of_equals() -> None:
    assert sampler(4, temperature=0).sample(np.array([1, 3, 2, 3], np.float32)) == 1


@pytest.mark.parametrize(
    ("options", "prompt", "expected"),
    [
        ({"logit_bias": {2: 5.0, 0: -math.inf}}, (), [-math.inf, -1.0, 5.0, 3.0]),
        ({"repeat_penalty": 2.0}, (0, 1), [1.0, -2.0, 0.0, 3.0]),
        ({"presence_penalty": 0.5}, (0, 0, 1), [1.5, -1.5, 0.0, 3.0]),
        ({"frequency_penalty": 0.5}, (0, 0, 1), [1.0, -1.5, 0.0, 3.0]),
        ({"repeat_penalty": 2.0, "frequency_penalty": 0.5, "presence_penalty": 0.25}, (0, 0), [-0.25, -1.0, 0.0, 3.0]),
        ({"presence_penalty": 0.5, "repeat_last_n": 1}, (0, 0, 1), [2.0, -1.5, 0.0, 3.0]),
        ({"presence_penalty": 0.5, "repeat_last_n": 0}, (0, 0, 1), [2.0, -1.0, 0.0, 3.0]),
        ({"presence_penalty": 0.5, "repeat_last_n": -1}, (0, *(1,) * 100), [1.5, -1.5, 0.0, 3.0]),
        ({"logit_bias": {0: 1.0}, "repeat_penalty": 2.0}, (0,), [1.5, -1.0, 0.0, 3.0]),
    ],
)
def test_bias_and_penalties(options: dict[str, Any], prompt: tuple[int, ...], expected: list[float]) -> None:
    logits = np.array([2, -1, 0, 3], np.float32)
    edited = sampler(4, prompt, **options)._edit(logits)
    assert edited.tolist() == expected
    assert logits.tolist() == [2, -1, 0, 3]


def test_the_penalty_window_slides_over_chosen_tokens() -> None:
    chooser = sampler(3, (0, 1), presence_penalty=1.0, repeat_last_n=2)
    chooser.accept(2)
    assert chooser._edit(np.zeros(3, np.float32)).tolist() == [0, -1, -1]
    chooser = sampler(3, (0,), presence_penalty=1.0, repeat_last_n=2)
    chooser.accept(2)
    assert chooser._edit(np.zeros(3, np.float32)).tolist() == [-1, 0, -1]


def test_extreme_parameters_stay_finite() -> None:
    logits = np.array([3e38, -3e38, 0, 5], np.float32)
    for options in (
        {"logit_bias": {1: 1e300}},
        {"presence_penalty": -1e308, "frequency_penalty": -1e308},
        {"repeat_penalty": 1e-300},
        {"repeat_penalty": 1e300},
        {"temperature": 5e-324},
        {"temperature": 1e300},
    ):
        assert 0 <= sampler(4, (0, 1, 1), **options).sample(logits) < 4
    assert sampler(4, temperature=5e-324).sample(logits) == 0


@pytest.mark.parametrize("allowed", [TokenSet(np.array([1, 3])), TokenSet(np.array([0, 2]), excluded=True)])
def test_a_mask_rules_out_everything_else(allowed: TokenSet) -> None:
    logits = np.array([9, 1, 8, 2], np.float32)
    assert sampler(4, temperature=0).sample(logits, allowed) == 3
    chooser = sampler(4, seed=1)
    assert {chooser.sample(logits, allowed) for _ in range(50)} == {1, 3}
    assert sampler(4, top_k=1).sample(logits, allowed) == 3
    assert sampler(4, temperature=0, logit_bias={1: 5.0}).sample(logits, allowed) == 1
    assert logits.tolist() == [9, 1, 8, 2]


@pytest.mark.parametrize(
    ("logits", "allowed", "message"),
    [
        ([1, math.nan, 2], None, "logit of nan"),
        ([1, math.inf, 2], None, "logit of inf"),
        ([-math.inf] * 3, None, "no token is allowed"),
        ([1, 2, 3], [False] * 3, "no token is allowed"),
        ([1, -math.inf, 3], [False, True, False], "no token is allowed"),
        ([1, math.nan, 3], [True, False, False], "logit of nan"),
    ],
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_cannot_be_sampled(
    logits: list[float], allowed: list[bool] | None, message: str, temperature: float
) -> None:
    mask = None if allowed is None else TokenSet.of(np.array(allowed))
    with pytest.raises(GenerationError, match=message):
        sampler(3, temperature=temperature).sample(np.array(logits, np.float32), mask)


@pytest.mark.parametrize("n", [3, 2000])
def test_a_draw_takes_no_token_of_no_probability(n: int) -> None:
    logits = np.full(n, -np.inf, np.float32)
    logits[1:-1] = 0
    assert sampling.draw(logits, 0.0) == 1
    assert sampling.draw(logits, 1 - 2**-53) == n - 2


def test_banned_tokens_are_never_chosen() -> None:
    chooser = Sampler(SamplingParams(seed=0), np.array([1]), 4, banned={3})
    assert 3 not in {chooser.sample(np.array([1, 1, 1, 9], np.float32)) for _ in range(50)}


def test_a_seed_repeats_its_draws_and_no_seed_does_not() -> None:
    logits = np.zeros(1000, np.float32)

    def draws(seed: int | None) -> list[int]:
        chooser = sampler(1000, seed=seed)
        return [chooser.sample(logits) for _ in range(20)]

    assert draws(7) == draws(7) != draws(8)
    assert draws(-1) == draws(-1)
    assert draws(None) != draws(None)


@pytest.mark.parametrize(
    ("n", "options", "kept"),
    [
        (12, {}, None),
        (12, {"temperature": 0.5}, None),
        (12, {"temperature": 2.0, "top_k": 5}, 5),
        (12, {"top_p": 0.8, "temperature": 1.5}, None),
        (6000, {"typical_p": 0.6, "min_p": 0.2}, None),
    ],
)
def test_draws_follow_the_filtered_distribution(n: int, options: dict[str, Any], kept: int | None) -> None:
    """Chi-square over bins of tokens, against the softmax of what passes the filters; the seed is fixed."""
    logits = np.random.default_rng(3).standard_normal(n).astype(np.float32)
    ids = candidates(logits, **options)
    assert kept is None or len(ids) == kept
    scaled = logits[ids].astype(np.float64) / options.get("temperature", 1.0)
    probabilities = np.exp(scaled - scaled.max())
    probabilities /= probabilities.sum()
    n_draws = 4000
    chooser = sampler(n, seed=5, **options)
    counts = dict.fromkeys(ids, 0)
    for _ in range(n_draws):
        counts[chooser.sample(logits)] += 1  # a token that was filtered out is a KeyError
    groups = np.array_split(np.arange(len(ids)), min(len(ids), 20))
    observed = np.array([sum(counts[ids[i]] for i in group) for group in groups])
    expected = np.array([n_draws * probabilities[group].sum() for group in groups])
    chi_square = float(((observed - expected) ** 2 / expected).sum())
    degrees = len(groups) - 1
    assert chi_square < degrees + 4 * math.sqrt(2 * degrees)  # about 1 in 10,000 for another seed


# --- guesses ---


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0},
        {"temperature": 1.5, "top_k": 0, "repeat_penalty": 1.3},
        {"mirostat": 2},
        {"xtc_probability": 0.5},
        {"dynatemp_range": 0.5, "samplers": ("temperature", "top_k")},
    ],
)
def test_guesses_change_nothing(options):
    params = SamplingParams(seed=3, **options)
    plain, guessing = (Sampler(params, [1, 2], 50) for _ in range(2))
    rng = np.random.default_rng(0)
    for _ in range(200):
        logits = rng.standard_normal(50).astype(np.float32) * 3
        for n_before in rng.integers(0, 5, rng.integers(0, 4)):
            assert 0 <= guessing.guess(rng.standard_normal(50).astype(np.float32), int(n_before)) < 50
        assert plain.sample(logits) == guessing.sample(logits)
        plain.accept(7)
        guessing.accept(7)


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.5}])
def test_what_is_guessed_from_the_same_logits_is_what_is_chosen(options):
    sampler = Sampler(SamplingParams(seed=9, **options), [1], 50)
    rows = np.random.default_rng(1).standard_normal((60, 50)).astype(np.float32)
    for start in range(0, 60, 4):
        guessed = [sampler.guess(logits, n) for n, logits in enumerate(rows[start : start + 4])]
        assert guessed == [sampler.sample(logits) for logits in rows[start : start + 4]]


def test_numbers_that_are_none_make_a_guess_but_no_choice():
    logits = np.full(5, np.nan, np.float32)
    for temperature in (0, 1):
        sampler = Sampler(SamplingParams(temperature=temperature), [1], 5)
        assert 0 <= sampler.guess(logits, 0) < 5
        with pytest.raises(GenerationError):
            sampler.sample(logits)

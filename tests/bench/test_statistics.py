"""Medians, intervals, variation and drift."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from stride.bench.statistics import divergences, mcnemar, ratio, summarize, wilson


def test_median_and_interval():
    found = summarize([10.0, 12.0, 11.0, 10.5, 30.0])
    assert found is not None
    assert found.median == 11.0
    assert 0.0 < found.low < 10.5 < 11.0 < 12.0 < found.high
    assert found.variation == pytest.approx(np.std([10, 12, 11, 10.5, 30], ddof=1) / 14.7)


def test_one_repeat_has_no_variation_and_none_no_summary():
    found = summarize([5.0])
    assert found is not None
    assert (found.low, found.high, found.variation, found.drift) == (5.0, 5.0, None, None)
    assert summarize([]) is None


@pytest.mark.parametrize("n", [2, 3, 5, 15])
def test_the_interval_covers_the_median_as_often_as_it_says(n):
    """However few the repeats."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        found = summarize(rng.normal(100, 10, n).tolist())
        assert found is not None
        covered += found.low <= 100 <= found.high
    assert 180 <= covered <= 199


def test_fewer_repeats_that_vary_alike_are_known_less_well():
    def width(values: list[float]) -> float:
        found = summarize(values)
        assert found is not None
        return found.high - found.low

    assert width([90, 100, 110]) > width([90, 100, 110] * 2) > width([90, 100, 110] * 8)


def test_an_interval_ends_at_nought():
    found = summarize([0.0, 0.5, 1.0])
    assert found is not None
    assert (found.low, found.high) == (0.0, 1.0)


def test_drift_needs_a_trend_that_is_steady_and_large():
    def drift(values: list[float]) -> float | None:
        found = summarize(values)
        assert found is not None
        return found.drift

    assert drift([100, 95, 90, 85, 80]) == pytest.approx(-0.2)
    assert drift([100, 80, 99, 81, 100]) is None
    assert drift([100, 99.9, 99.8, 99.7, 99.6]) is None
    assert drift([100, 90, 80]) is None
    assert drift([7, 7, 7, 7, 7]) is None


def test_ratio():
    found = ratio([20.0, 22.0, 21.0], [10.0, 10.0, 10.0])
    assert found is not None
    assert found.median == pytest.approx(2.1)
    assert 1.8 <= found.low <= 2.0 <= 2.1 <= 2.2 <= found.high <= 2.4
    assert ratio([], [1.0]) is None


def test_divergences_are_those_of_the_distributions():
    exact = np.log([[0.5, 0.25, 0.25], [0.2, 0.3, 0.5]])
    other = np.log([[0.25, 0.5, 0.25], [0.2, 0.3, 0.5]])
    shift = np.array([[3], [-4]])  # logits of the same distribution
    expected = [0.5 * np.log(2) - 0.25 * np.log(2), 0]
    np.testing.assert_allclose(divergences(exact, other + shift), expected, atol=1e-12)


@pytest.mark.parametrize(("passed", "n"), [(0, 5), (5, 5), (3, 5), (1, 70), (42, 70), (70, 70), (1, 1), (999, 1000)])
def test_wilsons_interval_is_scipys(passed, n):
    expected = binomtest(passed, n).proportion_ci(0.95, method="wilson")
    assert wilson(passed, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_no_rate_has_no_interval():
    for passed, n in [(0, 0), (6, 5), (-1, 5)]:
        with pytest.raises(ValueError, match="is no rate"):
            wilson(passed, n)


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (5, 0), (0, 6), (3, 3), (9, 2), (1, 14), (60, 41)])
def test_mcnemar_is_the_exact_binomial_test(only_first, only_second):
    pairs = [(True, True)] * 7 + [(False, False)] * 4 + [(True, False)] * only_first + [(False, True)] * only_second
    found = mcnemar([a for a, _ in pairs], [b for _, b in pairs])
    assert (found.n, found.only_first, found.only_second) == (len(pairs), only_first, only_second)
    uneven = only_first + only_second
    assert found.p_value == pytest.approx(binomtest(only_first, uneven).pvalue if uneven else 1.0)


def test_mcnemar_needs_the_same_cases():
    with pytest.raises(ValueError, match="shorter"):
        mcnemar([True, False], [True])

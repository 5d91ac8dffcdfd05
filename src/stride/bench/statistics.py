"""Medians with bootstrap intervals, variation and drift, from few repeats; rates of passes and their comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
RESAMPLES = 10_000
DRIFT_REPEATS = 4
"""Fewer repeats than this fall in order by chance too often to call it drift."""
DRIFT_CHANGE = 0.05
DRIFT_CORRELATION = 0.9

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Summary:
    """Of ``n`` repeats: their median, its interval, the coefficient of variation (None for one repeat).

    ``drift`` is the relative change from first repeat to last along a straight line, where the repeats follow their
    order so closely that they do not measure one thing; otherwise None.
    """

    n: int
    median: float
    low: float
    high: float
    variation: float | None
    drift: float | None


def summarize(values: Sequence[float]) -> Summary | None:
    """Summary of repeats in the order they were measured; None of none."""
    if not values:
        return None
    array = np.asarray(values, np.float64)
    median = float(np.median(array))
    low, high = _interval(_medians(array, seed=0), median, array.size)
    mean = float(array.mean())
    variation = float(array.std(ddof=1)) / mean if array.size > 1 and mean else None
    return Summary(array.size, median, low, high, variation, _drift(array))


def ratio(values: Sequence[float], reference: Sequence[float]) -> Summary | None:
    """Summary of the median of ``values`` over that of ``reference``; None where one is empty."""
    if not values or not reference:
        return None
    above, below = np.asarray(values, np.float64), np.asarray(reference, np.float64)
    n, found = min(above.size, below.size), float(np.median(above) / np.median(below))
    low, high = _interval(_medians(above, seed=0) / _medians(below, seed=1), found, n)
    return Summary(n, found, low, high, None, None)


@dataclass(frozen=True, slots=True)
class McNemar:
    """Two models on the same ``n`` cases: what only one passed, and how likely so uneven a split is by chance."""

    n: int
    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """The exact test, two-sided, of passes case by case; ValueError if the cases are not as many."""
    pairs = list(zip(first, second, strict=True))
    only_first, only_second = pairs.count((True, False)), pairs.count((False, True))
    n_uneven = only_first + only_second
    tail = sum(math.comb(n_uneven, k) for k in range(min(only_first, only_second) + 1))
    return McNemar(len(pairs), only_first, only_second, min(1.0, 2 * tail / 2**n_uneven))


def wilson(passed: int, n: int) -> tuple[float, float]:
    """Wilson's score interval of a rate; ValueError unless 0 <= passed <= n and n > 0."""
    if not 0 <= passed <= n or n == 0:
        raise ValueError(f"{passed} of {n} is no rate")
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    middle, spread = passed + z * z / 2, z * math.sqrt(passed * (n - passed) / n + z * z / 4)
    return max(0.0, (middle - spread) / (n + z * z)), min(1.0, (middle + spread) / (n + z * z))


def _medians(values: FloatArray, seed: int) -> FloatArray:
    """Medians of resamples with replacement: float64 [RESAMPLES]."""
    rng = np.random.default_rng(seed)
    medians: FloatArray = np.median(rng.choice(values, (RESAMPLES, values.size)), axis=1)
    return medians


def _interval(estimates: FloatArray, middle: float, n: int) -> tuple[float, float]:
    """Percentiles of bootstrap estimates from ``n`` repeats, further from the middle the fewer they are; none below 0.

    Resamples of few repeats vary too little, and by a spread that is itself not known well: 3 repeats' percentiles hold
    the median in three measurements of four. Hesterberg's expanded percentile interval ("What Teachers Should Know
    About the Bootstrap", 2015) makes up for both: by the square root of n / (n - 1), and by Student's t over the
    normal's quantile. Nothing here is negative, so the interval is stretched in proportion, not by differences.
    """
    tail = (1 - CONFIDENCE) / 2
    low, high = (float(end) for end in np.quantile(estimates, [tail, 1 - tail]))
    if n < 2 or low <= 0:
        return low, high
    from scipy.special import stdtrit  # Student's t; a tenth of a second that other commands need not wait for

    stretch = math.sqrt(n / (n - 1)) * float(stdtrit(n - 1, 1 - tail)) / NormalDist().inv_cdf(1 - tail)
    return middle * (low / middle) ** stretch, middle * (high / middle) ** stretch


def _drift(values: FloatArray) -> float | None:
    if values.size < DRIFT_REPEATS or np.ptp(values) == 0:
        return None
    order = np.arange(values.size)
    correlation = float(np.corrcoef(order, values)[0, 1])
    slope, first = (float(part) for part in np.polyfit(order, values, 1))
    change = slope * (values.size - 1) / first
    return change if abs(correlation) >= DRIFT_CORRELATION and abs(change) > DRIFT_CHANGE else None


def divergences(exact: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> FloatArray:
    """Kullback-Leibler: of the distributions of logits [n, vocabulary] from those of ``exact``, float64 [n] in nats."""

    def log_softmax(x: npt.NDArray[np.float32]) -> FloatArray:
        shifted: FloatArray = x.astype(np.float64) - x.max(axis=-1, keepdims=True)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))

    p, q = log_softmax(exact), log_softmax(other)
    return np.asarray((np.exp(p) * (p - q)).sum(axis=-1))

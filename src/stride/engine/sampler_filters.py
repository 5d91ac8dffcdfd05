"""Filters of candidates, each after llama.cpp's, and the draw. Logits are float32 [n]; nothing sorts a vocabulary.

- top-n-sigma keeps the logits at least within n standard deviations of the largest.
- top-k keeps the k largest logits; every later filter works on the probabilities of what is left, renormalised.
- typical-p orders tokens by how far ``-log p`` is from the entropy, and keeps the shortest prefix with a mass above p.
- top-p orders tokens by probability and keeps the shortest prefix with a mass of at least p.
- min-p keeps tokens at least ``min_p`` times as likely as the likeliest.
- XTC leaves out the likeliest of the tokens that are at least as likely as a threshold, all but the last of them.
- The temperature, which may follow the entropy, divides what is left; one token is drawn from its softmax.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from stride.ops.api import FloatArray
from stride.types import SamplingParams

Indices = npt.NDArray[np.intp]

_FEW = 4096  # below this many elements, a plain sort is the fastest
_COLUMNS = 2048  # strided blocks, at most, whose maxima bound the k-th largest logit
_BLOCK = 512  # elements per block of the draw's two-level search
_LARGEST = float(np.finfo(np.float32).max)
_SMALLEST = float(np.finfo(np.float32).tiny)


def top_n_sigma(logits: FloatArray, n: float) -> Indices:
    """Indices of the logits within n standard deviations of the largest; -inf counts for neither."""
    finite = logits[logits > -np.inf].astype(np.float64)
    return np.flatnonzero(logits >= finite.max() - n * finite.std())


def top_k(logits: FloatArray, k: float) -> Indices:
    """Indices of the k largest logits, descending, without -inf."""
    k = int(k)
    columns = min(_COLUMNS, len(logits) // 4)
    floor = np.float32(-_LARGEST)
    if 0 < k <= columns // 4:
        # k columns have a maximum of at least the k-th largest of these maxima, so k logits do.
        maxima = logits[: len(logits) // columns * columns].reshape(-1, columns).max(axis=0)
        floor = max(floor, np.partition(maxima, -k)[-k])
    candidates = np.flatnonzero(logits >= floor)
    if len(candidates) > max(2 * k, _FEW):
        kept = logits[candidates]
        candidates = candidates[_shortest_prefix(kept.max() - kept, np.ones_like(kept), k)]
    return candidates[np.argsort(-logits[candidates], kind="stable")[:k]]


def typical_p(logits: FloatArray, p: float) -> Indices:
    """Indices of the locally typical tokens: the shortest prefix, by ``|-log p - entropy|``, of a mass above p."""
    # Far below the top a weight is 0 in any case; the bound keeps 0 * -inf, a NaN, out of the mean.
    below_top = np.maximum(logits - logits.max(), np.float32(-200))
    weights = np.exp(below_top)
    total = weights.sum(dtype=np.float64)
    # With log p = below_top - log total, the entropy is log total - mean(below_top): the logs of total cancel.
    mean = float((weights * below_top).sum(dtype=np.float64) / total)
    # Below twice the mean, tokens come after the likeliest and, the likelier first, after all that are above.
    near = np.flatnonzero(below_top > min(_negligible(total, p, len(weights)), 2 * mean))
    distances = np.abs(below_top[near] - np.float32(mean))
    return near[_shortest_prefix(distances, weights[near], p * total, strict=True)]


def top_p(logits: FloatArray, p: float) -> Indices:
    """Indices of the nucleus: the shortest prefix, by probability, of a mass of at least p."""
    below_top = logits - logits.max()
    weights = np.exp(below_top)
    total = weights.sum(dtype=np.float64)
    near = np.flatnonzero(below_top > _negligible(total, p, len(weights)))
    return near[_shortest_prefix(np.abs(below_top[near]), weights[near], p * total)]


def _negligible(total: float, p: float, n: int) -> float:
    """Log of a weight such that n of this weight are less than the share 1 - p of the total."""
    return math.log(0.999 * (1 - p) * total / n)


def min_p(logits: FloatArray, p: float) -> Indices:
    """Indices of the tokens at least p times as likely as the likeliest."""
    return np.flatnonzero(logits >= logits.max() + np.float32(math.log(p)))


def xtc(logits: FloatArray, threshold: float) -> Indices:
    """Indices of all tokens but those at least as likely as the threshold, of which the least likely stays."""
    weights = np.exp(logits - logits.max())
    likely = np.flatnonzero(weights >= threshold * weights.sum(dtype=np.float64))
    kept = np.ones(len(logits), np.bool_)
    kept[likely[np.argsort(-logits[likely], kind="stable")][:-1]] = False
    return np.flatnonzero(kept)


FILTERS: Mapping[str, Callable[[FloatArray, SamplingParams], Indices]] = {
    "top_n_sigma": lambda logits, params: top_n_sigma(logits, params.top_n_sigma),
    "top_k": lambda logits, params: top_k(logits, params.top_k),
    "typ_p": lambda logits, params: typical_p(logits, params.typical_p),
    "top_p": lambda logits, params: top_p(logits, params.top_p),
    "min_p": lambda logits, params: min_p(logits, params.min_p),
    "xtc": lambda logits, params: xtc(logits, params.xtc_threshold),
}
"""By llama.cpp's names, the indices that each filter keeps, in no particular order."""


def tempered(logits: FloatArray, params: SamplingParams) -> FloatArray:
    """The logits, the largest of them 0, divided by the temperature."""
    temperature = dynamic_temperature(logits, params)
    divided: FloatArray = (logits - logits.max()) / np.float32(min(max(temperature, _SMALLEST), _LARGEST))
    return divided


def dynamic_temperature(logits: FloatArray, params: SamplingParams) -> float:
    """The temperature, moved within ``dynatemp_range`` by the entropy of the candidates over the largest there is."""
    if params.dynatemp_range <= 0 or len(logits) < 2:
        return params.temperature
    below_top = (logits[logits > -np.inf] - logits.max()).astype(np.float64)
    weights = np.exp(below_top)
    total = weights.sum()
    entropy = math.log(total) - float((weights * below_top).sum() / total)
    lowest = max(0.0, params.temperature - params.dynatemp_range)
    highest = params.temperature + params.dynatemp_range
    share = max(0.0, entropy) / math.log(len(logits))
    return lowest + (highest - lowest) * float(np.float64(share) ** params.dynatemp_exponent)


def draw(logits: FloatArray, uniform: float) -> int:
    """The index where the softmax of the logits, summed up in order, passes ``uniform`` in [0, 1)."""
    weights = np.exp(logits - logits.max())
    starts = np.arange(0, len(weights), _BLOCK)
    block, rest = _pick(np.add.reduceat(weights, starts, dtype=np.float64), uniform)
    start = int(starts[block])
    index, _ = _pick(weights[start : start + _BLOCK], rest)
    return start + index


def _pick(weights: npt.NDArray[np.floating], uniform: float) -> tuple[int, float]:
    """The index whose share of the summed weights holds ``uniform``, never one of weight 0; where in the share."""
    sums = weights.cumsum(dtype=np.float64)
    target = min(uniform * sums[-1], math.nextafter(sums[-1], 0.0))
    index = int(sums.searchsorted(target, side="right"))
    before = float(sums[index - 1]) if index else 0.0
    return index, (target - before) / (float(sums[index]) - before)


def _shortest_prefix(keys: FloatArray, weights: FloatArray, mass: float, *, strict: bool = False) -> Indices:
    """The fewest elements, smallest (non-negative) keys first, with a weight of at least ``mass`` (above, if strict).

    Equal keys are taken in order of index. All elements, if they weigh less.
    """
    side: Literal["left", "right"] = "right" if strict else "left"
    if len(keys) <= _FEW:
        order = np.argsort(keys, kind="stable")
        sums = weights[order].cumsum(dtype=np.float64)
        return order[: int(sums.searchsorted(mass, side=side)) + 1]
    # The bits of a non-negative float32 order as the float does: their upper half is a histogram's bin. Only the
    # bin where the sum passes the mass has to be sorted.
    bins = (keys.view(np.uint32) >> 16).astype(np.uint16)
    sums = np.bincount(bins, weights=weights).cumsum()
    last = int(sums.searchsorted(mass, side=side))
    certain = np.flatnonzero(bins < last)
    uncertain = np.flatnonzero(bins == last)
    before = float(sums[last - 1]) if last else 0.0
    order = np.argsort(keys[uncertain], kind="stable")
    inner = weights[uncertain][order].cumsum(dtype=np.float64)
    count = int(inner.searchsorted(mass - before, side=side)) + 1
    return np.concatenate([certain, uncertain[order[:count]]])

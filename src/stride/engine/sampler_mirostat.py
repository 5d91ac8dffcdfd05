"""Mirostat: keeps the surprise of the tokens it chooses, -log2 of their probability, near a target. llama.cpp's.

Version 1 estimates the exponent of Zipf's law from the likeliest tokens and derives how many to draw from; version 2
draws from the tokens that surprise less than a bound. Both move the bound by how far the last surprise was off.
"""

from __future__ import annotations

import numpy as np

from stride.engine.sampler_filters import Indices, draw, top_k
from stride.ops.api import FloatArray
from stride.types import SamplingParams

_ESTIMATED_FROM = 100
"""Tokens that version 1 estimates Zipf's exponent from."""


class Mirostat:
    """The bound on surprise of one sequence, ``mu``: it begins at twice the target."""

    def __init__(self, params: SamplingParams, n_vocab: int) -> None:
        self._params = params
        self._n_vocab = n_vocab
        self.mu = 2.0 * params.mirostat_tau

    def choose(self, logits: FloatArray, uniform: float) -> int:
        """The index of a token, drawn with ``uniform`` in [0, 1), and the bound for the next one."""
        scaled = (logits / np.float32(self._params.temperature)).astype(np.float32)
        kept = self._by_zipf(scaled) if self._params.mirostat == 1 else self._by_surprise(scaled)
        place = draw(scaled[kept], uniform)
        surprise = _surprises(scaled[kept])[place]
        self.mu -= self._params.mirostat_eta * (float(surprise) - self._params.mirostat_tau)
        return int(kept[place])

    def _by_zipf(self, logits: FloatArray) -> Indices:
        likeliest = logits[top_k(logits, _ESTIMATED_FROM)].astype(np.float64)
        ranks = np.arange(1, len(likeliest))
        steps, falls = np.log((ranks + 1) / ranks), -np.diff(likeliest)
        with np.errstate(all="ignore"):  # one candidate, or equal ones: see below
            exponent = np.float64((steps * falls).sum()) / np.float64((steps * steps).sum())
            excess = exponent - 1
            base = excess * np.float64(2.0) ** self.mu / (1 - np.float64(self._n_vocab) ** -excess)
            k = base ** (1 / exponent)
        return _largest(logits, max(1, int(min(k, len(logits)))) if np.isfinite(k) else 1)  # as llama.cpp's cast does

    def _by_surprise(self, logits: FloatArray) -> Indices:
        kept = np.flatnonzero(_surprises(logits) <= self.mu)
        return kept if len(kept) else top_k(logits, 1)


def _largest(logits: FloatArray, k: int) -> Indices:
    """Indices of the k largest, in no order, which for many is faster than `top_k`; of equal ones, the first."""
    smallest = np.partition(logits, -k)[-k]
    larger, equal = np.flatnonzero(logits > smallest), np.flatnonzero(logits == smallest)
    return np.concatenate([larger, equal[: k - len(larger)]])


def _surprises(logits: FloatArray) -> FloatArray:
    """``-log2`` of the softmax."""
    below_top = logits - logits.max()
    total = np.exp(below_top).sum(dtype=np.float64)
    surprises: FloatArray = ((np.log(total) - below_top) / np.log(2)).astype(np.float32)
    return surprises

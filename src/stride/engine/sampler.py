"""Logits to one token: bias, penalties, mask, top-k, typical, top-p, min-p, temperature, draw.

The order and the meaning of each filter are llama.cpp's:

- ``logit_bias`` is added to the model's logits.
- Penalties look at the last ``repeat_last_n`` tokens, those of the prompt included. A token seen there has its logit
  divided by ``repeat_penalty`` (multiplied where it is not positive), then lowered by
  ``count * frequency_penalty + presence_penalty``.
- A mask (a grammar) leaves only the tokens that are allowed.
- top-k keeps the k largest logits; every later filter works on the probabilities of what is left, renormalised.
- typical-p orders tokens by how far ``-log p`` is from the entropy, and keeps the shortest prefix with a mass above p.
- top-p orders tokens by probability and keeps the shortest prefix with a mass of at least p.
- min-p keeps tokens at least ``min_p`` times as likely as the likeliest.
- The temperature divides what is left, and one token is drawn from its softmax.

Differences from llama.cpp: temperature 0 is the argmax after bias, penalties and mask, whatever the filters say;
ties go to the lower token id; sums of probabilities are float64. Nothing here sorts a whole vocabulary.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt

from stride.errors import GenerationError
from stride.ops.api import FloatArray
from stride.types import SamplingParams, TokenSet

Indices = npt.NDArray[np.intp]

_FEW = 4096  # below this many elements, a plain sort is the fastest
_COLUMNS = 2048  # strided blocks whose maxima bound the k-th largest logit
_BLOCK = 512  # elements per block of the draw's two-level search
_LARGEST = float(np.finfo(np.float32).max)
_SMALLEST = float(np.finfo(np.float32).tiny)
_EDIT_LIMIT = 1e30  # a bias or penalty beyond any logit, that still leaves float32 sums finite


# glibc hands freed memory back to the system, and the page faults of the next array cost more than its arithmetic.
# Having freed one large block makes it keep as much from then on.
np.empty(1 << 24, np.uint8)


class Sampler:
    """Chooses the tokens of one request. Owns its random numbers, so no draw depends on the rest of a batch.

    Used by one thread at a time. ``banned`` token ids are never chosen.
    """

    def __init__(
        self, params: SamplingParams, prompt_ids: npt.ArrayLike, n_vocab: int, banned: Iterable[int] = ()
    ) -> None:
        self.params = params
        seed = None if params.seed is None else params.seed % 2**64
        self._random = np.random.default_rng(seed)
        bias = {**params.logit_bias, **dict.fromkeys(banned, -math.inf)}
        self._bias_ids = np.fromiter(bias.keys(), np.intp, len(bias))
        self._bias = np.clip(np.fromiter(bias.values(), np.float64, len(bias)), -math.inf, _EDIT_LIMIT)
        self._penalties = _Penalties(params, prompt_ids, n_vocab) if _has_penalties(params) else None

    def sample(self, logits: FloatArray, allowed: TokenSet | None = None) -> int:
        """Choose a token from float32 ``logits`` [n_vocab], which are not changed.

        Raises:
            GenerationError: the logits hold NaN or +inf, or leave no token to choose.
        """
        with np.errstate(over="ignore"):
            best = _argmax(logits)
            candidates = self._edit(logits)
            narrowed: list[Indices] = []  # each indexes what the one before it left
            if allowed is not None and allowed.excluded:
                candidates = logits.copy() if candidates is logits else candidates
                candidates[allowed.ids] = -np.inf
            elif allowed is not None:
                narrowed.append(allowed.ids)
                candidates = candidates[allowed.ids]
            if candidates is not logits:
                best = _argmax(candidates)
            if self.params.temperature > 0:
                for kept in filters(candidates, self.params):
                    narrowed.append(kept)
                    candidates = candidates[kept]
                best = draw(candidates, self.params.temperature, self._random.random())
            for kept in reversed(narrowed):
                best = int(kept[best])
            return best

    def accept(self, token_id: int) -> None:
        """Count a token that was chosen, for the penalties."""
        if self._penalties is not None:
            self._penalties.accept(token_id)

    def _edit(self, logits: FloatArray) -> FloatArray:
        """Bias and penalties. Gives the logits themselves where there are none of these."""
        if len(self._bias_ids) or self._penalties is not None:
            logits = logits.copy()
            logits[self._bias_ids] = np.minimum(logits[self._bias_ids] + self._bias, _LARGEST)
            if self._penalties is not None:
                self._penalties.apply(logits)
        return logits


def _has_penalties(params: SamplingParams) -> bool:
    neutral = params.repeat_penalty == 1 and params.presence_penalty == 0 and params.frequency_penalty == 0
    return params.repeat_last_n != 0 and not neutral


class _Penalties:
    """Counts of the last ``repeat_last_n`` tokens, and what they cost."""

    def __init__(self, params: SamplingParams, prompt_ids: npt.ArrayLike, n_vocab: int) -> None:
        self._params = params
        prompt = np.asarray(prompt_ids)
        last = len(prompt) if params.repeat_last_n < 0 else params.repeat_last_n
        recent = prompt[max(0, len(prompt) - last) :]
        self._recent: deque[int] = deque(recent.tolist())
        self._counts = np.bincount(recent, minlength=n_vocab).astype(np.int32)

    def accept(self, token_id: int) -> None:
        self._recent.append(token_id)
        self._counts[token_id] += 1
        if 0 <= self._params.repeat_last_n < len(self._recent):
            self._counts[self._recent.popleft()] -= 1

    def apply(self, logits: FloatArray) -> None:
        seen = np.flatnonzero(self._counts > 0)
        values = logits[seen].astype(np.float64)
        repeat = self._params.repeat_penalty
        values = np.where(values <= 0, values * repeat, values / repeat)
        cost = self._counts[seen] * self._params.frequency_penalty + self._params.presence_penalty
        logits[seen] = np.minimum(values - np.clip(cost, -_EDIT_LIMIT, _EDIT_LIMIT), _LARGEST)


def _argmax(logits: FloatArray) -> int:
    """The lowest index of the largest logit, which must be finite."""
    if not len(logits):
        raise GenerationError("no token is allowed")
    best = int(logits.argmax())  # a NaN where there is one
    if not np.isfinite(logits[best]):
        none_left = logits[best] == -np.inf
        raise GenerationError("no token is allowed" if none_left else f"the model gave a logit of {logits[best]}")
    return best


def filters(logits: FloatArray, params: SamplingParams) -> Iterator[Indices]:
    """The indices, in no particular order, that each filter that is on keeps of what the one before it kept."""
    for keep, value, is_on in (
        (top_k, params.top_k, params.top_k > 0),
        (typical_p, params.typical_p, params.typical_p < 1),
        (top_p, params.top_p, params.top_p < 1),
        (min_p, params.min_p, params.min_p > 0),
    ):
        if is_on:
            kept = keep(logits, value)
            logits = logits[kept]
            yield kept


def top_k(logits: FloatArray, k: float) -> Indices:
    """Indices of the k largest logits, descending, without -inf."""
    k = int(k)
    rows = len(logits) // _COLUMNS
    floor = np.float32(-_LARGEST)
    if rows > 1 and k <= _COLUMNS // 4:
        # k columns have a maximum of at least the k-th largest of these maxima, so k logits do.
        maxima = logits[: rows * _COLUMNS].reshape(rows, _COLUMNS).max(axis=0)
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


def draw(logits: FloatArray, temperature: float, uniform: float) -> int:
    """The index where the softmax of ``logits / temperature``, summed up in order, passes ``uniform`` in [0, 1)."""
    divisor = np.float32(min(max(temperature, _SMALLEST), _LARGEST))
    weights = np.exp((logits - logits.max()) / divisor)
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

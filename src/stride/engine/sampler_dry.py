"""DRY ("don't repeat yourself"): a token that would continue a repetition costs more, the longer the repetition is.

llama.cpp's rules. Of the last ``dry_penalty_last_n`` tokens, wherever the newest L of them stand once more further back
with L of at least ``dry_allowed_length``, the token that followed there is lowered by
``dry_multiplier * dry_base ** (L - dry_allowed_length)``. No repetition is counted across a sequence breaker.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from stride.ops.api import FloatArray
from stride.types import SamplingParams

Breakers: TypeAlias = Mapping[int, Sequence[tuple[int, ...]]]
"""By the token that begins a breaker, the tokens by which it may go on; none, where the one token is all of it."""
NO_BREAKERS: Breakers = {}

_LOG_OF_LARGEST = 88.7228391  # of float32
_PENALTY_LIMIT = 1e30


class Dry:
    """The repetitions of one sequence. An accepted token costs one pass over the window."""

    def __init__(self, params: SamplingParams, prompt_ids: npt.ArrayLike, n_vocab: int, breakers: Breakers) -> None:
        self._params = params
        self._breakers = breakers
        self._begins_breaker = np.zeros(n_vocab, np.bool_)
        self._begins_breaker[list(breakers)] = True
        self._is_breaker = np.zeros(n_vocab, np.bool_)
        self._is_breaker[[token for token, tails in breakers.items() if () in tails]] = True
        is_steep = params.dry_base > 1.000001
        self._max_exponent = int(_LOG_OF_LARGEST / math.log(params.dry_base)) if is_steep else None
        prompt = np.asarray(prompt_ids, np.int64)
        self._window = len(prompt) if params.dry_penalty_last_n < 0 else params.dry_penalty_last_n
        self._tokens = prompt[max(0, len(prompt) - self._window) :]
        # For each token but the last, how many tokens up to it equal as many at the end of the sequence.
        self._lengths = suffix_lengths(self._tokens.tolist())

    def accept(self, token_id: int) -> None:
        """Append a token that was chosen."""
        before = np.concatenate([np.zeros(1, np.int64), self._lengths])[: len(self._tokens)]
        self._lengths = np.where(self._tokens == token_id, before + 1, 0)
        self._tokens = np.append(self._tokens, token_id)
        if 0 <= self._params.dry_penalty_last_n < len(self._tokens):
            self._tokens, self._lengths = self._tokens[1:], self._lengths[1:]

    def apply(self, logits: FloatArray) -> None:
        """Lower the logits [n_vocab] of tokens that would continue a repetition, in place."""
        allowed = self._params.dry_allowed_length
        n = len(self._tokens)
        longest = self._tokens_since_breaker()
        if n <= allowed or longest < allowed:
            return
        lengths = np.minimum(self._lengths, np.minimum(np.arange(1, n), longest))
        ends = np.flatnonzero(lengths >= allowed)
        token_ids, which = np.unique(self._tokens[ends + 1], return_inverse=True)
        repeated = np.zeros(len(token_ids), np.int64)
        np.maximum.at(repeated, which, lengths[ends])
        exponents = (repeated - allowed).astype(np.float64)
        if self._max_exponent is not None:
            exponents = np.minimum(exponents, self._max_exponent)
        penalties = np.minimum(self._params.dry_multiplier * self._params.dry_base**exponents, _PENALTY_LIMIT)
        punished = ~self._is_breaker[token_ids]
        logits[token_ids[punished]] -= penalties[punished].astype(np.float32)

    def _tokens_since_breaker(self) -> int:
        """How many tokens follow the last breaker: no repetition may be longer."""
        newest_first = self._tokens[::-1]
        for place in np.flatnonzero(self._begins_breaker[newest_first]).tolist():
            tails = self._breakers[int(newest_first[place])]
            after = tuple(newest_first[:place][::-1].tolist())
            fitting = [len(tail) for tail in tails if after[: len(tail)] == tail]
            if fitting:
                return int(place - max(fitting))
        return len(self._tokens)


def suffix_lengths(tokens: Sequence[int]) -> npt.NDArray[np.int64]:
    """For each token but the last, how many tokens up to it equal as many at the end: int64 [len(tokens) - 1].

    The Z algorithm over the reversed sequence, in linear time.
    """
    newest_first = tokens[::-1]
    n = len(newest_first)
    lengths = [0] * n
    left = right = 0  # the furthest stretch known to equal the beginning
    for start in range(1, n):
        length = min(right - start, lengths[start - left]) if start < right else 0
        while start + length < n and newest_first[length] == newest_first[start + length]:
            length += 1
        lengths[start] = length
        if start + length > right:
            left, right = start, start + length
    return np.array(lengths[:0:-1], np.int64)

"""A text's vector from the hidden states of its tokens."""

from __future__ import annotations

import numpy as np

from stride.errors import GenerationError
from stride.ops.api import FloatArray
from stride.types import Pooling


class Pool:
    """Takes a prompt's hidden states piece by piece, in order, and keeps one vector of them.

    Args:
        n_tokens: of the prompt.
    """

    def __init__(self, pooling: Pooling, n_tokens: int) -> None:
        self._pooling = pooling
        self._n_tokens = n_tokens
        self._sum = np.zeros(0)  # float64 [n_embd], once there is a state
        self._n_added = 0

    def n_wanted(self, start: int, end: int) -> int:
        """Of how many of the last of tokens start .. end - 1 the states are wanted."""
        match self._pooling:
            case "mean":
                return end - start
            case "last":
                return int(end == self._n_tokens)
            case "cls":  # the first, and those after it that come along
                return end - start if start == 0 else 0

    def add(self, states: FloatArray) -> None:
        """Take the states [n, n_embd] that were wanted of the next tokens."""
        if len(states) == 0:
            return
        wanted = states[:1] if self._pooling == "cls" else states
        total = wanted.sum(axis=0, dtype=np.float64)
        self._sum = self._sum + total if self._n_added else total
        self._n_added += len(wanted)

    def vector(self) -> FloatArray:
        """float32 [n_embd]: the mean of what was kept.

        Raises:
            GenerationError: it is not finite.
        """
        mean = (self._sum / self._n_added).astype(np.float32)
        if not np.isfinite(mean).all():
            raise GenerationError("the model's hidden states are not finite")
        return mean

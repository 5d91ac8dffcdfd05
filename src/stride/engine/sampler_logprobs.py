"""Log probabilities of tokens, as the model gave them: before bias, penalties, mask and filters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stride.engine.sampler_filters import top_k
from stride.errors import GenerationError
from stride.ops.api import FloatArray


@dataclass(frozen=True, slots=True)
class Logprobs:
    """The natural logarithm of a token's probability, and the likeliest tokens' ids with theirs, likeliest first."""

    logprob: float
    top: tuple[tuple[int, float], ...]


def logprobs_of(logits: FloatArray, token_id: int, n_top: int) -> Logprobs:
    """Of one token and of the ``n_top`` likeliest, from float32 ``logits`` [n_vocab]. Sorts the likeliest only.

    Raises:
        GenerationError: the logits hold NaN or +inf.
    """
    largest = logits.max()
    if not np.isfinite(largest):
        raise GenerationError(f"the model gave a logit of {largest}")
    log_total = float(largest) + float(np.log(np.exp(logits - largest).sum(dtype=np.float64)))
    best = top_k(logits, n_top) if n_top else ()
    return Logprobs(float(logits[token_id]) - log_total, tuple((int(i), float(logits[i]) - log_total) for i in best))

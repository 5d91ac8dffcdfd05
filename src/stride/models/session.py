"""One sequence on a cache of its own: for checking, measuring and perplexity, where no engine is needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stride.models.decoder import Decoder
from stride.ops.api import PAGE_TOKENS, Batch, FloatArray, KVType

CHUNK = 512
"""Tokens per step while a long prompt is read, where nobody says another number."""


class Session:
    """Feeds tokens to a decoder, one sequence from position 0 on.

    Args:
        n_ctx: tokens that the cache has room for.
        kind: how keys and values are kept.
        chunk: tokens per step while a long prompt is read.
    """

    def __init__(self, decoder: Decoder, n_ctx: int, kind: KVType = "f16", chunk: int = CHUNK) -> None:
        n_pages = -(-n_ctx // PAGE_TOKENS)
        self._decoder = decoder
        self._chunk = chunk
        self._cache = decoder.new_cache([n_pages] * len(decoder.windows), kind)
        self._tables = (np.arange(n_pages, dtype=np.int32)[None, :],) * len(decoder.windows)
        self.n_tokens = 0

    def feed(self, token_ids: Sequence[int], n_outputs: int = 1) -> FloatArray:
        """Append tokens: float32 [n_outputs, vocabulary], the logits after the last ``n_outputs`` of them."""
        first_output = len(token_ids) - n_outputs
        parts = [
            self._step(token_ids[start : start + self._chunk], max(0, first_output - start))
            for start in range(0, len(token_ids), self._chunk)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def rewind(self, n_tokens: int = 0) -> None:
        """Forget all but the first ``n_tokens`` tokens."""
        self.n_tokens = n_tokens

    def _step(self, token_ids: Sequence[int], first_output: int) -> FloatArray:
        ids = np.asarray(token_ids, np.int32)
        batch = Batch(
            token_ids=ids,
            positions=np.arange(self.n_tokens, self.n_tokens + len(ids), dtype=np.int32),
            row_starts=np.array([0, len(ids)], np.int32),
            page_tables=self._tables,
            outputs=np.arange(first_output, len(ids), dtype=np.int32),
        )
        self.n_tokens += len(ids)
        return self._decoder.forward(batch, self._cache)


def logits(decoder: Decoder, token_ids: Sequence[int], kind: KVType = "f16") -> FloatArray:
    """Logits after every token of one sequence: float32 [n, vocabulary]."""
    return Session(decoder, len(token_ids), kind).feed(token_ids, len(token_ids))

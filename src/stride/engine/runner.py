"""A step's rows become one explicit batch, and the batch becomes what each row asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from stride.engine.kv import PagedCache
from stride.engine.scheduler import Row
from stride.errors import GenerationError
from stride.ops.api import Batch, ByteArray, FloatArray, IntArray, KVType

Cache: TypeAlias = Any
"""A model's keys and values, in whatever form it keeps them; only handed back to ``Model.hidden``."""
Hidden: TypeAlias = Any
"""Tokens' states after the last layer and its norm, in whatever form a model has them; only handed back to it."""


class Model(Protocol):
    """What the engine needs of a model."""

    @property
    def n_vocab(self) -> int: ...

    @property
    def n_embd(self) -> int: ...

    @property
    def windows(self) -> tuple[int | None, ...]:
        """One entry per cache group: how many positions its layers look back, or None for all."""

    def new_cache(self, n_pages: Sequence[int], kind: KVType) -> Cache:
        """Reserve a cache with ``n_pages`` pages in each group."""

    def page_bytes(self, kind: KVType) -> tuple[int, ...]:
        """What a page of each group takes."""

    def read_page(self, cache: Cache, group: int, page: int) -> ByteArray:
        """uint8 [page_bytes of the group]: what a page holds, in the model's own layout."""

    def write_page(self, cache: Cache, group: int, page: int, data: ByteArray) -> None:
        """Make a page hold what `read_page` gave of one of its group."""

    def copy_page(self, cache: Cache, group: int, source: int, target: int) -> None:
        """Make one page of a group hold what another does."""

    def hidden(self, batch: Batch, cache: Cache) -> Hidden:
        """The states of ``batch.outputs``, after writing the batch's keys and values into the cache."""

    def logits(self, hidden: Hidden, rows: IntArray) -> FloatArray:
        """float32 [len(rows), n_vocab]: the logits of some rows of the states."""

    def to_host(self, hidden: Hidden, rows: IntArray) -> FloatArray:
        """float32 [len(rows), n_embd]: some rows of the states as they are."""


def make_batch(rows: Sequence[Row], cache: PagedCache) -> Batch:
    """The rows, one after the other, with their sequences' page tables."""
    lengths = [row.end - row.start for row in rows]
    ends = np.cumsum(lengths, dtype=np.int32)
    return Batch(
        token_ids=np.concatenate([row.request.token_ids[row.start : row.end] for row in rows]),
        positions=np.concatenate([np.arange(row.start, row.end, dtype=np.int32) for row in rows]),
        row_starts=np.concatenate([np.zeros(1, np.int32), ends]),
        page_tables=cache.tables([row.request.slot for row in rows], max(row.end for row in rows)),
        outputs=_last_tokens(ends, rows),
    )


def _last_tokens(ends: IntArray, rows: Sequence[Row]) -> IntArray:
    indices = [end - n for end, row in zip(ends.tolist(), rows, strict=True) for n in range(row.n_outputs, 0, -1)]
    return np.array(indices, np.int32)


class Runner:
    """Runs rows through the model, over one cache; the only one that touches the cache's memory."""

    def __init__(self, model: Model, cache: PagedCache, kv_type: KVType) -> None:
        self._model = model
        self._cache = cache
        self._memory = model.new_cache(cache.n_pages, kv_type)
        self.page_bytes = model.page_bytes(kv_type)

    def run(self, rows: Sequence[Row]) -> list[FloatArray]:
        """For each row its outputs: float32 [n_outputs, n_vocab] logits, or, where its request is to be pooled,
        [n_outputs, n_embd] hidden states.

        Running a row again is harmless: it writes the same values into the same pages.
        """
        copies = self._cache.copies
        while copies:
            self._model.copy_page(self._memory, *copies[0])
            del copies[0]
        batch = make_batch(rows, self._cache)
        hidden = self._model.hidden(batch, self._memory)
        wants_states = [row.request.pool is not None for row in rows]
        is_states = np.repeat(wants_states, [row.n_outputs for row in rows])
        of_logits, of_states = (np.flatnonzero(which).astype(np.int32) for which in (~is_states, is_states))
        logits = self._model.logits(hidden, of_logits)
        _check_shape("logits", logits, len(of_logits), self._model.n_vocab)
        states = self._model.to_host(hidden, of_states)
        _check_shape("states", states, len(of_states), self._model.n_embd)
        outputs, first = [], {False: 0, True: 0}
        for row, is_state in zip(rows, wants_states, strict=True):
            end = first[is_state] + row.n_outputs
            outputs.append((states if is_state else logits)[first[is_state] : end])
            first[is_state] = end
        return outputs

    def read_page(self, group: int, page: int) -> ByteArray:
        """What a page of a group holds."""
        return self._model.read_page(self._memory, group, page)

    def write_page(self, group: int, page: int, data: ByteArray) -> None:
        """Make a page of a group hold what `read_page` gave."""
        self._model.write_page(self._memory, group, page, data)


def _check_shape(name: str, array: FloatArray, *expected: int) -> None:
    if array.shape != expected:
        raise GenerationError(f"the model gave {name} of shape {array.shape} instead of {expected}")

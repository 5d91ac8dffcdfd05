"""A step's rows become one explicit batch, and the batch becomes logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from stride.engine.kv import PagedCache
from stride.engine.scheduler import Row
from stride.errors import GenerationError
from stride.ops.api import Batch, ByteArray, FloatArray, IntArray, KVType

Cache: TypeAlias = Any
"""A model's keys and values, in whatever form it keeps them; only handed back to ``Model.forward``."""


class Model(Protocol):
    """What the engine needs of a model."""

    @property
    def n_vocab(self) -> int: ...

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

    def forward(self, batch: Batch, cache: Cache) -> FloatArray:
        """Logits, float32 [len(batch.outputs), n_vocab], after writing the batch's keys and values into the cache."""


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

    def run(self, rows: Sequence[Row]) -> FloatArray:
        """Logits of the rows' outputs, float32 [outputs, n_vocab], in order of the rows.

        Running a row again is harmless: it writes the same values into the same pages.
        """
        copies = self._cache.copies
        while copies:
            self._model.copy_page(self._memory, *copies[0])
            del copies[0]
        batch = make_batch(rows, self._cache)
        logits = self._model.forward(batch, self._memory)
        expected = (len(batch.outputs), self._model.n_vocab)
        if logits.shape != expected:
            raise GenerationError(f"the model gave logits of shape {logits.shape} instead of {expected}")
        return logits

    def read_page(self, group: int, page: int) -> ByteArray:
        """What a page of a group holds."""
        return self._model.read_page(self._memory, group, page)

    def write_page(self, group: int, page: int, data: ByteArray) -> None:
        """Make a page of a group hold what `read_page` gave."""
        self._model.write_page(self._memory, group, page, data)

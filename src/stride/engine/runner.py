"""A step's rows become one explicit batch, and the batch becomes what each row asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from stride.engine.kv import PagedCache
from stride.engine.scheduler import Row
from stride.errors import GenerationError
from stride.ops.api import Batch, ByteArray, FloatArray, IntArray, KVType

Cache: TypeAlias = Any
"""A model's keys and values, in whatever form it keeps them; only handed back to ``Model.hidden``."""
Hidden: TypeAlias = Any
"""Tokens' states after the last layer, in whatever form a model has them; only handed back to it."""


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

    def states(self, hidden: Hidden, rows: IntArray) -> FloatArray:
        """float32 [len(rows), n_embd]: some rows of the states, after the output norm."""

    def residual(self, hidden: Hidden, rows: IntArray) -> FloatArray:
        """float32 [len(rows), n_embd]: some rows of the states, before the output norm."""

    @property
    def draft_windows(self) -> tuple[int | None, ...]:
        """One entry per draft head: how many positions it looks back, or None for all."""

    def draft(self, index: int, states: FloatArray, batch: Batch, cache: Cache) -> tuple[FloatArray, FloatArray]:
        """(float32 [n, n_embd], [outputs, n_vocab]): a draft head's states and logits; see `Decoder.draft`."""


@dataclass(frozen=True, slots=True)
class Computed:
    """What a row asked for.

    Attributes:
        outputs: float32 [n_outputs, n_vocab] logits, or, where the request is to be pooled, [n_outputs, n_embd] states
            after the output norm.
        states: float32 [n_states, n_embd], those before it, where drafting starts.
    """

    outputs: FloatArray
    states: FloatArray


def make_batch(rows: Sequence[Row], cache: PagedCache, ahead: int = 0) -> Batch:
    """The rows, one after the other, with their sequences' page tables.

    ``ahead``: at each position stands the token that comes so many positions later, as draft heads read them.
    """
    lengths = [row.end - row.start for row in rows]
    ends = np.cumsum(lengths, dtype=np.int32)
    return Batch(
        token_ids=np.concatenate([row.request.token_ids[row.start + ahead : row.end + ahead] for row in rows]),
        positions=np.concatenate([np.arange(row.start, row.end, dtype=np.int32) for row in rows]),
        row_starts=np.concatenate([np.zeros(1, np.int32), ends]),
        page_tables=cache.tables([row.request.slot for row in rows], max(row.end for row in rows)),
        outputs=_last_of_each(ends, [_n_wanted(row) for row in rows]),
    )


def _n_wanted(row: Row) -> int:
    """Of how many of a row's last tokens anything is wanted."""
    return max(row.n_outputs, row.n_states)


def _last_of_each(ends: IntArray, counts: Sequence[int]) -> IntArray:
    """Indices of the last few of each of several stretches, one after the other."""
    return np.concatenate([np.arange(end - n, end, dtype=np.int32) for end, n in zip(ends, counts, strict=True)])


class Runner:
    """Runs rows through the model, over one cache; the only one that touches the cache's memory."""

    def __init__(self, model: Model, cache: PagedCache, kv_type: KVType) -> None:
        self._model = model
        self._cache = cache
        self._memory = model.new_cache(cache.n_pages, kv_type)
        self.page_bytes = model.page_bytes(kv_type)

    @property
    def draft_windows(self) -> tuple[int | None, ...]:
        """The model's."""
        return self._model.draft_windows

    def run(self, rows: Sequence[Row]) -> list[Computed]:
        """What each row asks for. Running a row again is harmless: it writes the same values into the same pages."""
        copies = self._cache.copies
        while copies:
            self._model.copy_page(self._memory, *copies[0])
            del copies[0]
        batch = make_batch(rows, self._cache)
        hidden = self._model.hidden(batch, self._memory)
        ends = np.cumsum([_n_wanted(row) for row in rows])  # of the rows in what is wanted of each

        def of_rows(
            counts: Sequence[int], read: Callable[[Hidden, IntArray], FloatArray], width: int
        ) -> list[FloatArray]:
            """What is read of the last few tokens of each row."""
            if not any(counts):
                return [np.empty((0, width), np.float32)] * len(rows)
            read_rows = read(hidden, _last_of_each(ends, counts))
            if read_rows.shape != (sum(counts), width):
                expected = (sum(counts), width)
                raise GenerationError(f"the model gave an array of shape {read_rows.shape} instead of {expected}")
            return np.split(read_rows, np.cumsum(counts)[:-1])

        pooled = [row.request.pool is not None for row in rows]
        n_logits = [0 if is_pooled else row.n_outputs for row, is_pooled in zip(rows, pooled, strict=True)]
        n_pooled = [row.n_outputs if is_pooled else 0 for row, is_pooled in zip(rows, pooled, strict=True)]
        logits = of_rows(n_logits, self._model.logits, self._model.n_vocab)
        states = of_rows(n_pooled, self._model.states, self._model.n_embd)
        residual = of_rows([row.n_states for row in rows], self._model.residual, self._model.n_embd)
        return [Computed(states[i] if is_pooled else logits[i], residual[i]) for i, is_pooled in enumerate(pooled)]

    def draft(self, head: int, rows: Sequence[Row], states: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Run a draft head over the positions of rows, of which it wants outputs as they say.

        Args:
            head: which one; at each position it reads the token that comes ``head + 1`` later.
            states: float32 [positions, n_embd], what the trunk, or the head before, made of each.

        Returns:
            (float32 [positions, n_embd] the head's own states, [outputs, n_vocab] logits).
        """
        return self._model.draft(head, states, make_batch(rows, self._cache, ahead=head + 1), self._memory)

    def read_page(self, group: int, page: int) -> ByteArray:
        """What a page of a group holds."""
        return self._model.read_page(self._memory, group, page)

    def write_page(self, group: int, page: int, data: ByteArray) -> None:
        """Make a page of a group hold what `read_page` gave."""
        self._model.write_page(self._memory, group, page, data)

"""Drafts by a smaller model of the same vocabulary, which reads the same text into a cache of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

from stride.engine.config import EngineConfig
from stride.engine.kv import PagedCache
from stride.engine.request import Request
from stride.engine.runner import Model, Runner
from stride.engine.scheduler import Row
from stride.ops.api import FloatArray


class ModelDrafter:
    """A `Drafter` of a model: it reads what has come since, then goes on one token at a time, all sequences together.

    A prompt is read beside the one that it drafts for, ``chunk`` tokens of all prompts at a time; what the other has
    in its prefix cache, too. Until it has come to the end of a sequence, that has no drafts.
    """

    n_most = 16
    reach = 0
    probe_every = 32

    def __init__(self, model: Model, config: EngineConfig) -> None:
        self._chunk = config.chunk
        self._cache = PagedCache(model.windows, config.n_parallel, config.n_ctx, config.chunk + self.n_most)
        self._runner = Runner(model, self._cache, config.kv_type)
        self._n_read: WeakKeyDictionary[Request, int] = WeakKeyDictionary()
        """Tokens of each sequence that are in the cache, of which none is wrong."""

    def computed(self, row: Row, states: FloatArray) -> None:
        """See `Drafter`."""

    def propose(self, lengths: Mapping[Request, int]) -> None:
        """See `Drafter`."""
        for request in lengths:
            if request not in self._n_read:  # whoever had its place before is gone
                for group in self._cache.groups:
                    group.clear(request.slot)
            self._n_read[request] = min(self._n_read.get(request, 0), request.n_computed)
        rows, budget = [], self._chunk
        for request, length in lengths.items():
            start = self._n_read[request]
            end = min(request.n_tokens, start + budget)
            if end > start and (length or end - start >= self.probe_every):
                self._cache.extend(request.slot, start, end + length)  # with what it is to read of its own
                rows.append(Row(request, start, end, n_outputs=int(length > 0 and end == request.n_tokens)))
                budget -= end - start
        asked = self._run(rows)
        while asked := [request for request in asked if lengths[request] > request.n_drafts]:
            ends = [request.n_tokens + request.n_drafts for request in asked]
            asked = self._run([Row(one, end - 1, end, n_outputs=1) for one, end in zip(asked, ends, strict=True)])

    def _run(self, rows: Sequence[Row]) -> list[Request]:
        """Read on; the sequences for which it has drafted."""
        asked: list[Request] = []
        for row, computed in zip(rows, self._runner.run(rows) if rows else (), strict=True):
            self._n_read[row.request] = row.end
            if row.n_outputs:
                row.request.add_draft(row.request.sampler.guess(computed.outputs[0], row.request.n_drafts))
                asked.append(row.request)
        return asked

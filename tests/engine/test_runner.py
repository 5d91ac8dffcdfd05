"""Rows become a batch."""

from __future__ import annotations

import numpy as np
import pytest

from stride.engine import Request
from stride.engine.kv import PagedCache
from stride.engine.runner import Runner, make_batch
from stride.engine.scheduler import Row
from stride.errors import GenerationError
from stride.types import SamplingParams


def rows(cache: PagedCache) -> list[Row]:
    result = []
    for prompt, start, end, n_outputs in ((range(40), 38, 40, 1), (range(50, 60), 0, 3, 0), (range(60, 90), 0, 30, 2)):
        request = Request(list(prompt), SamplingParams(), deliver=lambda output: None)
        request.prepare(n_ctx=100, n_vocab=97)
        request.slot = cache.open()
        if start:
            cache.extend(request.slot, 0, start)
        cache.extend(request.slot, start, end)
        result.append(Row(request, start, end, n_outputs))
    return result


def test_a_batch_says_everything() -> None:
    cache = PagedCache((None, 4), 3, 100, 64)
    batch = make_batch(rows(cache), cache)
    assert batch.token_ids.tolist() == [38, 39, 50, 51, 52, *range(60, 90)]
    assert batch.positions.tolist() == [38, 39, 0, 1, 2, *range(30)]
    assert batch.row_starts.tolist() == [0, 2, 5, 35]
    assert batch.outputs.tolist() == [1, 33, 34]  # the last token of the first row, the last two of the third
    full, window = batch.page_tables
    assert full.tolist() == [[0, 1], [2, -1], [3, -1]]
    assert window.tolist() == [[-1, 1], [0, -1], [2, -1]]  # the first page fell behind the window, and was used again
    for array in (batch.token_ids, batch.positions, batch.row_starts, batch.outputs, full, window):
        assert array.dtype == np.int32


def test_a_batch_keeps_its_tables_when_the_cache_moves_on() -> None:
    cache = PagedCache((None,), 3, 100, 64)
    batch_rows = rows(cache)
    batch = make_batch(batch_rows, cache)
    cache.close(batch_rows[0].request.slot)
    assert batch.page_tables[0][0].tolist() == [0, 1]


def test_logits_of_a_wrong_shape_are_refused(new_model: type) -> None:
    model = new_model()
    cache = PagedCache(model.windows, 3, 100, 64)
    model.logits = lambda hidden, rows: np.zeros((7, 97), np.float32)
    with pytest.raises(GenerationError, match=r"shape \(7, 97\) instead of \(3, 97\)"):
        Runner(model, cache, "f16").run(rows(cache))

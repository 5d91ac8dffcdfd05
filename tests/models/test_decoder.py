"""The logits that are asked for are those of a run in which all are."""

from pathlib import Path

import numpy as np
import pytest

from stride import ops
from stride.errors import UnsupportedError
from stride.models import load_model
from stride.ops.api import PAGE_TOKENS, Batch

GOLDEN = Path(__file__).parents[1] / "golden"
LENGTHS = (40, 1, 7)
"""Tokens of the batch's rows."""


def batch(vocabulary: int, n_windows: int, outputs: list[int]) -> Batch:
    n, pages = sum(LENGTHS), -(-max(LENGTHS) // PAGE_TOKENS)
    table = np.arange(len(LENGTHS) * pages, dtype=np.int32).reshape(len(LENGTHS), pages)
    return Batch(
        token_ids=np.random.default_rng(3).integers(0, vocabulary, n).astype(np.int32),
        positions=np.concatenate([np.arange(length, dtype=np.int32) for length in LENGTHS]),
        row_starts=np.cumsum([0, *LENGTHS]).astype(np.int32),
        page_tables=(table,) * n_windows,
        outputs=np.array(outputs, np.int32),
    )


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
@pytest.mark.parametrize("name", ["step35-clamps", "llama-q4_k-q6_k"])
@pytest.mark.parametrize("outputs", [[], [0], [39, 40, 47], [47, 3], list(range(48))], ids=len)
def test_some_tokens_logits_are_those_of_all(outputs: list[int], name: str, backend: str) -> None:
    try:
        loaded = ops.load(backend)
    except UnsupportedError as error:
        pytest.skip(str(error))
    model = load_model(GOLDEN / f"{name}.gguf", loaded)
    everything, wanted = (
        batch(model.n_vocab, len(model.windows), which) for which in (list(range(sum(LENGTHS))), outputs)
    )
    n_pages = [everything.page_tables[0].size] * len(model.windows)
    _, all_logits = model.forward_with_hidden(everything, model.new_cache(n_pages, "f32"))
    found = model.forward(wanted, model.new_cache(n_pages, "f32"))
    assert found.shape == (len(outputs), model.n_vocab)
    if backend == "cpu":  # whose results do not depend on what else is computed
        np.testing.assert_array_equal(found, all_logits[outputs])
    else:
        np.testing.assert_allclose(found, all_logits[outputs], rtol=1e-4, atol=1e-4)

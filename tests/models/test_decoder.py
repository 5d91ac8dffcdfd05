"""The logits that are asked for are those of a run in which all are."""

from dataclasses import replace
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


@pytest.mark.parametrize("name", ["step35-clamps", "llama-q4_k-q6_k"])
def test_pages_of_a_group_are_moved_in_all_its_layers(name: str) -> None:
    """A last token computed over copied pages, in another cache too, has the same logits."""
    model = load_model(GOLDEN / f"{name}.gguf", ops.load("auto"))
    groups = range(len(model.windows))
    prompt = batch(model.n_vocab, len(groups), [])
    last = replace(
        prompt,
        token_ids=prompt.token_ids[:1],
        positions=np.array([40], np.int32),
        row_starts=np.array([0, 1], np.int32),
        outputs=np.array([0], np.int32),
    )
    cache, other = (model.new_cache([9] * len(groups), "f16") for _ in range(2))
    model.forward(prompt, cache)
    moved = np.array([[7, 8]], np.int32)
    for group in groups:
        for source, target in zip((0, 1), moved[0].tolist(), strict=True):
            data = model.read_page(cache, group, source)
            assert (data.dtype, data.shape) == (np.uint8, (model.page_bytes("f16")[group],))
            model.copy_page(cache, group, source, target)
            model.write_page(other, group, target, data)
    expected = model.forward(replace(last, page_tables=(np.array([[0, 1]], np.int32),) * len(groups)), cache)
    for where in (cache, other):
        found = model.forward(replace(last, page_tables=(moved,) * len(groups)), where)
        np.testing.assert_array_equal(found, expected)

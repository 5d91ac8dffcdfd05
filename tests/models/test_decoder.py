"""Logits do not depend on which of them are asked for, nor on how many tokens a step has."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from stride import ops
from stride.errors import UnsupportedError
from stride.models import load_model
from stride.models.session import Session
from stride.ops.api import PAGE_TOKENS, Batch, KVType

GOLDEN = Path(__file__).parents[1] / "golden"
LENGTHS = (40, 1, 7)
"""Tokens of the batch's rows."""
try:
    ISAS = import_module("stride._cpu").isas()
except ImportError:
    ISAS = []


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
    all_logits = model.forward(everything, model.new_cache(n_pages, "f32"))
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


QUANTIZED = ["step35-iq4_xs", "step35-q4_k-q6_k", "step35-q5_k-q4_0", "qwen2-q4_k-q8_0", "step35-f16-bf16"]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize("name", QUANTIZED)
def test_a_row_of_n_tokens_has_the_logits_of_n_steps(
    name: str, kind: KVType, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What makes drafts exact: to the bit, on every instruction set."""
    monkeypatch.setenv("STRIDE_ISA", isa)
    model = load_model(GOLDEN / f"{name}.gguf", ops.load("cpu"))
    chooser = np.random.default_rng(5)
    prompt, tokens = (chooser.integers(0, model.n_vocab, n).tolist() for n in (30, 8))
    try:
        session = Session(model, 64, kind)
    except UnsupportedError as error:
        pytest.skip(str(error))
    session.feed(prompt)
    alone = np.concatenate([session.feed([token]) for token in tokens])
    for n in (2, 3, 4, 8):
        session.rewind(len(prompt))
        together = [session.feed(tokens[start : start + n], min(n, 8 - start)) for start in range(0, 8, n)]
        np.testing.assert_array_equal(np.concatenate(together), alone)

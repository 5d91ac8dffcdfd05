"""Logits against llama.cpp's, on the models of tests/golden (scripts/make_golden.py made both)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stride import ops
from stride.bench.statistics import divergences
from stride.errors import UnsupportedError
from stride.models import Decoder, Session, load_model, logits
from stride.ops.api import PAGE_TOKENS, Batch, Routing
from stride.ops.numpy import NumpyBackend

GOLDEN = Path(__file__).parents[1] / "golden"
CASES: dict[str, dict[str, Any]] = {
    case["name"]: case for case in json.loads((GOLDEN / "index.json").read_text())["cases"]
}
PLAIN = [name for name, case in CASES.items() if "llama_kl" not in case]
QUANTIZED = [name for name, case in CASES.items() if "llama_kl" in case]
TOLERANCE = {"step35-rare-types": 2.0}
"""Types without kernels of their own are rounded once more, to Q8_0, when they are loaded."""


def backends() -> list[str]:
    try:
        ops.load("cpu")
    except UnsupportedError:
        return ["numpy"]
    return ["numpy", "cpu"]


@cache
def decoder(name: str, backend: str) -> Decoder:
    return load_model(GOLDEN / CASES[name]["file"], ops.load(backend))


@cache
def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


@cache
def all_logits(name: str, backend: str) -> np.ndarray:
    return logits(decoder(name, backend), golden(name)["tokens"].tolist(), kind="f32")


class NumpyWithMargins(NumpyBackend):
    """Notes for each router and token how far the last expert chosen is ahead of the first one left out."""

    def __init__(self) -> None:
        super().__init__()
        self.margins: list[np.ndarray] = []

    def route(self, x: Any, router: Any, bias: Any, routing: Routing) -> Any:
        scores = 1 / (1 + np.exp(-x @ router.matrix().T)) + (0 if bias is None else bias)
        ranked = np.sort(scores, axis=-1)[:, ::-1]
        self.margins.append(ranked[:, routing.top_k - 1] - ranked[:, routing.top_k])
        return super().route(x, router, bias, routing)


def assert_same(found: np.ndarray, expected: np.ndarray, largest: float = 5e-3) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= largest
    assert divergences(expected, found).mean() < 1e-6


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("name", PLAIN)
def test_plain_weights_give_llama_cpps_logits(name: str, backend: str) -> None:
    arrays = golden(name)
    assert_same(all_logits(name, backend)[arrays["positions"]], arrays["logits"])


@pytest.mark.parametrize("name", QUANTIZED)
def test_numpy_gives_the_logits_of_the_dequantised_weights(name: str) -> None:
    arrays = golden(name)
    assert_same(all_logits(name, "numpy")[arrays["positions"]], arrays["exact"], largest=1e-3)


@pytest.mark.skipif("cpu" not in backends(), reason="the C++ extension is not installed")
@pytest.mark.parametrize("name", QUANTIZED)
def test_the_cpu_backend_loses_no_more_to_quantised_arithmetic_than_llama_cpp(name: str) -> None:
    numpy = NumpyWithMargins()
    exact = logits(load_model(GOLDEN / CASES[name]["file"], numpy), golden(name)["tokens"].tolist(), kind="f32")
    # Where two experts are nearly tied, any rounding may swap them: what follows says nothing of the arithmetic.
    clear = np.min(numpy.margins, axis=0, initial=1.0) > 0.02
    assert clear.mean() > 0.8
    found = divergences(exact, all_logits(name, "cpu"))[clear].mean()
    assert found <= TOLERANCE.get(name, 1.05) * golden(name)["llama_kl"][clear].mean()


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("name", ["step35-clamps", "step35-long"])
@pytest.mark.parametrize("chunk", [1, 7, 8, 9])
def test_pieces_give_the_same_as_the_whole(name: str, backend: str, chunk: int) -> None:
    """Window edges: the window of step35-clamps is 8."""
    tokens, whole = golden(name)["tokens"].tolist(), all_logits(name, backend)
    session = Session(decoder(name, backend), len(tokens), kind="f32")
    pieces = [tokens[start : start + chunk] for start in range(0, len(tokens), chunk)]
    assert_same(np.concatenate([session.feed(piece, len(piece)) for piece in pieces]), whole)


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("name", ["step35-one-draft", "step35-three-drafts"])
def test_draft_heads_give_llama_cpps_logits(name: str, backend: str) -> None:
    arrays, model = golden(name), decoder(name, backend)
    tokens = arrays["tokens"]
    n_pages = -(-len(tokens) // PAGE_TOKENS)
    store = model.new_cache([n_pages] * len(model.windows), "f32")

    def batch(first: int, n: int) -> Batch:
        return Batch(
            token_ids=tokens[first : first + n],
            positions=np.arange(n, dtype=np.int32),
            row_starts=np.array([0, n], np.int32),
            page_tables=(np.arange(n_pages, dtype=np.int32)[None, :],) * len(model.windows),
            outputs=np.arange(n, dtype=np.int32),
        )

    hidden = model.hidden(batch(0, len(tokens)), store)
    state = model.residual(hidden, np.arange(len(tokens), dtype=np.int32))
    for head in range(len(model.draft_heads)):
        n = len(tokens) - 1 - head
        state, drafted = model.draft(head, state[:n], batch(1 + head, n), store)
        assert_same(drafted, arrays[f"draft_{head}"])


def test_declared_draft_layers_may_be_missing() -> None:
    assert decoder("step35-drafts-elsewhere", "numpy").draft_heads == ()

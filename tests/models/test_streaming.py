"""Models whose experts stay on disk: logits are those of the resident run, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stride.errors import ModelFileError
from stride.gguf import open_gguf
from stride.models import Decoder, Session, check_model, load_model
from stride.models.load import routed_experts
from stride.ops.expert_cache import least_slots

pytest.importorskip("stride._cpu", reason="the C++ extension is not built")
CpuBackend = pytest.importorskip("stride.ops.cpu").CpuBackend
packed = pytest.importorskip("stride.ops.packed")

GOLDEN = Path(__file__).parents[1] / "golden"
TYPES_WITHOUT_KERNELS = "step35-rare-types"
FILES = [
    case["file"]
    for case in json.loads((GOLDEN / "index.json").read_text())["cases"]
    if case["name"].startswith("step35") and case["name"] != TYPES_WITHOUT_KERNELS
]


def streamed(path: Path, n_slots: int, model: Sequence[Path] = ()) -> tuple[Decoder, Any]:
    """A decoder with memory for so many experts, or the least; and its backend."""
    backend = CpuBackend(2, model=model)
    with open_gguf(path) as file:
        config = check_model(file)
        layers = routed_experts(file, config)
        top_k = config.layers[-1].ffn.top_k
        n_slots = max(n_slots, least_slots(top_k))
        backend.stream_experts(layers, n_slots * backend.expert_bytes(layers), top_k)
        return load_model(file, backend), backend


def run(decoder: Decoder, tokens: list[int]) -> np.ndarray:
    """A prompt in one step, then token by token."""
    session = Session(decoder, len(tokens))
    parts = [session.feed(tokens[:-5], len(tokens) - 5), *(session.feed([token]) for token in tokens[-5:])]
    return np.concatenate(parts)


@pytest.mark.parametrize("name", FILES)
def test_logits_are_the_resident_ones(name: str) -> None:
    path = GOLDEN / name
    resident = load_model(path, CpuBackend(2))
    tokens = np.random.default_rng(3).integers(0, resident.n_vocab, 70).tolist()
    expected = run(resident, tokens)
    n_experts = resident.config.layers[-1].ffn.n_experts
    for n_slots in (0, n_experts, 1000):
        decoder, backend = streamed(path, n_slots)
        np.testing.assert_array_equal(run(decoder, tokens), expected)
        assert backend.stream.counts.misses > 0


@pytest.mark.parametrize("name", ["step35-iq4_xs", "step35-rare-types"])
def test_a_packed_copy_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    """Also of types that have no kernels, which can be streamed from their packed copy only."""
    path = tmp_path / "model.gguf"
    shutil.copy(GOLDEN / f"{name}.gguf", path)
    packer = CpuBackend(2)
    with open_gguf(path) as file:
        tensors = [tensor for tensor in file.tensors.values() if len(tensor.shape) > 1]
        n_bytes = sum(map(packer.packed_bytes, tensors))
        packed.write(file.paths, tensors, packer.weight, n_bytes, lambda done: None)
    resident = load_model(path, CpuBackend(2))
    tokens = list(range(30))
    decoder, backend = streamed(path, 0, model=[path])
    assert all(place.packed for layer in backend.stream.layers for place in layer)
    np.testing.assert_array_equal(run(decoder, tokens), run(resident, tokens))


def test_a_truncated_file_fails_while_it_runs_and_recovers(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    shutil.copy(GOLDEN / "step35-iq4_xs.gguf", path)
    decoder, backend = streamed(path, 0)
    tokens = list(range(20))
    expected = run(load_model(path, CpuBackend(2)), tokens)
    whole = path.read_bytes()
    with open_gguf(path) as file:
        offset = min(tensor.offset for layer in routed_experts(file, check_model(file)) for tensor in layer)
    os.truncate(path, offset)
    with pytest.raises(ModelFileError, match=r"model\.gguf: tensor blk\.\d+\.ffn_\w+_exps\.weight: at byte \d+"):
        run(decoder, tokens)
    with open(path, "r+b") as out:
        out.write(whole)
    np.testing.assert_array_equal(run(decoder, tokens), expected)
    assert backend.stream.counts.n_slots >= 2

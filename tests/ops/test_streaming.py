"""Experts streamed from disk: bit for bit what they give in memory, and never a byte that has not arrived."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stride.errors import InsufficientMemoryError, ModelFileError, UnsupportedError
from stride.experts.policy import DEFAULT, PolicyChoice
from stride.gguf import QuantType, Tensor
from stride.ops import disk, pressure
from stride.ops.api import GatedFFN
from stride.ops.numpy import NumpyBackend

_cpu = pytest.importorskip("stride._cpu", reason="the C++ extension is not built")
CpuBackend = pytest.importorskip("stride.ops.cpu").CpuBackend

EXPERTS, TOP_K, DIM, WIDTH = 12, 3, 256, 256
KINDS = [
    QuantType.F32,
    QuantType.F16,
    QuantType.BF16,
    QuantType.Q4_0,
    QuantType.IQ4_NL,
    QuantType.IQ4_XS,
    QuantType.Q4_K,
    QuantType.Q5_K,
    QuantType.Q6_K,
    QuantType.Q8_0,
]


@pytest.fixture(autouse=True)
def many_small_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every matrix comes in several pieces; and no time goes into probing the disk."""
    probe = disk.probe

    def quick(path: Any, first: int, n_bytes: int) -> disk.DiskPlan:
        return replace(probe(path, first, n_bytes), block_bytes=8192, n_readers=3)

    monkeypatch.setattr(disk, "SECONDS", 0.0)
    monkeypatch.setattr(disk, "probe", quick)


def poison(stream: Any) -> None:
    """Every slot is filled with NaN patterns, now and whenever it is about to be read into."""
    slots, enter = stream._reader.slots, stream.cache.enter

    def poisoning(layer: int, wave: Any, pinned: Any) -> Any:
        on_their_way = enter(layer, wave, pinned)
        slots[wave.slots] = 0xFF
        return on_their_way

    slots[:] = 0xFF
    stream.cache.enter = poisoning


class Model:
    """Layers of experts, resident and streamed, on the same files."""

    def __init__(self, tensors: Sequence[tuple[Tensor, Tensor, Tensor]], shared: Sequence[Tensor]) -> None:
        self.tensors, self.shared = tensors, shared
        self.resident = CpuBackend(2)
        self.layers = [GatedFFN(*map(self.resident.weight, layer), 0.7) for layer in tensors]
        self.also = GatedFFN(*map(self.resident.weight, shared), 1.5)
        self.slot_bytes = self.resident.expert_bytes(tensors)

    def stream(
        self, n_slots: int, choice: PolicyChoice = DEFAULT, available: Callable[[], int] = lambda: 1 << 40
    ) -> Any:
        backend = CpuBackend(2)
        backend.stream_experts(self.tensors, n_slots * self.slot_bytes, TOP_K, choice, available)
        poison(backend.stream)
        return backend

    def compute(self, backend: Any, layer: int, x: np.ndarray, ids: np.ndarray, scales: np.ndarray) -> np.ndarray:
        routed = GatedFFN(*map(backend.weight, self.tensors[layer]), 0.7)
        return np.array(backend.experts(x, ids, scales, routed, self.also))

    def expected(self, layer: int, x: np.ndarray, ids: np.ndarray, scales: np.ndarray) -> np.ndarray:
        return np.array(self.resident.experts(x, ids, scales, self.layers[layer], self.also))


MakeModel = Callable[..., Model]


@pytest.fixture
def make_model(make_tensor: Any) -> MakeModel:
    def make(
        kind: QuantType = QuantType.Q4_K, down: QuantType | None = None, layers: int = 2, width: int = WIDTH
    ) -> Model:
        shapes = ((EXPERTS, width, DIM), (EXPERTS, width, DIM), (EXPERTS, DIM, width))
        kinds = (kind, kind, kind if down is None else down)
        tensors = [tuple(make_tensor(k, *shape) for k, shape in zip(kinds, shapes, strict=True)) for _ in range(layers)]
        shared = [make_tensor(QuantType.Q8_0, *shape) for shape in ((64, DIM), (64, DIM), (DIM, 64))]
        return Model(tensors, shared)

    return make


def a_step(rng: np.random.Generator, n: int, top_k: int = TOP_K) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ids = np.argsort(rng.random((n, EXPERTS)), axis=1)[:, :top_k].astype(np.int32)
    return (
        rng.standard_normal((n, DIM)).astype(np.float32),
        ids,
        rng.random((n, top_k)).astype(np.float32),
    )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_type_gives_the_same_bits(kind: QuantType, make_model: MakeModel, rng: np.random.Generator) -> None:
    width = 80 if kind in (QuantType.F32, QuantType.F16, QuantType.BF16) else WIDTH  # rows that are no whole tile
    model = make_model(kind, width=width)
    backend = model.stream(5)
    for n in (1, 1, 20, 2):
        for layer in range(2):
            step = a_step(rng, n)
            np.testing.assert_array_equal(model.compute(backend, layer, *step), model.expected(layer, *step))


@pytest.mark.parametrize("n_slots", [3, 4, 5, 8, 13, 24, 100])
@pytest.mark.parametrize("choice", [PolicyChoice("lru"), PolicyChoice("random"), PolicyChoice("s3-fifo")], ids=str)
def test_any_budget_gives_the_same_bits(
    n_slots: int, choice: PolicyChoice, make_model: MakeModel, rng: np.random.Generator
) -> None:
    model = make_model()
    backend = model.stream(n_slots, choice)
    for n in (1, 2, 8, 1, 70, 3, 1):
        for layer in range(2):
            step = a_step(rng, n)
            np.testing.assert_array_equal(model.compute(backend, layer, *step), model.expected(layer, *step))
    counts = backend.stream.counts
    assert counts.n_slots <= min(n_slots, 2 * EXPERTS)
    assert counts.misses > 0
    assert counts.hits > 0 or n_slots < 8


def test_a_long_prompt_reads_no_expert_twice(make_model: MakeModel, rng: np.random.Generator) -> None:
    model = make_model(layers=1)
    for n_slots in (3, 5, 12):
        backend = model.stream(n_slots)
        step = a_step(rng, 300)
        np.testing.assert_array_equal(model.compute(backend, 0, *step), model.expected(0, *step))
        assert backend.stream.counts.misses == EXPERTS


def test_what_is_held_is_not_read_again(make_model: MakeModel, rng: np.random.Generator) -> None:
    model = make_model(layers=2)
    backend = model.stream(24)
    steps = [a_step(rng, 40) for _ in range(2)]
    for layer in range(2):
        model.compute(backend, layer, *steps[layer])
    before = backend.stream.counts
    for layer in range(2):
        np.testing.assert_array_equal(
            model.compute(backend, layer, *steps[layer]), model.expected(layer, *steps[layer])
        )
    after = backend.stream.counts
    assert after.read_bytes == before.read_bytes
    assert after.misses == before.misses
    assert after.hits - before.hits == sum(len(np.unique(ids)) for _, ids, _ in steps)


def test_forced_eviction_at_every_step(make_model: MakeModel, rng: np.random.Generator) -> None:
    model = make_model()
    backend = model.stream(12)
    for _ in range(6):
        for layer in range(2):
            step = a_step(rng, 2)
            np.testing.assert_array_equal(model.compute(backend, layer, *step), model.expected(layer, *step))
            for table_layer, table in enumerate(backend.stream.cache.tables):
                for expert in np.flatnonzero(table >= 0).tolist():
                    backend.stream.cache.forget(table_layer, expert)
    assert backend.stream.counts.hits == 0


def expect(model: Model, backend: Any, layer: int, experts: list[int]) -> None:
    routed = GatedFFN(*map(backend.weight, model.tensors[layer]), 0.7)
    backend.stream.expect(routed, np.array([experts], np.int32))


def test_expected_experts_give_the_same_bits(make_model: MakeModel, rng: np.random.Generator) -> None:
    """Right and wrong ones, and ones that are overtaken by others before they are used."""
    model = make_model()
    backend = model.stream(16)
    step = a_step(rng, 1)
    for i in range(40):
        layer, step_after = i % 2, a_step(rng, 1)
        guess = step_after[1].ravel().tolist() if i % 3 else rng.permutation(EXPERTS)[:3].tolist()
        expect(model, backend, 1 - layer, guess)
        np.testing.assert_array_equal(model.compute(backend, layer, *step), model.expected(layer, *step))
        step = step_after
    counts = backend.stream.counts
    assert 0 < counts.came_true < counts.expected


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_sequence_of_steps_gives_the_same_bits(make_model: MakeModel, data: st.DataObject) -> None:
    model = make_model(QuantType.Q8_0)
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    choice = PolicyChoice(data.draw(st.sampled_from(["lru", "lfu", "s3-fifo", "random"])), data.draw(st.booleans()))
    backend = model.stream(data.draw(st.integers(7 if choice.per_layer else 3, 26)), choice)
    for _ in range(data.draw(st.integers(1, 8))):
        layer = data.draw(st.integers(0, 1))
        if data.draw(st.booleans()):
            guess = data.draw(st.lists(st.integers(0, EXPERTS - 1), min_size=1, unique=True))
            expect(model, backend, data.draw(st.integers(0, 1)), guess)
        step = a_step(rng, data.draw(st.sampled_from([1, 2, 5, 40])))
        np.testing.assert_array_equal(model.compute(backend, layer, *step), model.expected(layer, *step))


def test_the_resident_oracle_agrees(make_model: MakeModel, rng: np.random.Generator) -> None:
    model = make_model(QuantType.F32, layers=1, width=64)
    oracle = NumpyBackend()
    x, ids, scales = a_step(rng, 9)
    routed, shared = (
        GatedFFN(*map(oracle.weight, tensors), limit)
        for tensors, limit in ((model.tensors[0], 0.7), (model.shared, 1.5))
    )
    wanted = oracle.experts(x, ids, scales, routed, shared)
    got = model.compute(model.stream(4), 0, x, ids, scales)
    assert np.abs(got - wanted).max() < 1e-2 * np.abs(wanted).max()  # the shared one is quantised


def test_slots_are_given_back_under_pressure_and_taken_again(
    make_model: MakeModel, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pressure, "SECONDS", 0.0)
    monkeypatch.setattr(pressure, "CALM_SECONDS", 0.0)
    monkeypatch.setattr(pressure, "STALLS", Path("/nowhere"))
    model = make_model()
    available = 1 << 30
    backend = model.stream(24, available=lambda: available)
    sizes = []
    for now in (1 << 30, 0, 0, 1 << 30, 0, *([1 << 30] * 20)):
        available = now
        for layer in range(2):
            step = a_step(rng, 20)
            np.testing.assert_array_equal(model.compute(backend, layer, *step), model.expected(layer, *step))
        sizes.append(backend.streaming.n_slots)
    assert sizes[0] == sizes[-1] == 24
    assert sizes[1] == TOP_K
    assert TOP_K <= sizes[4] < sizes[3]


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_file_that_is_cut_fails_that_step_and_recovers(make_model: MakeModel, rng: np.random.Generator) -> None:
    model = make_model(layers=1)
    backend = model.stream(4)
    path = model.tensors[0][2].path
    whole = path.read_bytes()
    step = a_step(rng, 30)
    os.truncate(path, model.tensors[0][2].offset + 1000)
    for _ in range(2):
        with pytest.raises(ModelFileError, match=r"weight-3\.gguf: tensor w: at byte \d+: the file ends before that"):
            model.compute(backend, 0, *step)
    with open(path, "r+b") as file:
        file.write(whole)
    np.testing.assert_array_equal(model.compute(backend, 0, *step), model.expected(0, *step))


def test_a_file_that_is_replaced_stays_the_one_that_was_opened(make_model: MakeModel, rng: np.random.Generator) -> None:
    model = make_model(layers=1)
    backend = model.stream(4)
    path = model.tensors[0][0].path
    other = path.with_suffix(".new")
    other.write_bytes(b"\xff" * path.stat().st_size)
    os.replace(other, path)
    step = a_step(rng, 30)
    np.testing.assert_array_equal(model.compute(backend, 0, *step), model.expected(0, *step))


def test_a_file_that_cannot_be_opened_is_named(make_model: MakeModel) -> None:
    model = make_model(layers=1)
    model.tensors[0][1].path.unlink()
    with pytest.raises(ModelFileError, match=r"weight-2\.gguf"):
        model.stream(4)


def test_too_little_memory_for_one_token_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(InsufficientMemoryError, match="one token needs"):
        make_model(layers=1).stream(2)


def test_types_without_kernels_are_refused(make_tensor: Any) -> None:
    layer = tuple(make_tensor(QuantType.Q3_K, EXPERTS, 256, 256) for _ in range(3))
    with pytest.raises(UnsupportedError, match=r"Q3_K .*stride pack"):
        CpuBackend(1).stream_experts([layer], 1 << 30, 2)
    with pytest.raises(UnsupportedError, match="numpy"):
        NumpyBackend().stream_experts([layer], 1 << 30, 2)


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="no /proc to count threads and files in")
def test_streams_end_while_experts_are_expected(make_model: MakeModel, rng: np.random.Generator) -> None:
    def count() -> tuple[int, int]:
        return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))

    model = make_model()
    gc.collect()
    before = count()
    for _ in range(3):
        backend = model.stream(24)
        expect(model, backend, 1, list(range(EXPERTS)))
        model.compute(backend, 0, *a_step(rng, 2))
        assert count() != before
        del backend
        gc.collect()
    assert count() == before


def test_an_expert_without_a_slot_is_never_computed(make_model: MakeModel, rng: np.random.Generator) -> None:
    """A slot whose expert nobody asked for is a mistake, not a wait without end."""
    model = make_model(layers=1)
    stream = model.stream(4).stream
    x, ids, scales = a_step(rng, 1)
    slots = np.full(EXPERTS, -1, np.int32)
    slots[ids[0]] = range(TOP_K)
    with pytest.raises(RuntimeError, match="nobody requested"):
        stream._engine.streamed_experts(x, ids, scales, stream._reader, 0, slots, 0.0, None, None, None, 0.0, None)

"""The CPU backend: a thin shim over the C++ extension `stride._cpu`, which checks every argument."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import psutil

from stride import _cpu
from stride.errors import ModelFileError, UnsupportedError
from stride.experts.policy import DEFAULT, PolicyChoice
from stride.gguf import QuantType, Tensor
from stride.gguf.quants import dequantize, quantize
from stride.ops import packed
from stride.ops.api import (
    Array,
    Batch,
    ByteArray,
    ExpertTensors,
    FloatArray,
    GatedFFN,
    IntArray,
    KVType,
    Rope,
    Routing,
    StreamCounts,
)
from stride.ops.pressure import available_bytes
from stride.ops.streaming import FEW_TOKENS, ExpertStream, Place

CONVERTED_ROWS = 256
"""Rows that are converted at once where the extension has no layout for a type; a multiple of 32."""


def default_threads() -> int:
    """Physical cores that this process may run on; ``STRIDE_THREADS`` overrides it.

    Raises:
        UnsupportedError: ``STRIDE_THREADS`` is not a positive integer.
    """
    if "STRIDE_THREADS" in os.environ:
        text = os.environ["STRIDE_THREADS"]
        if not text.isdecimal() or int(text) < 1:
            raise UnsupportedError(f"STRIDE_THREADS is {text!r}, but must be a positive integer")
        return int(text)
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cpus = os.sched_getaffinity(0)
    siblings = set()
    for cpu in cpus:
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        siblings.add(path.read_text() if path.exists() else str(cpu))
    return len(siblings)


def choose_isa() -> str:
    """The best instruction set of this machine; ``STRIDE_ISA`` forces one.

    Raises:
        UnsupportedError: ``STRIDE_ISA`` names one that this machine or build lacks.
    """
    return os.environ.get("STRIDE_ISA") or _cpu.isas()[0]


class CpuBackend:
    """`Backend` on the cores of one machine; see `stride.ops.api.Backend` for what each operation does.

    Args:
        threads: how many, the caller's included; None for `default_threads`.
        isa: ``avx512``, ``avxvnni``, ``avx2`` or ``portable``; None for `choose_isa`.
        model: the parts of the model that will be read: where a packed copy lies beside them (`stride.ops.packed`),
            weights are mapped from it.

    Attributes:
        notes: what a person should know about how the model was loaded, such as converted types.
        stream: the routed experts, where they stay on disk.

    Raises:
        UnsupportedError: no such instruction set here.
    """

    def __init__(self, threads: int | None = None, isa: str | None = None, model: Sequence[Path] = ()) -> None:
        self._engine = _cpu.engine(
            choose_isa() if isa is None else isa, default_threads() if threads is None else threads
        )
        self.n_threads: int = self._engine.threads
        self.computation = f"cpu {self._engine.isa}"
        self.name = f"cpu ({self._engine.isa}, {self.n_threads} thread{'' if self.n_threads == 1 else 's'})"
        self._packed, note = packed.find(model) if model else (None, None)
        self.notes: list[str] = [] if note is None else [note]
        self._converted: set[QuantType] = set()
        self._streamed: dict[tuple[Path, int], _cpu.MatrixShape] = {}  # by file and offset
        self.stream: ExpertStream | None = None
        self._is_told_of_locks = False
        self._batch: Batch | None = None
        self._rotations: dict[int, tuple[Rope, FloatArray]] = {}

    @property
    def streaming(self) -> StreamCounts | None:
        return None if self.stream is None else self.stream.counts

    # --- loading ---

    def held_bytes(self, *tensors: Tensor) -> int:
        return sum(map(_held_bytes, tensors))

    def packed_bytes(self, tensor: Tensor) -> int:
        """What `weight` of a matrix or a stack takes, to the byte."""
        return _cpu.packed_bytes(_held_type(tensor), *_stack_shape(tensor))

    def expert_bytes(self, layers: Sequence[ExpertTensors]) -> int:
        places = [[self._place(tensor) for tensor in layer] for layer in layers]
        return _cpu.slot_bytes(
            [
                [_cpu.ExpertSource(place.shape, -1, place.offset, place.stride, place.packed) for place in layer]
                for layer in places
            ]
        )

    def stream_experts(
        self,
        layers: Sequence[ExpertTensors],
        n_bytes: int,
        top_k: int,
        choice: PolicyChoice = DEFAULT,
        available: Callable[[], int] = available_bytes,
    ) -> None:
        places = [[self._place(tensor) for tensor in layer] for layer in layers]
        self.stream = ExpertStream(self._engine, places, n_bytes, top_k, choice, available)
        self._streamed = {(one.tensor.path, one.tensor.offset): one.shape for layer in places for one in layer}

    def close(self) -> None:
        self.stream = None
        self._streamed = {}

    def _place(self, tensor: Tensor) -> Place:
        """Where a stack lies on disk: in its packed copy, where there is one."""
        stack = count, rows, columns = _stack_shape(tensor)
        held = _held_type(tensor)
        shape = _cpu.matrix_shape(held, count, rows, columns)
        offset = None if self._packed is None else self._packed.offset_of(tensor.name, held, stack)
        if self._packed is not None and offset is not None:
            return Place(tensor, shape, self._packed.path, offset, shape.n_bytes // count, packed=True)
        if held is not tensor.type:
            raise UnsupportedError(
                f"experts of type {tensor.type.name} have no kernels and cannot be streamed as they are: `stride pack` "
                f"writes a copy as {held.name} that can"
            )
        return Place(tensor, shape, tensor.path, tensor.offset, tensor.n_bytes // count, packed=False)

    def weight(self, tensor: Tensor) -> _cpu.MatrixShape:
        """`resident_weight`, or, of experts that stay on disk, their shape."""
        streamed = self._streamed.get((tensor.path, tensor.offset))
        return self.resident_weight(tensor) if streamed is None else streamed

    def resident_weight(self, tensor: Tensor) -> _cpu.Weight:
        """Pack a tensor while reading it, or map its packed copy. Types without a layout become Q8_0, or F16 where rows
        are no whole blocks.

        Raises:
            ModelFileError: the file ends before the tensor does.
            UnsupportedError: not a matrix or a stack of matrices.
        """
        count, rows, columns = _stack_shape(tensor)
        if _held_type(tensor) is not tensor.type and tensor.type not in self._converted:
            self._converted.add(tensor.type)
            self.notes.append(f"{tensor.type.name} has no kernels: such tensors are held as {_held_type(tensor).name}")
        weight = self._mapped_weight(tensor, count, rows, columns)
        if weight is None and _held_type(tensor) is not tensor.type:
            weight = self._converted_weight(tensor, count, rows, columns)
        if weight is None:
            weight = self._packed_weight(tensor, count, rows, columns)
        if self.stream is not None and not weight.lock() and not self._is_told_of_locks:
            self._is_told_of_locks = True
            self.notes.append(
                "weights cannot be locked in memory (ulimit -l): under pressure the system may page them out"
            )
        return weight

    def _packed_weight(self, tensor: Tensor, count: int, rows: int, columns: int) -> _cpu.Weight:
        weight = _cpu.weight(tensor.type, count, rows, columns)
        try:
            with open(tensor.path, "rb", buffering=0) as file:
                end = _cpu.read(self._engine, weight, file.fileno(), tensor.offset, _stays_cached(file.fileno()))
        except OSError as error:
            raise ModelFileError(str(error), path=tensor.path, tensor=tensor.name, offset=tensor.offset) from error
        if end >= 0:
            raise ModelFileError("the file ends here", path=tensor.path, tensor=tensor.name, offset=end)
        return weight

    def _mapped_weight(self, tensor: Tensor, count: int, rows: int, columns: int) -> _cpu.Weight | None:
        """The tensor's packed copy, where there is one."""
        if self._packed is None:
            return None
        try:
            weight = self._packed.map(tensor.name, _held_type(tensor), (count, rows, columns))
            if weight is not None:
                _cpu.populate(self._engine, weight)
        except (OSError, ValueError, TypeError) as error:
            raise ModelFileError(str(error), path=self._packed.path, tensor=tensor.name) from error
        return weight

    def _converted_weight(self, tensor: Tensor, count: int, rows: int, columns: int) -> _cpu.Weight:
        native = _held_type(tensor)
        weight = _cpu.weight(native, count, rows, columns)
        for index in range(count):
            for first in range(0, rows, CONVERTED_ROWS):
                start = index * rows + first
                data = tensor.read(start, min(start + CONVERTED_ROWS, (index + 1) * rows))
                weight.pack(index, first, quantize(dequantize(data, tensor.type), native))
        return weight

    def read_through(self, weight: _cpu.Weight) -> None:
        """Read a weight and do nothing else: no product with it is faster. For benchmarks."""
        _cpu.read_through(self._engine, weight)

    def vector(self, tensor: Tensor) -> FloatArray:
        return np.ascontiguousarray(tensor.dequantize())

    def kv_pool(self, n_pages: int, n_kv_heads: int, key_dim: int, value_dim: int, kind: KVType) -> _cpu.KVPool:
        return _cpu.kv_pool(n_pages, n_kv_heads, key_dim, value_dim, kind)

    # --- moving pages of a cache ---

    def read_page(self, pool: _cpu.KVPool, page: int) -> ByteArray:
        held: ByteArray = pool.pages[page]
        return held

    def write_page(self, pool: _cpu.KVPool, page: int, data: ByteArray) -> None:
        pool.pages[page] = data

    # --- running ---

    def embed(self, table: _cpu.Weight, token_ids: IntArray) -> FloatArray:
        return self._engine.embed(table, token_ids)

    def norm(self, x: FloatArray, weight: FloatArray, epsilon: float, delta: FloatArray | None = None) -> FloatArray:
        return self._engine.norm(x, weight, epsilon, delta)

    def linear(
        self, x: FloatArray, weights: Sequence[_cpu.Weight], biases: Sequence[FloatArray | None] | None = None
    ) -> list[Array]:
        return self._engine.linear(x, tuple(weights), None if biases is None else tuple(biases))

    def rope_and_store(
        self,
        q: FloatArray,
        k: FloatArray,
        v: FloatArray,
        *,
        q_norm: FloatArray | None,
        k_norm: FloatArray | None,
        epsilon: float,
        rope: Rope,
        pool: _cpu.KVPool,
        page_table: IntArray,
        batch: Batch,
    ) -> FloatArray:
        return self._engine.rope_and_store(
            q,
            k,
            v,
            q_norm,
            k_norm,
            epsilon,
            self._rotation(rope, batch),
            rope.pairs == "adjacent",
            pool,
            page_table,
            batch.positions,
            batch.row_starts,
        )

    def _rotation(self, rope: Rope, batch: Batch) -> FloatArray:
        """Cosines and sines [n, 2, pairs]; computed once per step and kind of layer."""
        if self._batch is not batch:
            self._batch = batch
            self._rotations.clear()
        kept = self._rotations.get(id(rope))
        if kept is None:
            angles = np.multiply.outer(batch.positions.astype(np.float64), rope.inverse_frequencies.astype(np.float64))
            turns = np.stack([np.cos(angles), np.sin(angles)], axis=1) * rope.magnitude
            # The rope is kept beside its turns, so that its id is not another's while they are here.
            kept = self._rotations[id(rope)] = (rope, turns.astype(np.float32))
        return kept[1]

    def attention(
        self,
        q: FloatArray,
        pool: _cpu.KVPool,
        *,
        page_table: IntArray,
        batch: Batch,
        window: int | None,
        scale: float,
        gate: FloatArray | None,
    ) -> FloatArray:
        return self._engine.attention(q, pool, page_table, batch.positions, batch.row_starts, window, scale, gate)

    def ffn(self, x: FloatArray, weights: GatedFFN) -> FloatArray:
        return self._engine.ffn(x, weights.gate, weights.up, weights.down, weights.limit)

    def route(
        self, x: FloatArray, router: _cpu.Weight, bias: FloatArray | None, routing: Routing
    ) -> tuple[IntArray, FloatArray]:
        return self._engine.route(x, router, bias, routing.top_k, routing.gating, routing.normalize, routing.scale)

    def experts(
        self, x: FloatArray, ids: IntArray, weights: FloatArray, routed: GatedFFN, shared: GatedFFN | None
    ) -> FloatArray:
        if not isinstance(routed.gate, _cpu.Weight):
            assert self.stream is not None
            return self.stream.experts(x, ids, weights, routed, shared)
        also = (None, None, None, 0.0) if shared is None else (shared.gate, shared.up, shared.down, shared.limit)
        return self._engine.experts(x, ids, weights, routed.gate, routed.up, routed.down, routed.limit, *also)

    def expect(
        self,
        x: FloatArray,
        norm: FloatArray,
        epsilon: float,
        router: _cpu.Weight,
        bias: FloatArray | None,
        routing: Routing,
        routed: GatedFFN,
    ) -> None:
        if self.stream is None or not self.stream.looks_ahead or len(x) == 0:
            return
        n_experts: int = router.shape[0]
        if len(x) <= FEW_TOKENS:
            ids, _ = self.route(self.norm(x, norm, epsilon), router, bias, routing)
            self.stream.expect(routed, ids)
        elif len(x) * routing.top_k >= n_experts:  # nearly all are wanted: no need to ask which
            self.stream.expect(routed, np.arange(n_experts, dtype=np.int32)[None])

    def concat_norms(
        self, a: FloatArray, a_weight: FloatArray, b: FloatArray, b_weight: FloatArray, epsilon: float
    ) -> FloatArray:
        return self._engine.concat_norms(a, a_weight, b, b_weight, epsilon)

    def rows(self, x: FloatArray, indices: IntArray) -> FloatArray:
        return _cpu.rows(x, indices)

    def from_host(self, x: FloatArray) -> FloatArray:
        return x

    def to_host(self, x: FloatArray) -> FloatArray:
        return x


def _stays_cached(file: int) -> bool:
    """Whether the system may keep the file in its cache beside the packed weights: only where memory is plenty.

    A cache that grows while huge pages are asked for splits what is free, and reading becomes several times slower.
    """
    return bool(psutil.virtual_memory().available >= 4 * os.fstat(file).st_size)


def _held_bytes(tensor: Tensor) -> int:
    if len(tensor.shape) == 1:
        return 4 * tensor.n_values
    kind = _held_type(tensor)
    return tensor.n_values // kind.block_size * kind.block_bytes


def _stack_shape(tensor: Tensor) -> tuple[int, int, int]:
    """(matrices, rows, columns)."""
    if len(tensor.shape) not in (2, 3):
        raise UnsupportedError(f"tensor {tensor.name} has {len(tensor.shape)} dimensions, a weight has 2 or 3")
    *stack, rows, columns = tensor.shape
    return (stack[0] if stack else 1), rows, columns


def _held_type(tensor: Tensor) -> QuantType:
    """The type that a matrix is held as: its own where there are kernels for it."""
    if _cpu.is_native(tensor.type):
        return tensor.type
    return QuantType.Q8_0 if tensor.shape[-1] % 32 == 0 else QuantType.F16

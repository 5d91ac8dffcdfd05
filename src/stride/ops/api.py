"""The Backend protocol: the coarse, fused operations that every model is written against.

A model file calls these and nothing else. `numpy.py` is the executable specification; every other backend is
tested against it, operation by operation. A backend refuses (``UnsupportedError``) what it does not support.

Shapes use n = tokens of the batch, d = embedding length, h = query heads, g = key/value heads.
Activations are float32, row-major, one row per token. ``Array``, ``Weight`` and ``KVPool`` are the backend's own
types, opaque to models, which only pass them from one operation to the next; ``Backend.to_host`` makes a numpy array
of an Array.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from stride.experts.policy import DEFAULT, PolicyChoice
from stride.ops.pressure import available_bytes

if TYPE_CHECKING:
    from stride.gguf import Tensor

Array: TypeAlias = Any
"""Activations, or a vector, in the backend's own form."""
Weight: TypeAlias = Any
"""A matrix or a stack of them, in the backend's own layout: ``shape`` [(experts,) out, in], ``n_bytes`` held."""
KVPool: TypeAlias = Any
"""One layer's keys and values, pages of ``PAGE_TOKENS`` tokens: ``n_bytes`` of address space, used as first
written, ``page_bytes`` each."""
IntArray: TypeAlias = npt.NDArray[np.int32]
FloatArray: TypeAlias = npt.NDArray[np.float32]
ByteArray: TypeAlias = npt.NDArray[np.uint8]
KVType: TypeAlias = Literal["f32", "f16", "q8_0"]
ExpertTensors: TypeAlias = "tuple[Tensor, Tensor, Tensor]"
"""The stacks of a layer's routed experts: gate and up [experts, f, d], down [experts, d, f]."""

PAGE_TOKENS = 32
"""Tokens per page of the KV cache."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's work: rows of "n tokens for this sequence". Prefill, decode and verification look alike.

    Attributes:
        token_ids: int32 [n], the rows' tokens, one row after the other.
        positions: int32 [n], each token's position in its sequence (consecutive within a row).
        row_starts: int32 [rows + 1], row r owns tokens ``row_starts[r]:row_starts[r + 1]``.
        page_tables: one int32 [rows, pages] per cache group: entry p of row r is the page that holds positions
            ``p * PAGE_TOKENS ...`` of that sequence, or -1 where no token of this batch looks any more.
        outputs: int32 [outputs], the tokens (indices into the batch) whose logits are wanted, ascending.
    """

    token_ids: IntArray
    positions: IntArray
    row_starts: IntArray
    page_tables: tuple[IntArray, ...]
    outputs: IntArray


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding of the first ``2 * len(inverse_frequencies)`` dimensions of each head.

    Position p turns pair i by ``p * inverse_frequencies[i]`` radians; all scalings (llama3, linear, yarn) are
    already in the frequencies. ``magnitude`` multiplies cosine and sine (yarn).
    A "halves" pair is dimensions (i, i + half) (NEOX), an "adjacent" pair is (2 i, 2 i + 1) (the original).
    """

    inverse_frequencies: FloatArray
    pairs: Literal["halves", "adjacent"]
    magnitude: float = 1.0


@dataclass(frozen=True, slots=True)
class Routing:
    """How a router's scores become experts and their weights (``Backend.route``)."""

    top_k: int
    gating: Literal["sigmoid", "softmax"]
    normalize: bool
    scale: float


@dataclass(frozen=True, slots=True)
class GatedFFN:
    """The three matrices of a SwiGLU and its clamp: ``down · (min(silu(gate x), limit) * clip(up x, ±limit))``.

    ``limit`` 0 means no clamp. The matrices are [f, d], [f, d], [d, f], or stacks of those for experts.
    """

    gate: Weight
    up: Weight
    down: Weight
    limit: float = 0.0


@dataclass(frozen=True, slots=True)
class StreamCounts:
    """Of routed experts that stay on disk, since the start, each counted once per layer and step.

    Attributes:
        hits: experts that were in memory when they were wanted.
        misses: those that were not, and had not been foreseen.
        expected: experts read ahead because a layer was likely to want them.
        came_true: those of them that were wanted then.
        read_bytes: of files.
        waited_seconds: in which nothing could be computed until something was read.
        n_slots: experts that fit in memory now, of ``slot_bytes`` each, out of ``n_experts``.
        disk_rate: bytes per second that the disk gave when it was probed.
        pack_rate: bytes per second that one thread packs of what it has read; infinite where a packed copy is read.
    """

    hits: int
    misses: int
    expected: int
    came_true: int
    read_bytes: int
    waited_seconds: float
    n_slots: int
    slot_bytes: int
    n_experts: int
    disk_rate: float
    pack_rate: float

    @property
    def hit_rate(self) -> float:
        """Share of the experts wanted that were in memory."""
        return self.hits / max(1, self.hits + self.misses + self.came_true)

    def since(self, before: StreamCounts) -> StreamCounts:
        """What was counted after ``before``."""
        return replace(
            self,
            hits=self.hits - before.hits,
            misses=self.misses - before.misses,
            expected=self.expected - before.expected,
            came_true=self.came_true - before.came_true,
            read_bytes=self.read_bytes - before.read_bytes,
            waited_seconds=self.waited_seconds - before.waited_seconds,
        )


class Backend(Protocol):
    """Where a model runs. All methods are called from one thread at a time."""

    @property
    def name(self) -> str:
        """For people: ``numpy``, or ``cpu (avx512-vnni, 2 threads)``."""

    @property
    def computation(self) -> str:
        """What results depend on, to the bit: however many threads there are."""

    @property
    def n_threads(self) -> int:
        """Threads that operations are spread over."""

    @property
    def notes(self) -> Sequence[str]:
        """What people should know about the weights read so far, such as types that were converted."""

    @property
    def streaming(self) -> StreamCounts | None:
        """Of experts that stay on disk; None where all weights are in memory."""

    # --- loading ---

    def held_bytes(self, *tensors: Tensor) -> int:
        """Memory that tensors of one model take together at most once they are read, plus up to 3 % for padding."""

    def expert_bytes(self, layers: Sequence[ExpertTensors]) -> int:
        """Memory of one routed expert, where they are streamed: of the largest of all layers'.

        Raises:
            UnsupportedError: this backend, or these tensors, must be in memory whole; says why.
        """

    def stream_experts(
        self,
        layers: Sequence[ExpertTensors],
        n_bytes: int,
        top_k: int,
        choice: PolicyChoice = DEFAULT,
        available: Callable[[], int] = available_bytes,
    ) -> None:
        """Leave routed experts on disk. From now on `weight` of these tensors reads nothing, and `experts` reads what a
        step wants and ``n_bytes`` of memory do not hold; fewer are held while ``available()`` bytes are few. Each token
        uses ``top_k`` experts of a layer.

        Raises:
            InsufficientMemoryError: the memory is too little for one token.
            ModelFileError: a file cannot be read.
            UnsupportedError: see `expert_bytes`.
        """

    def close(self) -> None:
        """Give back what belongs to no weight: memory, threads and files of experts that stay on disk."""

    def weight(self, tensor: Tensor) -> Weight:
        """Read a matrix or a stack of matrices from its file into this backend's layout, each byte once."""

    def vector(self, tensor: Tensor) -> Array:
        """Read a one-dimensional tensor as float32."""

    def kv_pool(self, n_pages: int, n_kv_heads: int, key_dim: int, value_dim: int, kind: KVType) -> KVPool:
        """Reserve a layer's cache of ``n_pages`` pages."""

    # --- moving pages of a cache ---

    def read_page(self, pool: KVPool, page: int) -> ByteArray:
        """uint8 [page_bytes]: a page as this backend lays it out; a copy, or a view until the page is written again."""

    def write_page(self, pool: KVPool, page: int, data: ByteArray) -> None:
        """Make a page hold what `read_page` gave of this pool, or of another of the same shape and kind."""

    # --- running ---

    def embed(self, table: Weight, token_ids: IntArray) -> Array:
        """[n, d]: rows of the table."""

    def norm(self, x: Array, weight: Array, epsilon: float, delta: Array | None = None) -> Array:
        """RMSNorm over the last axis: ``x / sqrt(mean(x²) + epsilon) * weight``; a new [n, d].

        Where ``delta`` is given, ``x += delta`` is done first, in place (the residual stream).
        """

    def linear(self, x: Array, weights: Sequence[Weight], biases: Sequence[Array | None] | None = None) -> list[Array]:
        """Several linear maps of one input: [n, out_i] each. A quantising backend quantises ``x`` once."""

    def rope_and_store(
        self,
        q: Array,
        k: Array,
        v: Array,
        *,
        q_norm: Array | None,
        k_norm: Array | None,
        epsilon: float,
        rope: Rope,
        pool: KVPool,
        page_table: IntArray,
        batch: Batch,
    ) -> Array:
        """Per-head RMSNorm of q and k (where weights [key_dim] are given), rope on both, k and v into the pool.

        q is [n, h * key_dim], k [n, g * key_dim], v [n, g * value_dim]; gives q, [n, h * key_dim].
        """

    def attention(
        self,
        q: Array,
        pool: KVPool,
        *,
        page_table: IntArray,
        batch: Batch,
        window: int | None,
        scale: float,
        gate: Array | None,
    ) -> Array:
        """Causal attention of each token to its own sequence: [n, h * value_dim].

        A token at position p attends to positions ``max(0, p - window + 1) .. p`` (all up to p without a window).
        Query head i uses key/value head ``i // (h / g)``. Where ``gate`` [n, h] is given, head i's output is
        multiplied by ``sigmoid(gate[:, i])``.
        """

    def ffn(self, x: Array, weights: GatedFFN) -> Array:
        """Dense (clamped) SwiGLU: [n, d]."""

    def route(self, x: Array, router: Weight, bias: Array | None, routing: Routing) -> tuple[IntArray, FloatArray]:
        """Choose experts, in float32: (int32 [n, k] ids on the host, float32 [n, k] weights on the host).

        ``scores = gating(router x)``; the k largest of ``scores + bias`` are chosen (ties: the lower id); their
        weights are the unbiased scores, divided by their sum where ``normalize``, times ``scale``.
        """

    def experts(self, x: Array, ids: IntArray, weights: FloatArray, routed: GatedFFN, shared: GatedFFN | None) -> Array:
        """``Σ_j weights[:, j] * FFN_ids[:, j](x)``, plus the shared expert's FFN where there is one: [n, d].

        Each token's are added up by ascending expert, the shared one last: a result depends on neither the order of
        ``ids`` nor on which experts are computed first.
        """

    def expect(
        self,
        x: Array,
        norm: Array,
        epsilon: float,
        router: Weight,
        bias: Array | None,
        routing: Routing,
        routed: GatedFFN,
    ) -> None:
        """A layer is likely to want those of its experts ``routed`` that its router would choose for ``RMSNorm(x)``,
        its state before attention: they may be read meanwhile. With all in memory, it does nothing.
        """

    def concat_norms(self, a: Array, a_weight: Array, b: Array, b_weight: Array, epsilon: float) -> Array:
        """``[RMSNorm(a), RMSNorm(b)]`` along the last axis, [n, 2 d]: the input of a draft layer."""

    def rows(self, x: Array, indices: IntArray) -> Array:
        """[len(indices), d]: some rows of x."""

    def from_host(self, x: FloatArray) -> Array:
        """A numpy array, float32 and contiguous, as this backend's own; it may be the same memory."""

    def to_host(self, x: Array) -> FloatArray:
        """The array as numpy float32, once it is computed."""

"""The C++ extension: the operations of `stride.ops.api.Backend` on numpy arrays; sources in ``cpp/``.

Arrays must be C-contiguous, of the stated type and on this machine; ValueError names the argument that is not, or whose
shape, ids or pages do not fit. UnsupportedError names what this build does not do. Returned arrays are float32 (ids:
int32) and belong to the caller; their memory is used again once they are gone.
"""

import numpy as np
import numpy.typing as npt

from stride.ops.api import FloatArray, IntArray, KVType

page_tokens: int
"""Tokens per page of a `KVPool`."""

layout_version: int
"""Of packed weights: other versions' are of no use to this build."""

map_alignment: int
"""Offsets in files from which weights are mapped are multiples of this."""

compiler: str
"""What built this, with its version."""

class MatrixShape:
    """A matrix or a stack of matrices in the packed layout of ``cpp/format.hpp``, but for its values."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[out, in], or [experts, out, in]."""
    @property
    def n_bytes(self) -> int: ...
    @property
    def type(self) -> int:
        """GGML's number of the type."""
    @property
    def type_name(self) -> str: ...

class Weight(MatrixShape):
    """One that is in memory."""

    @property
    def data(self) -> npt.NDArray[np.uint8]:
        """The packed bytes where they lie, read-only: uint8 [n_bytes]."""
    def lock(self) -> bool:
        """Keep it in memory, whatever else memory is wanted for; False: the system does not allow that."""
    def pack(self, index: int, first_row: int, rows: npt.NDArray[np.uint8]) -> None:
        """Fill rows of matrix ``index`` from uint8 [n, bytes of a row]; ``first_row`` is a multiple of 32."""

class KVPool:
    @property
    def page_bytes(self) -> int: ...
    @property
    def n_bytes(self) -> int: ...
    @property
    def pages(self) -> npt.NDArray[np.uint8]:
        """The pages where they lie, writable: uint8 [n_pages, page_bytes]."""

class ReadError(Exception):
    """An expert could not be read. ``args``: slot, part (0 gate, 1 up, 2 down), offset in the file, and errno, or 0
    where the file ended."""

class ExpertSource:
    """Where one matrix of each expert of a layer lies: expert e's at ``offset + e * stride`` of an open file.

    ``packed``: in the packed layout, else as in a GGUF file.
    """

    def __init__(self, shape: MatrixShape, file: int, offset: int, stride: int, packed: bool) -> None: ...

class ExpertReader:
    """Threads that read experts into slots of memory."""

    @property
    def n_slots(self) -> int: ...
    @property
    def slots(self) -> npt.NDArray[np.uint8]:
        """The slots where they lie, writable: uint8 [n_slots, bytes of a slot]."""
    @property
    def counts(self) -> tuple[int, float, float, float]:
        """Bytes read, seconds in which computing waited, seconds of reading and of packing (all threads together)."""
    def request(self, layer: int, experts: list[int], slots: list[int], wanted: bool) -> None:
        """Read experts of a layer, each into its slot; whatever the slots were to hold before is forgotten."""
    def promote(self, slot: int) -> None:
        """What a slot is to hold was only expected and is wanted now."""
    def cancel(self, slot: int) -> None:
        """What a slot is to hold is not wanted any more."""
    def release(self, slot: int) -> None:
        """Empty a slot and give its memory back until it is requested again."""
    def is_ready(self, slot: int) -> bool: ...

class Engine:
    """Threads and kernels of one instruction set. Operations release the GIL and run one at a time."""

    @property
    def isa(self) -> str: ...
    @property
    def threads(self) -> int: ...
    def embed(self, table: Weight, token_ids: IntArray) -> FloatArray: ...
    def norm(self, x: FloatArray, weight: FloatArray, epsilon: float, delta: FloatArray | None) -> FloatArray: ...
    def concat_norms(
        self, a: FloatArray, a_weight: FloatArray, b: FloatArray, b_weight: FloatArray, epsilon: float
    ) -> FloatArray: ...
    def linear(
        self, x: FloatArray, weights: tuple[Weight, ...], biases: tuple[FloatArray | None, ...] | None
    ) -> list[FloatArray]: ...
    def ffn(self, x: FloatArray, gate: Weight, up: Weight, down: Weight, limit: float) -> FloatArray: ...
    def experts(
        self,
        x: FloatArray,
        ids: IntArray,
        weights: FloatArray,
        gate: Weight,
        up: Weight,
        down: Weight,
        limit: float,
        shared_gate: Weight | None,
        shared_up: Weight | None,
        shared_down: Weight | None,
        shared_limit: float,
    ) -> FloatArray: ...
    def streamed_experts(
        self,
        x: FloatArray,
        ids: IntArray,
        weights: FloatArray,
        reader: ExpertReader,
        layer: int,
        slots: IntArray,
        limit: float,
        shared_gate: Weight | None,
        shared_up: Weight | None,
        shared_down: Weight | None,
        shared_limit: float,
        into: FloatArray | None,
    ) -> FloatArray:
        """As `experts`, of those experts that have a slot in ``slots`` [experts] (the others: -1), as they arrive.

        The result is added to ``into``, where it is given: passes of ascending experts, and the shared one with the
        last, give the bits of one `experts`. ReadError: one cannot be read.
        """
    def route(
        self,
        x: FloatArray,
        router: Weight,
        bias: FloatArray | None,
        top_k: int,
        gating: str,
        normalize: bool,
        scale: float,
    ) -> tuple[IntArray, FloatArray]: ...
    def rope_and_store(
        self,
        q: FloatArray,
        k: FloatArray,
        v: FloatArray,
        q_norm: FloatArray | None,
        k_norm: FloatArray | None,
        epsilon: float,
        cos_sin: FloatArray,
        adjacent: bool,
        pool: KVPool,
        page_table: IntArray,
        positions: IntArray,
        row_starts: IntArray,
    ) -> FloatArray:
        """``cos_sin`` is [n, 2, pairs]: the cosines, then the sines of each token's rotation."""
    def attention(
        self,
        q: FloatArray,
        pool: KVPool,
        page_table: IntArray,
        positions: IntArray,
        row_starts: IntArray,
        window: int | None,
        scale: float,
        gate: FloatArray | None,
    ) -> FloatArray: ...

def isas() -> list[str]:
    """Instruction sets that this build has and this machine runs, the best first."""

def engine(isa: str, threads: int) -> Engine: ...
def is_native(type: int) -> bool:
    """Whether a type (GGML's number) has a packed layout."""

def packed_bytes(type: int, count: int, rows: int, columns: int) -> int:
    """What such a weight takes."""

def matrix_shape(type: int, count: int, rows: int, columns: int) -> MatrixShape: ...
def expert_reader(
    layers: list[list[ExpertSource]], files: list[int], n_slots: int, threads: int, block_bytes: int
) -> ExpertReader:
    """A reader of layers of gate, up and down; it closes the files when it ends. ``block_bytes``: about what one thread
    reads at a time."""

def slot_bytes(layers: list[list[ExpertSource]]) -> int:
    """Memory of a slot: of the largest expert."""

def weight(type: int, count: int, rows: int, columns: int) -> Weight: ...
def kv_pool(n_pages: int, n_kv_heads: int, key_dim: int, value_dim: int, kind: KVType) -> KVPool: ...
def read(engine: Engine, weight: Weight, file: int, offset: int, keep_cached: bool) -> int:
    """Read and pack a weight from a file descriptor: -1, or the offset at which the file ended too early."""

def rows(x: FloatArray, indices: IntArray) -> FloatArray: ...
def map_weight(type: int, count: int, rows: int, columns: int, file: int, offset: int) -> Weight:
    """A weight that lies packed in a file, read-only. OSError: not mapped; ValueError: the file is too short."""

def read_through(engine: Engine, weight: Weight) -> int:
    """Reads a weight and does nothing else: no product with it is faster. Gives the sum of its 64-bit words."""

def populate(engine: Engine, weight: Weight) -> None:
    """Bring a mapped weight into memory, on all threads. OSError: it cannot be read."""

def read_bandwidth(n_bytes: int, threads: int) -> float:
    """Bytes per second that ``threads`` threads read from ``n_bytes`` of memory; takes about a third of a second."""

def integer_peak(isa: str, threads: int) -> float:
    """Multiply-adds of int8 per second that threads do in registers alone, the best of some passes."""

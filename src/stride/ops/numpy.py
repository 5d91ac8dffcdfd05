"""The executable specification: every operation as plainly as numpy can say it, in full precision.

Weights are dequantised to float32 and multiplied in float32; nothing is fast on purpose. The only cleverness is
memory: matrices are kept dequantised up to a budget, and dequantised anew at each use beyond it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from stride.errors import UnsupportedError
from stride.experts.policy import DEFAULT, PolicyChoice
from stride.gguf import QuantType, Tensor
from stride.gguf.quants import dequantize, quantize
from stride.ops.api import (
    PAGE_TOKENS,
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

KEPT_BYTES = 2 << 30
"""Dequantised float32 weights that one backend keeps; larger models are dequantised at each use."""

SMALLEST_WEIGHT_SUM = 6.103515625e-5
"""Lower bound of the sum that expert weights are divided by (the smallest normal float16, as in llama.cpp)."""


class NumpyWeight:
    """A matrix, or a stack of matrices, that gives float32."""

    def __init__(self, tensor: Tensor, keep: bool) -> None:
        self.shape = tensor.shape
        self._tensor = tensor
        self._kept = tensor.dequantize() if keep else None
        self.n_bytes = self._kept.nbytes if self._kept is not None else tensor.n_bytes

    def matrix(self, index: int | None = None) -> FloatArray:
        """All of it as float32, or the part at ``index`` of the first axis (one expert, or one row)."""
        if self._kept is not None:
            return self._kept if index is None else self._kept[index]
        if index is None:
            return self._tensor.dequantize()
        shape = self.shape[1:]
        n_rows = math.prod(shape[:-1])
        return dequantize(self._tensor.read(index * n_rows, (index + 1) * n_rows), self._tensor.type).reshape(shape)


@dataclass(frozen=True, slots=True)
class NumpyKVPool:
    """Keys [pages, PAGE_TOKENS, g, key_dim] and values [pages, PAGE_TOKENS, g, value_dim] of one layer."""

    keys: np.ndarray
    values: np.ndarray
    kind: KVType

    @property
    def n_bytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    @property
    def page_bytes(self) -> int:
        return self.n_bytes // len(self.keys)


def _sigmoid(x: FloatArray) -> FloatArray:
    return np.asarray(0.5 * (np.tanh(0.5 * x) + 1), np.float32)


def _softmax(x: FloatArray) -> FloatArray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def routing_scores(x: FloatArray, router: NumpyWeight, routing: Routing) -> FloatArray:
    """[n, experts]: how well each expert suits each token, before any bias."""
    logits = x @ router.matrix().T
    return _sigmoid(logits) if routing.gating == "sigmoid" else _softmax(logits)


def _rms_norm(x: FloatArray, weight: FloatArray, epsilon: float) -> FloatArray:
    mean_square = np.mean(np.square(x, dtype=np.float64), axis=-1, keepdims=True)
    return np.asarray(x / np.sqrt(mean_square + epsilon) * weight, np.float32)


def _rotate(x: FloatArray, positions: IntArray, rope: Rope) -> FloatArray:
    """Rotate the first dimensions of each head: x is [n, heads, dim]."""
    half = len(rope.inverse_frequencies)
    angles = positions[:, None].astype(np.float64) * rope.inverse_frequencies.astype(np.float64)
    cos = (np.cos(angles) * rope.magnitude).astype(np.float32)[:, None, :]
    sin = (np.sin(angles) * rope.magnitude).astype(np.float32)[:, None, :]
    if rope.pairs == "halves":
        first, second = slice(0, half), slice(half, 2 * half)
    else:
        first, second = slice(0, 2 * half, 2), slice(1, 2 * half, 2)
    out = x.copy()
    out[..., first] = x[..., first] * cos - x[..., second] * sin
    out[..., second] = x[..., first] * sin + x[..., second] * cos
    return out


def _swiglu(gate: FloatArray, up: FloatArray, limit: float) -> FloatArray:
    activated = gate * _sigmoid(gate)
    if limit > 0:
        return np.asarray(np.minimum(activated, limit) * np.clip(up, -limit, limit), np.float32)
    return np.asarray(activated * up)


def _as_stored(x: FloatArray, kind: KVType) -> FloatArray:
    """The values that a cache of this kind gives back."""
    if kind == "q8_0":
        return dequantize(quantize(x, QuantType.Q8_0), QuantType.Q8_0)
    return x


def _rows_of(batch: Batch) -> Iterator[tuple[int, slice]]:
    for row in range(len(batch.row_starts) - 1):
        yield row, slice(int(batch.row_starts[row]), int(batch.row_starts[row + 1]))


class NumpyBackend:
    """`Backend` in numpy; see `stride.ops.api.Backend` for what each operation does."""

    name = computation = "numpy"
    n_threads = 1
    notes: Sequence[str] = ()
    streaming: StreamCounts | None = None

    def __init__(self) -> None:
        self._kept_bytes = 0

    def held_bytes(self, *tensors: Tensor) -> int:
        in_file = sum(tensor.n_bytes for tensor in tensors)  # cached, where it is read at each use
        return min(4 * sum(tensor.n_values for tensor in tensors), in_file + KEPT_BYTES)

    def expert_bytes(self, layers: Sequence[ExpertTensors]) -> int:
        raise UnsupportedError("the numpy backend keeps all weights in memory: it does not stream experts from disk")

    def stream_experts(
        self,
        layers: Sequence[ExpertTensors],
        n_bytes: int,
        top_k: int,
        choice: PolicyChoice = DEFAULT,
        available: Callable[[], int] = available_bytes,
    ) -> None:
        self.expert_bytes(layers)

    def close(self) -> None:
        """There is nothing besides weights."""

    def weight(self, tensor: Tensor) -> NumpyWeight:
        n_bytes = 4 * tensor.n_values
        keep = self._kept_bytes + n_bytes <= KEPT_BYTES
        self._kept_bytes += n_bytes if keep else 0
        return NumpyWeight(tensor, keep)

    def vector(self, tensor: Tensor) -> FloatArray:
        return tensor.dequantize()

    def kv_pool(self, n_pages: int, n_kv_heads: int, key_dim: int, value_dim: int, kind: KVType) -> NumpyKVPool:
        if kind == "q8_0" and (key_dim % 32 or value_dim % 32):
            raise UnsupportedError(f"a q8_0 cache needs head sizes in multiples of 32, not {key_dim} and {value_dim}")
        dtype = np.float16 if kind == "f16" else np.float32
        shape = (n_pages, PAGE_TOKENS, n_kv_heads)
        return NumpyKVPool(np.zeros((*shape, key_dim), dtype), np.zeros((*shape, value_dim), dtype), kind)

    def read_page(self, pool: NumpyKVPool, page: int) -> ByteArray:
        return np.concatenate([pool.keys[page].ravel().view(np.uint8), pool.values[page].ravel().view(np.uint8)])

    def write_page(self, pool: NumpyKVPool, page: int, data: ByteArray) -> None:
        keys, values = np.split(data.view(pool.keys.dtype), [pool.keys[page].size])
        pool.keys[page] = keys.reshape(pool.keys.shape[1:])
        pool.values[page] = values.reshape(pool.values.shape[1:])

    def embed(self, table: NumpyWeight, token_ids: IntArray) -> FloatArray:
        return np.stack([table.matrix(int(token_id)) for token_id in token_ids])

    def norm(self, x: FloatArray, weight: FloatArray, epsilon: float, delta: FloatArray | None = None) -> FloatArray:
        if delta is not None:
            x += delta
        return _rms_norm(x, weight, epsilon)

    def linear(
        self, x: FloatArray, weights: Sequence[NumpyWeight], biases: Sequence[FloatArray | None] | None = None
    ) -> list[Array]:
        outs = [x @ weight.matrix().T for weight in weights]
        if biases is None:
            return outs
        return [out if bias is None else out + bias for out, bias in zip(outs, biases, strict=True)]

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
        pool: NumpyKVPool,
        page_table: IntArray,
        batch: Batch,
    ) -> FloatArray:
        n = len(q)
        key_dim, value_dim = pool.keys.shape[-1], pool.values.shape[-1]
        q, k, v = q.reshape(n, -1, key_dim), k.reshape(n, -1, key_dim), v.reshape(n, -1, value_dim)
        if q_norm is not None:
            q = _rms_norm(q, q_norm, epsilon)
        if k_norm is not None:
            k = _rms_norm(k, k_norm, epsilon)
        q, k = _rotate(q, batch.positions, rope), _rotate(k, batch.positions, rope)
        for row, tokens in _rows_of(batch):
            page, slot = np.divmod(batch.positions[tokens], PAGE_TOKENS)
            pool.keys[page_table[row, page], slot] = _as_stored(k[tokens], pool.kind)
            pool.values[page_table[row, page], slot] = _as_stored(v[tokens], pool.kind)
        return q.reshape(n, -1)

    def attention(
        self,
        q: FloatArray,
        pool: NumpyKVPool,
        *,
        page_table: IntArray,
        batch: Batch,
        window: int | None,
        scale: float,
        gate: FloatArray | None,
    ) -> FloatArray:
        n, n_kv_heads = len(q), pool.keys.shape[2]
        queries = q.reshape(n, n_kv_heads, -1, pool.keys.shape[-1])  # [n, g, h / g, key_dim]
        out = np.empty((*queries.shape[:3], pool.values.shape[-1]), np.float32)
        for row, tokens in _rows_of(batch):
            for i in range(tokens.start, tokens.stop):
                last = int(batch.positions[i])
                first = 0 if window is None else max(0, last - window + 1)
                page, slot = np.divmod(np.arange(first, last + 1), PAGE_TOKENS)
                pages = page_table[row, page]
                keys = pool.keys[pages, slot].astype(np.float32)  # [seen, g, key_dim]
                values = pool.values[pages, slot].astype(np.float32)
                scores = np.einsum("ghd,tgd->ght", queries[i], keys) * np.float32(scale)
                out[i] = np.einsum("ght,tgd->ghd", _softmax(scores), values)
        if gate is not None:
            out *= _sigmoid(gate).reshape(n, n_kv_heads, -1, 1)
        return np.asarray(out.reshape(n, -1))

    def ffn(self, x: FloatArray, weights: GatedFFN) -> FloatArray:
        gate, up = self.linear(x, (weights.gate, weights.up))
        return np.asarray(self.linear(_swiglu(gate, up, weights.limit), (weights.down,))[0])

    def route(
        self, x: FloatArray, router: NumpyWeight, bias: FloatArray | None, routing: Routing
    ) -> tuple[IntArray, FloatArray]:
        scores = routing_scores(x, router, routing)
        choice = scores if bias is None else scores + bias
        ids = np.argsort(-choice, axis=-1, kind="stable")[:, : routing.top_k]
        weights = np.take_along_axis(scores, ids, axis=-1)
        if routing.normalize:
            weights = weights / np.maximum(weights.sum(axis=-1, keepdims=True), np.float32(SMALLEST_WEIGHT_SUM))
        return ids.astype(np.int32), (weights * np.float32(routing.scale)).astype(np.float32)

    def experts(
        self, x: FloatArray, ids: IntArray, weights: FloatArray, routed: GatedFFN, shared: GatedFFN | None
    ) -> FloatArray:
        out = np.zeros_like(x)
        for expert in np.unique(ids):
            tokens, choices = np.nonzero(ids == expert)
            gate, up, down = (w.matrix(int(expert)) for w in (routed.gate, routed.up, routed.down))
            hidden = _swiglu(x[tokens] @ gate.T, x[tokens] @ up.T, routed.limit)
            out[tokens] += weights[tokens, choices, None] * (hidden @ down.T)
        return out if shared is None else out + self.ffn(x, shared)

    def expect(
        self,
        x: FloatArray,
        norm: FloatArray,
        epsilon: float,
        router: NumpyWeight,
        bias: FloatArray | None,
        routing: Routing,
        routed: GatedFFN,
    ) -> None:
        """All experts are in memory."""

    def concat_norms(
        self, a: FloatArray, a_weight: FloatArray, b: FloatArray, b_weight: FloatArray, epsilon: float
    ) -> FloatArray:
        return np.concatenate([_rms_norm(a, a_weight, epsilon), _rms_norm(b, b_weight, epsilon)], axis=-1)

    def rows(self, x: FloatArray, indices: IntArray) -> FloatArray:
        return x[indices]

    def from_host(self, x: FloatArray) -> FloatArray:
        return x

    def to_host(self, x: FloatArray) -> FloatArray:
        return x

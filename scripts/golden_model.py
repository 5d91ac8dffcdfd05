"""Tiny models with random weights, written as GGUF files: what `make_golden.py` feeds to llama.cpp."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as QuantType

SPECIAL = ("<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>")
MERGES = ("t h", "th e", "i n", "a n", "an d", "o n", "e r")
PRE_TOKENIZERS = {"step35": "deepseek-v3", "llama": "llama-bpe", "qwen2": "qwen2"}
N_VOCAB = 3 + 256 + len(MERGES) + len(SPECIAL)

Weights = dict[str, tuple[np.ndarray, QuantType]]
"""Tensors by name: float32 values or blocks of bytes, and which of them."""


@dataclass(frozen=True)
class Model:
    """A model's shape. Sequences have one entry per block, draft blocks last.

    ``types`` maps regular expressions of tensor names to quantisation types; the first that is found in a name
    holds, and what no expression names is F32. ``metadata`` are further keys, or other values of the usual ones.
    """

    architecture: str
    n_heads: tuple[int, ...]
    n_kv_heads: int
    seed: int
    n_embd: int = 48
    head_dim: int = 16
    ff: int = 80
    n_draft: int = 0
    draft_tensors: bool = True
    draft_own_tables: bool = False
    sliding: tuple[bool, ...] = ()
    window: int = 8
    n_dense: int = 1
    n_experts: int = 0
    top_k: int = 0
    ff_exp: int = 24
    ff_shared: int = 40
    tied: bool = False
    qkv_bias: bool = False
    rope_factors: bool = False
    theta: float = 10000.0
    types: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_blocks(self) -> int:
        return len(self.n_heads)

    @property
    def n_trunk(self) -> int:
        return self.n_blocks - self.n_draft


def random_weights(model: Model) -> dict[str, np.ndarray]:
    """Float32 values of every tensor, so scaled that attention, routing and gates all make a difference."""
    rng = np.random.default_rng(model.seed)

    def matrix(*shape: int, gain: float = 1.0) -> np.ndarray:
        return rng.standard_normal(shape, np.float32) * np.float32(gain * shape[-1] ** -0.5)

    def vector(size: int, mean: float = 1.0, spread: float = 0.2) -> np.ndarray:
        return np.float32(mean) + np.float32(spread) * rng.standard_normal(size, np.float32)

    def feed_forward(prefix: str, suffix: str, width: int, *stack: int) -> Iterator[tuple[str, np.ndarray]]:
        d = model.n_embd
        yield f"{prefix}ffn_gate{suffix}.weight", matrix(*stack, width, d, gain=1.3)
        yield f"{prefix}ffn_up{suffix}.weight", matrix(*stack, width, d)
        yield f"{prefix}ffn_down{suffix}.weight", matrix(*stack, d, width)

    def block(index: int) -> Iterator[tuple[str, np.ndarray]]:
        d, dim, h, g, p = model.n_embd, model.head_dim, model.n_heads[index], model.n_kv_heads, f"blk.{index}."
        is_step = model.architecture == "step35"
        # Without norms on q and k it takes larger weights for attention to choose.
        gain = 1.0 if is_step else 1.6
        yield p + "attn_norm.weight", vector(d)
        for name, size in (("q", h * dim), ("k", g * dim), ("v", g * dim)):
            yield f"{p}attn_{name}.weight", matrix(size, d, gain=1.0 if name == "v" else gain)
            if model.qkv_bias:
                yield f"{p}attn_{name}.bias", vector(size, 0.0, 0.5)
        yield p + "attn_output.weight", matrix(d, h * dim, gain=2.0)
        if is_step:
            yield p + "attn_q_norm.weight", vector(dim, 1.5)
            yield p + "attn_k_norm.weight", vector(dim, 1.5)
            yield p + "attn_gate.weight", matrix(h, d, gain=1.5)
        yield p + "ffn_norm.weight", vector(d)
        if model.n_experts == 0 or index < model.n_dense or index >= model.n_trunk:
            yield from feed_forward(p, "", model.ff)
        else:
            yield p + "ffn_gate_inp.weight", matrix(model.n_experts, d, gain=1.5)
            yield p + "exp_probs_b.bias", vector(model.n_experts, 0.0, 0.3)
            yield from feed_forward(p, "_exps", model.ff_exp, model.n_experts)
            yield from feed_forward(p, "_shexp", model.ff_shared)

    def draft(index: int) -> Iterator[tuple[str, np.ndarray]]:
        d, p = model.n_embd, f"blk.{index}.nextn."
        yield from block(index)
        yield p + "eh_proj.weight", matrix(d, 2 * d, gain=1.5)
        yield p + "enorm.weight", vector(d)
        yield p + "hnorm.weight", vector(d)
        if model.draft_own_tables:
            yield p + "shared_head_norm.weight", vector(d)
            yield p + "shared_head_head.weight", matrix(N_VOCAB, d, gain=2.0)
            yield p + "embed_tokens.weight", matrix(N_VOCAB, d, gain=d**0.5)

    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        # Where it is the output matrix too, it must not make the logits too sure.
        yield "token_embd.weight", matrix(N_VOCAB, model.n_embd, gain=2.0 if model.tied else model.n_embd**0.5)
        yield "output_norm.weight", vector(model.n_embd)
        if not model.tied:
            yield "output.weight", matrix(N_VOCAB, model.n_embd, gain=2.0)
        if model.rope_factors:
            # As llama3 scaling has it: fast pairs keep their pace, slow ones are stretched; the tail is padding.
            half = model.head_dim // 2
            n_used = half // 2 if model.architecture == "step35" else half
            factors = np.ones(half, np.float32)
            factors[:n_used] = np.linspace(1.0, 2.0, n_used, dtype=np.float32)
            yield "rope_freqs.weight", factors
        for index in range(model.n_trunk):
            yield from block(index)
        if model.draft_tensors:
            for index in range(model.n_trunk, model.n_blocks):
                yield from draft(index)

    return dict(tensors())


class Quantizer:
    """llama.cpp's own quantiser, so that the blocks are those that users have.

    Args:
        library: path of ``libggml-base``.
    """

    def __init__(self, library: Path) -> None:
        self._chunk = ctypes.CDLL(str(library)).ggml_quantize_chunk
        self._chunk.restype = ctypes.c_size_t
        pointer, integer = ctypes.c_void_p, ctypes.c_int64
        self._chunk.argtypes = [ctypes.c_int, pointer, pointer, integer, integer, integer, pointer]

    def quantize(self, values: np.ndarray, kind: QuantType) -> np.ndarray:
        """uint8 [..., bytes per row] of float32 [..., row length]."""
        values = np.ascontiguousarray(values, np.float32)
        block_size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        if values.shape[-1] % block_size:
            raise ValueError(f"rows of {values.shape[-1]} values do not divide into {kind.name} blocks")
        out = np.empty((*values.shape[:-1], values.shape[-1] // block_size * block_bytes), np.uint8)
        n_rows = values.size // values.shape[-1]
        # Types that insist on an importance matrix get an even one.
        even = np.ones(values.shape[-1], np.float32)
        written = self._chunk(kind, values.ctypes.data, out.ctypes.data, 0, n_rows, values.shape[-1], even.ctypes.data)
        if written != out.nbytes:
            raise RuntimeError(f"{kind.name}: {written} bytes were written, {out.nbytes} expected")
        return out

    def apply(self, model: Model, weights: Mapping[str, np.ndarray]) -> Weights:
        """Give each tensor the type that the model's recipe names."""
        quantized: Weights = {}
        for name, values in weights.items():
            kind = next((QuantType[kind] for part, kind in model.types.items() if re.search(part, name)), QuantType.F32)
            plain = kind == QuantType.F32 or values.ndim == 1 or "ffn_gate_inp" in name
            quantized[name] = (values, QuantType.F32) if plain else (self.quantize(values, kind), kind)
        return quantized


def dequantized(weights: Weights) -> Weights:
    """The same weights in F32, by the ``gguf`` package's mathematics."""
    return {
        name: (values if kind == QuantType.F32 else gguf.quants.dequantize(values, kind), QuantType.F32)
        for name, (values, kind) in weights.items()
    }


def metadata(model: Model) -> dict[str, Any]:
    """The architecture's keys, without its prefix; None in ``model.metadata`` leaves a key out."""
    keys: dict[str, Any] = {
        "context_length": 4096,
        "embedding_length": model.n_embd,
        "block_count": model.n_blocks,
        "feed_forward_length": model.ff,
        "attention.head_count": model.n_heads[0],
        "attention.head_count_kv": model.n_kv_heads,
        "attention.key_length": model.head_dim,
        "attention.value_length": model.head_dim,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": model.head_dim,
        "rope.freq_base": model.theta,
    }
    if model.architecture == "step35":
        keys |= {
            "attention.head_count": model.n_heads,
            "attention.head_count_kv": [model.n_kv_heads] * model.n_blocks,
            "attention.sliding_window": model.window,
            "attention.sliding_window_pattern": model.sliding,
            "rope.freq_base_swa": 1000.0,
            "expert_count": model.n_experts,
            "expert_used_count": model.top_k,
            "expert_feed_forward_length": model.ff_exp,
            "expert_shared_feed_forward_length": model.ff_shared,
            "expert_weights_scale": 3.0,
            "expert_weights_norm": True,
            "expert_gating_func": 2,
            "leading_dense_block_count": model.n_dense,
            "nextn_predict_layers": model.n_draft or None,
        }
    return {key: value for key, value in (keys | dict(model.metadata)).items() if value is not None}


def byte_characters() -> list[str]:
    """GPT-2's printable stand-in for each byte."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = iter(range(256, 512))
    return [chr(byte if byte in kept else next(moved)) for byte in range(256)]


def write_model(path: Path, model: Model, weights: Weights, tensors_per_file: int = 0) -> list[Path]:
    """Write a file, or a split model of ``tensors_per_file`` tensors each named as llama.cpp's gguf-split does."""
    writer = gguf.GGUFWriter(path, model.architecture, split_max_tensors=tensors_per_file)
    writer.add_name(path.stem)
    for key, value in metadata(model).items():
        _add(writer, f"{model.architecture}.{key}", value)

    tokens = ["<|begin|>", "<|end|>", "<|pad|>", *byte_characters()]
    tokens += [merge.replace(" ", "") for merge in MERGES] + list(SPECIAL)
    normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZERS[model.architecture])
    writer.add_token_list(tokens)
    writer.add_token_types([control] * 3 + [normal] * (256 + len(MERGES)) + [control] * len(SPECIAL))
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(True)

    for name, (values, kind) in weights.items():
        writer.add_tensor(name, values, raw_dtype=None if kind == QuantType.F32 else kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(path.parent.glob(f"{path.stem}-?????-of-?????.gguf")) if tensors_per_file else [path]


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """Add a value under the type that its Python type suggests."""
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, list(value))

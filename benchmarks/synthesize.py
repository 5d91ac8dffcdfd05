"""Write a GGUF file with a real model's layer shapes and random weights: benchmarks without a download.

    python benchmarks/synthesize.py OUT.gguf --shape step35 --layers 5 --dense 1 --types IQ4_XS+Q8_0
    python benchmarks/synthesize.py OUT.gguf --shape llama-8b --types Q4_K_M

Speed and memory are the real model's for the same number of layers, words mean nothing. Types: one for all matrices;
A+B for step35, the routed experts' and the rest's; or llama.cpp's mix Q4_K_M. With --tekken FILE the tokens are a real
vocabulary's (`benchmarks/tekken.py`): the speed of grammars depends on them. Needs `pip install '.[test]'`.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tekken
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter, TokenType
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from tokenizers.pre_tokenizers import ByteLevel

from stride.gguf import QuantType
from stride.gguf.arrays import Blocks, Bytes
from stride.gguf.quants import dequantize, quantize
from stride.gguf.quants_layout import LAYOUTS

HEAD_DIM = 128
EXPERTS, TOP_K, FF_EXPERT, WINDOW, WINDOW_HEADS = 288, 8, 1280, 512, 96
"""Of step35."""
PIECE = 1 << 22
"""Values that are made and written at a time; a multiple of all block sizes."""
MIX = "Q4_K_M"
CENTRES = {QuantType.Q2_K: 1.5, QuantType.Q4_1: 7.5, QuantType.Q4_K: 7.5, QuantType.Q5_1: 15.5, QuantType.Q5_K: 15.5}
"""The mean code of the types whose blocks have a minimum: what the minimum must take away to leave a mean of zero."""
PLAIN = (QuantType.F32, QuantType.F16, QuantType.BF16)
KINDS = {kind.label: kind for kind in (*PLAIN, *LAYOUTS) if kind is not QuantType.MXFP4}
"""All but one of what Stride reads: MXFP4 has exponents for scales."""
VALUE_TYPES = {bool: GGUFValueType.BOOL, int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT32}
MERGES = ("t h", "th e", "i n", "a n", "an d", "o n", "e r")


@dataclass(frozen=True)
class Shape:
    architecture: str
    name: str
    layers: int
    dim: int
    heads: int
    kv_heads: int
    ff: int
    vocab: int
    context: int
    theta: float
    epsilon: float
    types: str
    pre: str
    special: dict[int, str]
    bos: int
    eos: int
    add_bos: bool = True
    biases: bool = False
    dense: int = 0
    """Of step35: leading layers without experts."""
    drafts: int = 0
    """Of step35: heads that draft, a block each after the layers."""

    @property
    def is_step(self) -> bool:
        return self.architecture == "step35"

    def is_sliding(self, block: int) -> bool:
        """Whether a block of step35 has a window: of the layers, all but each fourth."""
        return block >= self.layers or block % 4 != 0

    def heads_of(self, block: int) -> int:
        return WINDOW_HEADS if self.is_step and self.is_sliding(block) else self.heads


SHAPES = {
    "step35": Shape(
        "step35", "Step 3.5 Flash", layers=45, dim=4096, heads=64, kv_heads=8, ff=11264, vocab=128896, context=262144,
        theta=5e6, epsilon=1e-5, types="IQ4_XS+Q8_0", pre="deepseek-v3", bos=0, eos=128007, dense=3,
        special={
            0: "<|begin_of_sentence|>", 1: "<|end_of_sentence|>", 2: "<|pad|>", 128006: "<|im_start|>",
            128007: "<|im_end|>", 128008: "<think>", 128009: "</think>", 128010: "<tool_call>", 128011: "</tool_call>",
        },
    ),
    "llama-8b": Shape(
        "llama", "Llama 3.1 8B", layers=32, dim=4096, heads=32, kv_heads=8, ff=14336, vocab=128256, context=131072,
        theta=5e5, epsilon=1e-5, types=MIX, pre="llama-bpe", bos=128000, eos=128009,
        special={
            128000: "<|begin_of_text|>", 128001: "<|end_of_text|>", 128006: "<|start_header_id|>",
            128007: "<|end_header_id|>", 128009: "<|eot_id|>",
        },
    ),
    "qwen2-7b": Shape(
        "qwen2", "Qwen2.5 7B", layers=28, dim=3584, heads=28, kv_heads=4, ff=18944, vocab=152064, context=131072,
        theta=1e6, epsilon=1e-6, types=MIX, pre="qwen2", bos=151643, eos=151645, add_bos=False, biases=True,
        special={151643: "<|endoftext|>", 151644: "<|im_start|>", 151645: "<|im_end|>"},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """Values of this mean and standard deviation; blocks have mean zero."""

    name: str
    dims: tuple[int, ...]
    kind: QuantType
    deviation: float
    mean: float = 0.0

    @property
    def n_values(self) -> int:
        return math.prod(self.dims)

    @property
    def n_bytes(self) -> int:
        return self.kind.row_bytes(self.n_values)

    def pieces(self, rng: np.random.Generator) -> Iterator[Bytes]:
        for start in range(0, self.n_values, PIECE):
            n = min(PIECE, self.n_values - start)
            if self.kind in PLAIN:
                values = rng.standard_normal(n, np.float32) * np.float32(self.deviation) + np.float32(self.mean)
                yield quantize(values, self.kind)
            else:
                scale = self.deviation / unit_deviation(self.kind)
                yield random_blocks(self.kind, n // self.kind.block_size, scale, rng).view(np.uint8)


def random_blocks(kind: QuantType, n: int, scale: float, rng: np.random.Generator) -> Blocks:
    """Random codes and group scales, as quantisers may write them, under block scales of this magnitude."""
    words = rng.integers(0, 1 << 64, -(-n * kind.block_bytes // 8), np.uint64)
    blocks = words.view(np.uint8)[: n * kind.block_bytes].view(LAYOUTS[kind])
    if kind not in CENTRES:
        blocks["d"] = np.copysign(np.float16(scale), blocks["d"])  # codes have a small mean, signs cancel it
        if kind is QuantType.Q8_0:
            np.maximum(blocks["q"], -127, out=blocks["q"])
        return blocks
    blocks["d"] = scale
    if kind in (QuantType.Q4_1, QuantType.Q5_1):
        blocks["m"] = -CENTRES[kind] * scale
        return blocks
    blocks["dmin"] = CENTRES[kind] * scale
    # Each group's minimum gets the code of its scale.
    scales = blocks["scales"]
    if kind is QuantType.Q2_K:
        scales[:] = (scales & 15) * 17
    else:
        scales[:, 4:8] = scales[:, :4]
        scales[:, 8:] = (scales[:, 8:] & 15) * 17
    return blocks


@functools.cache
def unit_deviation(kind: QuantType) -> float:
    """Standard deviation of the values of random blocks whose scale is 1."""
    blocks = random_blocks(kind, 1 << 11, 1.0, np.random.default_rng(0))
    return float(dequantize(blocks.view(np.uint8), kind).std())


def matrix_kind(types: str, name: str, layers: int) -> QuantType:
    """The type that a recipe gives to a matrix."""
    *block, part = name.split(".")
    if types == MIX:
        is_fine = part == "output" or (part in ("attn_v", "ffn_down") and has_more_bits(int(block[1]), layers))
        return QuantType.Q6_K if is_fine else QuantType.Q4_K
    first, _, rest = types.partition("+")
    return KINDS[first if part.endswith("_exps") else rest or first]


def has_more_bits(layer: int, layers: int) -> bool:
    """llama.cpp's choice of half of the layers: the first and last eighth, and every third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def tensors(shape: Shape, types: str) -> Iterator[Tensor]:
    """All tensors, in the file's order."""

    def matrix(name: str, *dims: int, deviation: float | None = None) -> Tensor:
        kind = matrix_kind(types, name, shape.layers)
        if dims[-1] % kind.block_size:
            kind = QuantType.Q8_0
        return Tensor(name + ".weight", dims, kind, deviation or dims[-1] ** -0.5)

    def vector(name: str, size: int, mean: float = 1.0, deviation: float = 0.0) -> Tensor:
        return Tensor(name, (size,), QuantType.F32, deviation, mean)

    def feed_forward(prefix: str, suffix: str, width: int, *stack: int) -> Iterator[Tensor]:
        yield matrix(f"{prefix}ffn_gate{suffix}", *stack, width, shape.dim)
        yield matrix(f"{prefix}ffn_up{suffix}", *stack, width, shape.dim)
        yield matrix(f"{prefix}ffn_down{suffix}", *stack, shape.dim, width)

    yield matrix("token_embd", shape.vocab, shape.dim, deviation=1.0)
    yield vector("output_norm.weight", shape.dim)
    yield matrix("output", shape.vocab, shape.dim)
    for layer in range(shape.layers + shape.drafts):
        p, heads = f"blk.{layer}.", shape.heads_of(layer)
        yield vector(p + "attn_norm.weight", shape.dim)
        for letter, n in (("q", heads), ("k", shape.kv_heads), ("v", shape.kv_heads)):
            yield matrix(f"{p}attn_{letter}", n * HEAD_DIM, shape.dim)
            if shape.biases:
                yield vector(f"{p}attn_{letter}.bias", n * HEAD_DIM, 0.0, 0.1)
        yield matrix(p + "attn_output", shape.dim, heads * HEAD_DIM)
        if shape.is_step:
            yield vector(p + "attn_q_norm.weight", HEAD_DIM)
            yield vector(p + "attn_k_norm.weight", HEAD_DIM)
            yield matrix(p + "attn_gate", heads, shape.dim)
        yield vector(p + "ffn_norm.weight", shape.dim)
        if not shape.is_step or layer < shape.dense or layer >= shape.layers:
            yield from feed_forward(p, "", shape.ff)
        else:
            yield Tensor(p + "ffn_gate_inp.weight", (EXPERTS, shape.dim), QuantType.F32, shape.dim**-0.5)
            yield vector(p + "exp_probs_b.bias", EXPERTS, 0.0, 0.01)
            yield from feed_forward(p, "_exps", FF_EXPERT, EXPERTS)
            yield from feed_forward(p, "_shexp", FF_EXPERT)
        if layer >= shape.layers:
            yield matrix(p + "nextn.eh_proj", shape.dim, 2 * shape.dim)
            for norm in ("enorm", "hnorm", "shared_head_norm"):
                yield vector(f"{p}nextn.{norm}.weight", shape.dim)


def add_metadata(writer: GGUFWriter, shape: Shape) -> None:
    layers = range(shape.layers + shape.drafts)
    keys: dict[str, Any] = {
        "context_length": shape.context,
        "embedding_length": shape.dim,
        "block_count": len(layers),
        "feed_forward_length": shape.ff,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads,
        "attention.key_length": HEAD_DIM,
        "attention.value_length": HEAD_DIM,
        "attention.layer_norm_rms_epsilon": shape.epsilon,
        "rope.dimension_count": HEAD_DIM,
        "rope.freq_base": shape.theta,
    }
    if shape.is_step:
        keys |= {
            "attention.head_count": [shape.heads_of(layer) for layer in layers],
            "attention.head_count_kv": [shape.kv_heads for _ in layers],
            "attention.sliding_window": WINDOW,
            "attention.sliding_window_pattern": [shape.is_sliding(layer) for layer in layers],
            "rope.freq_base_swa": 1e4,
            "expert_count": EXPERTS,
            "expert_used_count": TOP_K,
            "expert_feed_forward_length": FF_EXPERT,
            "expert_shared_feed_forward_length": FF_EXPERT,
            "expert_weights_scale": 3.0,
            "expert_weights_norm": True,
            "expert_gating_func": 2,
            "leading_dense_block_count": shape.dense,
            "moe_every_n_layers": 1,
            "swiglu_clamp_exp": [7.0 if shape.layers - 2 <= layer < shape.layers else 0.0 for layer in layers],
            "swiglu_clamp_shexp": [16.0 if layer == shape.layers - 1 else 0.0 for layer in layers],
        }
    if shape.drafts:
        keys["nextn_predict_layers"] = shape.drafts
    writer.add_type("model")
    writer.add_name(f"{shape.name}, {shape.layers} layers, random weights")
    for key, value in keys.items():
        if isinstance(value, list):
            writer.add_array(f"{shape.architecture}.{key}", value)
        else:
            writer.add_key_value(f"{shape.architecture}.{key}", value, VALUE_TYPES[type(value)])


def add_tokenizer(writer: GGUFWriter, shape: Shape, vocabulary: Path | None) -> None:
    """Byte-level BPE: the special tokens at their real ids, between them a real vocabulary, or the bytes, a few
    merges and fillers."""
    if vocabulary is None:
        texts, merges = [*sorted(ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in MERGES)], [*MERGES]
    else:
        texts, merges = tekken.read(vocabulary, shape.vocab - len(shape.special))
    words = iter(texts)
    tokens = [
        (shape.special[i], TokenType.CONTROL) if i in shape.special
        else (word, TokenType.NORMAL) if (word := next(words, None))
        else (f"<|filler_{i}|>", TokenType.UNUSED)
        for i in range(shape.vocab)
    ]  # fmt: skip
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(shape.pre if vocabulary is None else "tekken")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(shape.bos)
    writer.add_eos_token_id(shape.eos)
    writer.add_add_bos_token(shape.add_bos)


def write(path: Path, shape: Shape, contents: list[Tensor], seed: int, vocabulary: Path | None) -> None:
    """Piece by piece, under another name until it is whole. Stride's own writer takes whole tensors only."""
    rng = np.random.Generator(np.random.SFC64(seed))
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    writer = GGUFWriter(partial, shape.architecture)
    add_metadata(writer, shape)
    add_tokenizer(writer, shape, vocabulary)
    for tensor in contents:
        kind = GGMLQuantizationType(tensor.kind)
        writer.add_tensor_info(tensor.name, tensor.dims, np.dtype(np.float32), tensor.n_bytes, kind)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        assert writer.fout
        file = writer.fout[0]
        writer.write_padding(file, file.tell())
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task(path.name, total=sum(tensor.n_bytes for tensor in contents))
            for tensor in contents:
                for piece in tensor.pieces(rng):
                    file.write(piece.data)
                    bar.advance(task, piece.nbytes)
                writer.write_padding(file, tensor.n_bytes)
        writer.close()
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")
    return int(text)


def arguments() -> tuple[argparse.Namespace, Shape, list[Tensor]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT.gguf")
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--layers", type=natural, metavar="N", help="default: all of the real model's")
    parser.add_argument("--dense", type=natural, metavar="N", help="step35: leading layers without experts (default 3)")
    parser.add_argument("--drafts", type=natural, default=0, metavar="N", help="step35: heads that draft (the real: 3)")
    parser.add_argument("--types", metavar="TYPES", help=f"default: IQ4_XS+Q8_0 for step35, else {MIX}")
    parser.add_argument("--tekken", type=Path, metavar="FILE", help="a tekken.json: a real vocabulary")
    parser.add_argument("--seed", type=natural, default=0)
    given = parser.parse_args()

    shape = SHAPES[given.shape]
    layers, types = shape.layers if given.layers is None else given.layers, given.types or shape.types
    dense = shape.dense if given.dense is None else given.dense
    names = types.split("+")
    if layers == 0:
        parser.error("argument --layers: a model has at least one")
    if given.dense is not None and not shape.is_step:
        parser.error(f"argument --dense: {given.shape} has no experts")
    if given.drafts and not shape.is_step:
        parser.error(f"argument --drafts: {given.shape} has no such heads")
    if len(names) > (2 if shape.is_step else 1):
        parser.error(f"argument --types: {types} has too many types for {given.shape}")
    if types == MIX and shape.is_step:
        parser.error(f"argument --types: {MIX} is not for step35")
    if types != MIX and (unknown := sorted(set(names) - KINDS.keys())):
        parser.error(f"argument --types: no {', '.join(unknown)}; known are {', '.join(KINDS)}")
    if not given.out.parent.is_dir() or given.out.is_dir():
        parser.error(f"argument OUT.gguf: {given.out} is a folder or in none")
    shape = replace(shape, layers=layers, dense=min(dense, layers), drafts=given.drafts)
    contents = list(tensors(shape, types))
    size, free = sum(tensor.n_bytes for tensor in contents), shutil.disk_usage(given.out.parent).free
    if size > free:
        parser.error(f"argument OUT.gguf: takes {size / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free there")
    return given, shape, contents


def main() -> None:
    given, shape, contents = arguments()
    write(given.out, shape, contents, given.seed, given.tekken)
    n_values, n_bytes = sum(tensor.n_values for tensor in contents), given.out.stat().st_size
    print(f"{given.out}: {n_bytes / 1e9:.2f} GB, {n_values / 1e9:.2f}B weights of {8 * n_bytes / n_values:.2f} bits")


if __name__ == "__main__":
    main()

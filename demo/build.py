#!/usr/bin/env python3
"""Build the demo model that ships inside the package.

    python demo/build.py [--weights FILE] [--out FOLDER] [--exact]

Without ``--weights`` (an .npz of float32 arrays named as in the file) they are drawn from a fixed seed.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import config
import numpy as np
import tokenizer

from stride import demo
from stride.chat.template import builtin
from stride.gguf import QuantType
from stride.gguf.quants import quantize
from stride.gguf.writer import write_gguf

OUTPUT_GAIN = 0.5
"""Standard deviation of the logits of untrained weights: the context matters, and nothing is likely."""

STEM, N_PARTS = "demo", 2
"""It is in parts as large models are."""

Weights = Mapping[str, np.ndarray]


def seeded_weights() -> dict[str, np.ndarray]:
    """Untrained values of every tensor: each block keeps the scale of what it is given."""
    rng = np.random.default_rng(config.SEED)
    return {name: _initial(name, shape, rng) for name, shape in config.shapes().items()}


def _initial(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if name == "rope_freqs.weight":
        return config.rope_factors()
    if name.endswith("norm.weight"):
        return np.ones(shape, np.float32)
    values = rng.standard_normal(shape, np.float32)
    if name == "token_embd.weight":
        return values
    if name.endswith("exp_probs_b.bias"):
        return values * np.float32(0.01)
    gain = OUTPUT_GAIN if name == "output.weight" else 1.0
    if "attn_output" in name or "ffn_down" in name:
        # Two contributions of each trunk block add up in the residual stream.
        gain = (2 * config.N_TRUNK) ** -0.5
    return values * np.float32(gain * shape[-1] ** -0.5)


def type_of(name: str, shape: tuple[int, ...]) -> QuantType:
    """The recipe of the real model's file: experts IQ4_XS, other matrices Q8_0, vectors and routers F32."""
    if len(shape) == 1 or "ffn_gate_inp" in name:
        return QuantType.F32
    return QuantType.IQ4_XS if "_exps" in name else QuantType.Q8_0


def exact(name: str, shape: tuple[int, ...]) -> QuantType:
    """Every weight as it was trained, to compare with."""
    return QuantType.F32


def metadata(description: str) -> dict[str, Any]:
    """Everything the file says besides its tensors."""
    vocabulary = tokenizer.vocabulary()
    return {
        "general.architecture": "step35",
        "general.type": "model",
        "general.name": "Stride demo",
        "general.description": description,
        "general.license": "apache-2.0",
        **{f"step35.{key}": value for key, value in config.metadata().items()},
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": tokenizer.PRE_TOKENIZER,
        "tokenizer.ggml.tokens": list(vocabulary.tokens),
        "tokenizer.ggml.token_type": np.array(vocabulary.types, np.int32),
        "tokenizer.ggml.merges": list(vocabulary.merges),
        "tokenizer.ggml.bos_token_id": tokenizer.BOS,
        "tokenizer.ggml.eos_token_id": tokenizer.EOS,
        "tokenizer.ggml.eot_token_id": vocabulary.end_of_turn,
        "tokenizer.ggml.padding_token_id": tokenizer.PAD,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": builtin("step35"),
    }


def build(
    weights: Weights, description: str, folder: Path, types: Callable[[str, tuple[int, ...]], QuantType] = type_of
) -> tuple[Path, ...]:
    """Quantise the weights and write the parts; gives their paths."""
    shapes = config.shapes()
    for name, shape in shapes.items():
        if weights[name].shape != shape:
            raise ValueError(f"{name} is {weights[name].shape}, not {shape}")
    kinds = {name: types(name, shape) for name, shape in shapes.items()}
    tensors = [(name, (quantize(weights[name], kind), kind)) for name, kind in kinds.items()]
    # The second part holds the draft layers and the trunk's last ones.
    n_first = -(-len(tensors) // N_PARTS)
    return write_gguf(folder / f"{STEM}.gguf", metadata(description), tensors, split_max_tensors=n_first)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the demo model that ships inside the package.")
    parser.add_argument("--weights", type=Path, help="trained weights (.npz); without it they are seeded")
    parser.add_argument("--out", type=Path, default=demo.path().parent, help="folder")
    parser.add_argument("--exact", action="store_true", help="do not quantise, to compare with")
    arguments = parser.parse_args()
    if arguments.weights is None:
        weights: Weights = seeded_weights()
        description = "Every feature of Step 3.5 Flash in a few megabytes, with seeded, untrained weights."
    else:
        with np.load(arguments.weights) as arrays:
            weights = dict(arrays)
        description = "Every feature of Step 3.5 Flash in a few megabytes, trained on synthetic text."
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path in build(weights, description, arguments.out, exact if arguments.exact else type_of):
        data = path.read_bytes()
        print(f"{path}: {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}")
    print(f"{sum(values.size for values in weights.values())} weights")


if __name__ == "__main__":
    main()

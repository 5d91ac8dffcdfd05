#!/usr/bin/env python3
"""Make ``tests/golden``: tiny GGUF models and the logits that llama.cpp computes for them.

    pip install numpy gguf llama-cpp-python
    python scripts/make_golden.py                         # the committed cases, anew
    python scripts/make_golden.py --random 20 --seed 7 --out /tmp/golden    # other shapes, to try further

Each case is NAME.gguf (or its parts), NAME.npz and an entry of index.json. The arrays:

    tokens       int32 [n], one sequence from position 0
    positions    int32 [m], where logits are kept
    logits       float32 [m, vocabulary], llama.cpp on the file
    exact        float32 [m, vocabulary], llama.cpp on the file's weights dequantised to F32 (quantised cases only)
    draft_0 ...  float32 [n - 1 - k, vocabulary], draft head k after each token but the last 1 + k: it is given the
                 state of position i (the trunk's before the final norm, or head k - 1's) and token i + 1 + k
    llama_kl     float64 [n], how far llama.cpp's distribution is from that of the dequantised weights, in nats: what
                 its arithmetic on quantised weights costs (quantised cases only); the index has the mean

llama.cpp runs with an F32 cache, no flash attention and the whole sequence as one batch. The last digits of ``logits``,
and with them ``llama_kl``, depend on the kernels that it has for the machine.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from golden_model import N_VOCAB, Model, Quantizer, dequantized, random_weights, write_model
from golden_reference import Reference, ggml_library

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"
EXPERTS_IQ4_XS = {"_exps": "IQ4_XS", "": "Q8_0"}


@dataclass(frozen=True)
class Case:
    """A model, what it is there for, and how long its sequence is; the last ``n_kept`` positions are kept."""

    name: str
    purpose: str
    model: Model
    n_tokens: int = 48
    n_kept: int = 0
    tensors_per_file: int = 0


def step35(seed: int, sliding: str, heads: tuple[int, int], **shape: Any) -> Model:
    """A ``step35`` model. ``sliding``: a letter per block, f(ull) or s(liding); ``heads``: of full, of sliding ones."""
    pattern = tuple(letter == "s" for letter in sliding)
    defaults = {"n_experts": 12, "top_k": 3, "rope_factors": True, "n_kv_heads": 2}
    n_heads = tuple(heads[is_sliding] for is_sliding in pattern)
    return Model("step35", n_heads, seed=seed, sliding=pattern, **{**defaults, **shape})


def quantized_step35(
    seed: int, types: Mapping[str, str], heads: tuple[int, int] = (3, 4), n_kv_heads: int = 1, **shape: Any
) -> Model:
    """Rows of 256, as the larger blocks need, in two layers: a dense full one and a MoE one with a window."""
    width = {"n_embd": 256, "head_dim": 32, "ff": 128, "ff_exp": 256, "ff_shared": 64, "n_experts": 4, "top_k": 2}
    return step35(seed, "fs", heads, n_kv_heads=n_kv_heads, rope_factors=False, types=types, **{**width, **shape})


def uniform(architecture: str, seed: int, heads: tuple[int, int], n_layers: int = 3, **shape: Any) -> Model:
    """A model whose layers are all alike; ``heads``: query and key/value heads."""
    return Model(architecture, (heads[0],) * n_layers, heads[1], seed=seed, **shape)


def clamps(routed: str, shared: str) -> Mapping[str, Any]:
    """Clamp arrays from numbers separated by blanks, one per block."""
    return {
        "swiglu_clamp_exp": [float(limit) for limit in routed.split()],
        "swiglu_clamp_shexp": [float(limit) for limit in shared.split()],
    }


def cases() -> Iterator[Case]:
    """What is committed."""
    yield Case(
        "step35-clamps",
        "full and sliding layers, 4 and 6 heads, a clamp of its own in each block (dense ones too), rope factors",
        step35(
            1,
            "fsssf",
            (4, 6),
            metadata=clamps("0.9 0 0.5 0.7 0.35", "0.4 0.3 0.2 0 0.5"),
            n_dense=2,
            n_experts=11,
            ff_shared=24,
        ),
    )  # fmt: skip
    yield Case(
        "step35-odd-heads",
        "5 and 3 heads on one key/value head, 2 of 5 experts, no clamp arrays, no rope factors",
        step35(2, "fssf", (5, 3), n_kv_heads=1, n_experts=5, top_k=2, window=5, rope_factors=False),
    )
    yield Case(
        "step35-split",
        "three files; 3 and 9 heads on 3 key/value heads; starts with a sliding layer",
        step35(3, "sfsf", (3, 9), n_kv_heads=3, n_experts=7, top_k=4, metadata=clamps("0 0 0 0.6", "0 0 0 0.4")),
        tensors_per_file=25,
    )
    yield Case(
        "step35-one-draft",
        "one draft head, which uses the trunk's embedding, final norm and output; keys that converters leave out",
        step35(
            4, "fsss", (4, 6), n_draft=1, window=7, n_experts=6, top_k=2,
            metadata={"rope.dimension_count": None, "expert_gating_func": None},
        ),
    )  # fmt: skip
    yield Case(
        "step35-three-drafts",
        "three draft heads with tables of their own; clamps reach them too",
        step35(
            5, "fssss", (2, 4), n_draft=3, draft_own_tables=True, n_experts=5, top_k=2, n_embd=32, n_kv_heads=2,
            metadata=clamps("0 0.5 0 0 0", "0 0.4 0 0.3 0"),
        ),
    )  # fmt: skip
    yield Case(
        "step35-drafts-elsewhere",
        "declares three draft layers, whose tensors are in no file",
        step35(6, "fsfsss", (4, 6), n_draft=3, draft_tensors=False, n_experts=9, top_k=8, ff_exp=16),
    )
    yield Case(
        "step35-long",
        "300 tokens through windows of 64 and full attention",
        step35(7, "fsf", (2, 4), window=64, n_experts=3, top_k=1),
        n_tokens=300,
        n_kept=40,
    )
    yield Case(
        "step35-iq4_xs",
        "the recipe of the real file: experts IQ4_XS, the rest Q8_0; clamps on",
        quantized_step35(11, EXPERTS_IQ4_XS, metadata=clamps("0 0.6", "0.5 0.4")),
        n_tokens=96,
        n_kept=24,
    )
    yield Case(
        "step35-q4_k-q6_k",
        "experts Q4_K and Q6_K, embedding and attention Q6_K, the rest Q8_0",
        quantized_step35(
            12, {"down_exps": "Q6_K", "_exps|ffn_gate|ffn_up": "Q4_K", "_down|attn_output": "Q8_0", "": "Q6_K"}
        ),
        n_tokens=96,
        n_kept=24,
    )
    yield Case(
        "step35-q5_k-q4_0",
        "Q5_K, Q4_0 and IQ4_NL side by side",
        quantized_step35(
            13, n_experts=3, types={"down_exps": "IQ4_NL", "_exps": "Q5_K", "attn_output|_down": "Q4_0", "": "Q5_K"}
        ),
        n_tokens=96,
        n_kept=24,
    )
    yield Case(
        "step35-f16-bf16",
        "F16 and BF16; rows that are no multiple of 32",
        step35(14, "fsf", (4, 6), types={"_exps|attn_q": "F16", "": "BF16"}, n_embd=72, ff_exp=40, n_experts=6),
        n_tokens=96,
        n_kept=24,
    )
    yield Case(
        "step35-rare-types",
        "Q2_K, Q3_K, Q4_1, Q5_0, Q5_1, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, MXFP4",
        quantized_step35(
            15,
            {
                "gate_exps": "IQ3_S", "up_exps": "IQ3_XXS", "down_exps": "Q3_K", "gate_shexp": "IQ2_S",
                "up_shexp": "IQ2_XS", "_down": "MXFP4", "1.attn_q": "IQ2_XXS", "attn_q": "Q5_0", "attn_k": "Q5_1",
                "attn_v": "Q4_1", "attn_output": "MXFP4", "token_embd": "Q2_K", "": "Q3_K",
            },
        ),
        n_tokens=96,
        n_kept=24,
    )  # fmt: skip
    yield Case(
        "llama-factors",
        "llama3 rope factors; 6 heads on 2; no output matrix of its own",
        uniform("llama", 21, (6, 2), rope_factors=True, tied=True, theta=500000.0),
    )
    yield Case(
        "llama-linear",
        "linear rope scaling by 4; 5 heads on 1",
        uniform("llama", 22, (5, 1), metadata={"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}),
    )
    yield Case(
        "llama-yarn",
        "YaRN by 4 from 64 tokens on",
        uniform("llama", 23, (4, 2), head_dim=32, metadata=yarn(4.0, 64)),
        n_tokens=128,
        n_kept=64,
    )
    yield Case(
        "llama-q4_k-q6_k",
        "what Q4_K_M files of small models look like",
        uniform(
            "llama", 24, (8, 2), n_layers=2, n_embd=256, head_dim=32, ff=256, rope_factors=True,
            types={"output.weight|attn_v|ffn_down": "Q6_K", "": "Q4_K"},
        ),
        n_tokens=96,
        n_kept=24,
    )  # fmt: skip
    yield Case(
        "qwen2",
        "biases on q, k and v; output matrix of its own",
        uniform("qwen2", 31, (6, 2), n_embd=48, head_dim=8, qkv_bias=True, theta=1e6),
    )
    yield Case(
        "qwen2-tied-yarn",
        "biases, YaRN by 2 from 32 tokens on, no output matrix of its own; 7 heads on 1",
        uniform("qwen2", 32, (7, 1), n_embd=56, head_dim=8, qkv_bias=True, tied=True, metadata=yarn(2.0, 32)),
        n_tokens=96,
        n_kept=24,
    )
    yield Case(
        "qwen2-q4_k-q8_0",
        "biases beside Q4_K and Q8_0",
        uniform(
            "qwen2", 33, (4, 1), n_layers=2, n_embd=256, head_dim=64, ff=256, qkv_bias=True, tied=True, theta=1e6,
            types={"ffn_down|token_embd": "Q8_0", "": "Q4_K"},
        ),
        n_tokens=96,
        n_kept=24,
    )  # fmt: skip


def yarn(factor: float, original_context: int) -> Mapping[str, Any]:
    return {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": factor,
        "rope.scaling.original_context_length": original_context,
    }


def random_cases(n: int, seed: int) -> Iterator[Case]:
    """Shapes that nobody chose."""
    rng = np.random.default_rng(seed)
    for index in range(n):
        name, model_seed = f"random-{seed}-{index}", int(rng.integers(1 << 31))
        kind = rng.choice(["step35", "quantized", "llama", "qwen2"], p=[0.4, 0.3, 0.15, 0.15])
        n_kv = int(rng.integers(1, 4))
        heads = (n_kv * int(rng.integers(1, 5)), n_kv * int(rng.integers(1, 5)))
        n_tokens = int(rng.integers(2, 130))
        factors, tied = bool(rng.integers(2)), bool(rng.integers(2))
        if kind in ("llama", "qwen2"):
            scalings = [{}, yarn(float(rng.integers(2, 9)), 32), {"rope.scaling.factor": 3.0}]
            head_dim, is_qwen2 = int(rng.choice([8, 16, 32, 64])), kind == "qwen2"
            model = uniform(
                str(kind), model_seed, (heads[0], n_kv), head_dim=head_dim, tied=tied, qkv_bias=is_qwen2,
                # llama.cpp wants qwen2's heads to fill the embedding.
                n_embd=heads[0] * head_dim if is_qwen2 else int(rng.choice([32, 48, 64, 72, 100])),
                rope_factors=factors and not is_qwen2, metadata=scalings[int(rng.integers(3))],
            )  # fmt: skip
        else:
            n_blocks, n_experts = int(rng.integers(2, 6)), int(rng.integers(1, 14))
            n_draft = int(rng.integers(0, min(3, n_blocks - 1) + 1)) if kind == "step35" else 0
            n_blocks = n_blocks if kind == "step35" else 2
            n_experts = n_experts if kind == "step35" else min(n_experts, 4)
            limits = rng.choice([0.0, 0.2, 0.5, 1.0, 7.0], (2, n_blocks))
            shape: dict[str, Any] = {
                "n_kv_heads": n_kv, "window": int(rng.integers(1, 40)), "n_experts": n_experts,
                "top_k": int(rng.integers(1, n_experts + 1)), "n_dense": int(rng.integers(0, n_blocks - n_draft)),
                "metadata": {
                    "swiglu_clamp_exp": limits[0].tolist(), "swiglu_clamp_shexp": limits[1].tolist(),
                    "expert_gating_func": [None, 1, 2, 2][rng.integers(4)],
                    "expert_weights_norm": [None, False, True, True][rng.integers(4)],
                    "expert_weights_scale": [None, 1.0, 2.5][rng.integers(3)],
                    "rope.freq_base_swa": [None, 500.0][rng.integers(2)],
                },
            }  # fmt: skip
            if kind == "step35":
                pattern = "".join(rng.choice(["f", "s"], n_blocks))
                # llama.cpp sizes the factors by the widest rotation: full width only where a window layer is.
                pattern = pattern[: n_blocks - n_draft - 1].ljust(n_blocks, "s")
                model = step35(
                    model_seed, pattern, heads, rope_factors=factors, n_draft=n_draft,
                    draft_own_tables=tied, head_dim=int(rng.choice([8, 16, 32])), **shape,
                )  # fmt: skip
            else:
                types = ["Q4_0", "Q8_0", "IQ4_NL", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "F16", "BF16"]
                recipe = {f"{part}": str(rng.choice(types)) for part in ("gate_exps", "up_exps", "down_exps", "embd")}
                # Rows of heads and of narrow layers divide into blocks of 32 only.
                recipe |= {"attn_output|_down": str(rng.choice(types[:3])), "": str(rng.choice(types))}
                model = quantized_step35(model_seed, recipe, heads, **shape)
                n_tokens = max(n_tokens, 64)
        yield Case(name, f"random: {model}", model, n_tokens, min(n_tokens, 96))


def make(case: Case, folder: Path, quantizer: Quantizer) -> dict[str, Any]:
    """Write a case's model and arrays; gives its entry of the index."""
    model = case.model
    weights = quantizer.apply(model, random_weights(model))
    files = write_model(folder / f"{case.name}.gguf", model, weights, case.tensors_per_file)
    tokens = np.random.default_rng(model.seed).integers(0, N_VOCAB, case.n_tokens, dtype=np.int32)
    tokens[0] = 0
    kept = np.arange(case.n_tokens, dtype=np.int32)[-case.n_kept :]
    entry: dict[str, Any] = {"name": case.name, "purpose": case.purpose, "file": files[0].name}
    arrays: dict[str, Any] = {"tokens": tokens, "positions": kept}
    with Reference(files[0]) as reference:
        logits, states = reference.logits(tokens)
        arrays["logits"] = logits[kept]
        for head in range(model.n_draft if model.draft_tensors else 0):
            n = case.n_tokens - 1 - head
            arrays[f"draft_{head}"], states = reference.draft(head, tokens[1 + head :], states[:n])
    if model.types:
        with tempfile.TemporaryDirectory() as scratch:
            (plain,) = write_model(Path(scratch) / "plain.gguf", model, dequantized(weights))
            with Reference(plain) as reference:
                exact, _ = reference.logits(tokens)
        arrays["exact"] = exact[kept]
        arrays["llama_kl"] = divergences(exact, logits)
        entry["llama_kl"] = float(arrays["llama_kl"].mean())
    np.savez_compressed(folder / f"{case.name}.npz", **arrays)
    return entry


def divergences(exact: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How far each row of ``other``, as a distribution, is from that of ``exact``: float64 [n], in nats."""

    def log_softmax(x: np.ndarray) -> np.ndarray:
        shifted: np.ndarray = x.astype(np.float64) - x.max(axis=-1, keepdims=True)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))

    p, q = log_softmax(exact), log_softmax(other)
    return np.asarray((np.exp(p) * (p - q)).sum(axis=-1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=GOLDEN, help="folder to write to (default: tests/golden)")
    parser.add_argument("--random", type=int, default=0, metavar="N", help="make N random shapes instead")
    parser.add_argument("--seed", type=int, default=0, help="of the random shapes")
    arguments = parser.parse_args()
    folder: Path = arguments.out
    folder.mkdir(parents=True, exist_ok=True)
    quantizer = Quantizer(ggml_library())
    chosen = random_cases(arguments.random, arguments.seed) if arguments.random else cases()
    entries = []
    for case in chosen:
        entries.append(make(case, folder, quantizer))
        print(json.dumps(entries[-1]))
    index = {
        "made_with": {
            "llama-cpp-python": llama_cpp.__version__,
            "gguf": importlib.metadata.version("gguf"),
            "system": llama_cpp.llama_print_system_info().decode().strip(" |"),
        },
        "cases": entries,
    }
    (folder / "index.json").write_text(json.dumps(index, indent=1) + "\n")


if __name__ == "__main__":
    main()

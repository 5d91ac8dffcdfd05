"""Step 3.5 Flash: full and sliding-window layers with unequal heads, gated heads, a wide MoE, draft layers.

Metadata keys as llama.cpp writes them (`step35.*`), and the names that older files use for the same.
"""

from __future__ import annotations

from typing import Literal

from stride.errors import ModelFileError, UnsupportedError
from stride.gguf import GGUFFile
from stride.models.config import DenseConfig, LayerConfig, ModelConfig, MoeConfig, RopeConfig
from stride.models.metadata import model_name, pooling, rope_scaling, vocabulary_size

GATING: dict[int, Literal["softmax", "sigmoid"]] = {1: "softmax", 2: "sigmoid"}
"""GGUF's numbers for ``expert_gating_func``."""


def read(file: GGUFFile) -> ModelConfig:
    """Metadata of a ``step35`` file to its configuration; the draft layers only where the file holds them."""
    meta, prefix = file.metadata, "step35."
    n_blocks = meta.integer(prefix + "block_count")
    n_draft = meta.integer(prefix + "nextn_predict_layers", default=0)
    n_trunk = n_blocks - n_draft
    if n_trunk <= 0:
        raise ModelFileError(f"{n_blocks} blocks, of which {n_draft} are draft layers, leave none", path=file.paths[0])
    if "blk.0.attn_norm.weight" not in file.tensors and f"blk.{n_trunk}.nextn.eh_proj.weight" in file.tensors:
        raise UnsupportedError(f"{file.paths[0]} holds only draft layers; they run beside the file of their trunk")

    has_draft = f"blk.{n_trunk}.nextn.eh_proj.weight" in file.tensors
    n_needed = n_blocks if has_draft else n_trunk  # entries that per-block arrays must have

    n_heads = meta.integers(prefix + "attention.head_count", n_blocks, at_least=n_needed)
    n_kv_heads = meta.integers(prefix + "attention.head_count_kv", n_blocks, at_least=n_needed)
    sliding = meta.booleans(prefix + "attention.sliding_window_pattern", n_blocks, at_least=n_needed)
    expert_widths = meta.integers(prefix + "expert_feed_forward_length", n_blocks, at_least=n_needed)
    dense_widths = meta.integers(prefix + "feed_forward_length", n_blocks, at_least=n_needed)
    window = meta.integer(prefix + "attention.sliding_window")

    routed_limits = _limits(file, "swiglu_clamp_exp", "swiglu_limits", n_blocks, n_trunk)
    shared_limits = _limits(file, "swiglu_clamp_shexp", "swiglu_limits_shared", n_blocks, n_trunk)
    gating = meta.integer(prefix + "expert_gating_func", default=2) or 2
    if gating not in GATING:
        raise UnsupportedError(f"{file.paths[0]}: expert_gating_func is {gating}, known are {sorted(GATING)}")

    n_embd = meta.integer(prefix + "embedding_length")
    head_dim = n_embd // max(1, n_heads[0])
    key_dim = meta.integer(prefix + "attention.key_length", default=head_dim)
    ropes = _ropes(file, sliding, key_dim)

    def layer(index: int) -> LayerConfig:
        # A block is MoE where it has a router: the leading and the draft blocks are dense.
        is_moe = f"blk.{index}.ffn_gate_inp.weight" in file.tensors
        return LayerConfig(
            n_heads=n_heads[index],
            n_kv_heads=n_kv_heads[index],
            key_dim=key_dim,
            value_dim=meta.integer(prefix + "attention.value_length", default=head_dim),
            rope=ropes[index],
            window=window if sliding[index] else None,
            ffn=MoeConfig(
                n_experts=meta.integer(prefix + "expert_count"),
                top_k=meta.integer(prefix + "expert_used_count"),
                width=expert_widths[index],
                gating=GATING[gating],
                normalize=meta.boolean(prefix + "expert_weights_norm", default=False),
                scale=meta.number(prefix + "expert_weights_scale", default=1.0) or 1.0,
                limit=routed_limits[index],
                shared_width=meta.integer(prefix + "expert_shared_feed_forward_length", default=0),
                shared_limit=shared_limits[index],
            )
            if is_moe
            # llama.cpp clamps a dense block by the shared experts' array; the real model has 0 there.
            else DenseConfig(dense_widths[index], limit=shared_limits[index]),
        )

    return ModelConfig(
        architecture="step35",
        name=model_name(file),
        n_vocab=vocabulary_size(file),
        n_embd=n_embd,
        context_length=meta.integer(prefix + "context_length"),
        norm_epsilon=meta.number(prefix + "attention.layer_norm_rms_epsilon"),
        layers=tuple(layer(i) for i in range(n_trunk)),
        draft_layers=tuple(layer(i) for i in range(n_trunk, n_blocks)) if has_draft else (),
        pooling=pooling(file, "step35"),
    )


def _ropes(file: GGUFFile, sliding: list[bool], key_dim: int) -> list[RopeConfig]:
    """Full layers rotate half of the dimensions with the file's factors, window layers all of them without."""
    meta, prefix, n = file.metadata, "step35.rope.", len(sliding)
    if rope_scaling(file, "step35", context_length=0) is not None:
        raise UnsupportedError(f"{file.paths[0]}: step35 with {prefix}scaling.*; its llama3 scaling is a tensor")
    if prefix + "freq_base_per_layer" in meta:
        thetas = meta.numbers(prefix + "freq_base_per_layer", n)
    else:
        full = meta.number(prefix + "freq_base", default=10000.0)
        window = meta.number(prefix + "freq_base_swa", default=full)
        thetas = [window if is_window else full for is_window in sliding]
    if prefix + "dimension_count_per_layer" in meta:
        dims = meta.integers(prefix + "dimension_count_per_layer", n)
    else:
        # Converters leave it out where it is the whole head.
        width = meta.integer(prefix + "dimension_count", default=key_dim)
        dims = [width if is_window else width // 2 for is_window in sliding]
    return [
        RopeConfig(dims=dim, theta=theta, pairs="halves", uses_factors=not is_window)
        for dim, theta, is_window in zip(dims, thetas, sliding, strict=True)
    ]


def _limits(file: GGUFFile, key: str, older_key: str, n_blocks: int, n_trunk: int) -> list[float]:
    """Clamps per block, 0 where the file has none; under either name; files may leave out the draft layers'."""
    for name in (f"step35.{key}", f"step35.{older_key}"):
        if name in file.metadata:
            limits = file.metadata.numbers(name, n_blocks, at_least=n_trunk)
            return limits + [0.0] * (n_blocks - len(limits))
    return [0.0] * n_blocks

"""Llama and what is shaped like it: Llama 3.1, its DeepSeek-R1 distillations, Codestral and other Mistrals."""

from __future__ import annotations

from typing import Literal

from stride.errors import UnsupportedError
from stride.gguf import GGUFFile
from stride.models.config import DenseConfig, LayerConfig, ModelConfig, RopeConfig
from stride.models.metadata import model_name, pooling, rope_scaling, vocabulary_size


def read(file: GGUFFile) -> ModelConfig:
    """Metadata of a ``llama`` file to its configuration. GGUF stores q and k so that adjacent dimensions pair."""
    if file.metadata.integer("llama.expert_count", default=0) > 0:
        raise UnsupportedError(f"{file.paths[0]}: llama with experts (Mixtral) is not supported")
    return read_uniform(file, "llama", pairs="adjacent")


def read_uniform(file: GGUFFile, prefix: str, pairs: Literal["halves", "adjacent"]) -> ModelConfig:
    """The configuration of an architecture whose layers are all alike."""
    meta = file.metadata
    if meta.integer(f"{prefix}.attention.sliding_window", default=0) > 0 and meta.boolean(
        f"{prefix}.use_sliding_window", default=False
    ):
        raise UnsupportedError(f"{file.paths[0]}: {prefix} with a sliding window is not supported")
    n_embd = meta.integer(f"{prefix}.embedding_length")
    n_layers = meta.integer(f"{prefix}.block_count")
    context_length = meta.integer(f"{prefix}.context_length")
    n_heads = meta.integers(f"{prefix}.attention.head_count", n_layers)
    n_kv_heads = meta.integers(f"{prefix}.attention.head_count_kv", n_layers, default=n_heads)
    head_dim = n_embd // max(1, n_heads[0]) if n_heads else 0
    key_dim = meta.integer(f"{prefix}.attention.key_length", default=head_dim)
    rope = RopeConfig(
        dims=meta.integer(f"{prefix}.rope.dimension_count", default=key_dim),
        theta=meta.number(f"{prefix}.rope.freq_base", default=10000.0),
        pairs=pairs,
        scaling=rope_scaling(file, prefix, context_length),
    )
    widths = meta.integers(f"{prefix}.feed_forward_length", n_layers)
    layers = tuple(
        LayerConfig(
            n_heads=n_heads[index],
            n_kv_heads=n_kv_heads[index],
            key_dim=key_dim,
            value_dim=meta.integer(f"{prefix}.attention.value_length", default=head_dim),
            rope=rope,
            ffn=DenseConfig(widths[index]),
        )
        for index in range(n_layers)
    )
    return ModelConfig(
        architecture=prefix,
        name=model_name(file),
        n_vocab=vocabulary_size(file),
        n_embd=n_embd,
        context_length=context_length,
        norm_epsilon=meta.number(f"{prefix}.attention.layer_norm_rms_epsilon"),
        layers=layers,
        pooling=pooling(file, prefix),
    )

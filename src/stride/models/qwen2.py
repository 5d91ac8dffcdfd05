"""Qwen2 and Qwen2.5: Llama's block with biases on q, k and v, and rotary pairs in halves."""

from __future__ import annotations

from stride.gguf import GGUFFile
from stride.models.config import ModelConfig
from stride.models.llama import read_uniform


def read(file: GGUFFile) -> ModelConfig:
    """Metadata of a ``qwen2`` file to its configuration."""
    return read_uniform(file, "qwen2", pairs="halves")

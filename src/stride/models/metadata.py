"""Metadata that every architecture reads the same way."""

from __future__ import annotations

from stride.errors import ModelFileError, UnsupportedError
from stride.gguf import GGUFFile
from stride.models.config import LinearScaling, RopeScaling, YarnScaling
from stride.types import Pooling

POOLINGS: dict[int, Pooling | None] = {0: None, 1: "mean", 2: "cls", 3: "last"}
"""llama.cpp's numbers of ``PREFIX.pooling_type``; what is missing is 0."""


def model_name(file: GGUFFile) -> str:
    """``general.name``, or the file's name."""
    return file.metadata.string("general.name", default="") or file.paths[0].stem


def vocabulary_size(file: GGUFFile) -> int:
    """Rows of the token embedding, which must be as many as the vocabulary has tokens.

    Raises:
        ModelFileError: they differ, or the embedding is missing.
    """
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise ModelFileError("the tensor is missing", path=file.paths[0], tensor="token_embd.weight")
    n_rows = embedding.shape[0]
    if "tokenizer.ggml.tokens" in file.metadata:
        n_tokens = len(file.metadata.strings("tokenizer.ggml.tokens"))
        if n_tokens != n_rows:
            raise ModelFileError(
                f"the vocabulary has {n_tokens} tokens, but the embedding has {n_rows} rows",
                path=embedding.path,
                tensor=embedding.name,
                offset=embedding.offset,
            )
    return n_rows


def pooling(file: GGUFFile, prefix: str) -> Pooling | None:
    """How the model was trained to embed texts, if it was.

    Raises:
        UnsupportedError: a way that Stride does not know, such as 4, a reranker's.
    """
    number = file.metadata.integer(f"{prefix}.pooling_type", default=0)
    if number not in POOLINGS:
        raise UnsupportedError(f"{file.paths[0]}: {prefix}.pooling_type is {number}, known are {sorted(POOLINGS)}")
    return POOLINGS[number]


def rope_scaling(file: GGUFFile, prefix: str, context_length: int) -> RopeScaling | None:
    """The scaling under ``PREFIX.rope.scaling.*`` (llama3 scaling is a tensor instead, ``rope_freqs.weight``).

    Raises:
        UnsupportedError: a type that Stride does not know.
    """
    meta, scaling = file.metadata, f"{prefix}.rope.scaling."
    factor = meta.number(scaling + "factor", default=0.0) or meta.number(f"{prefix}.rope.scale_linear", default=0.0)
    kind = meta.string(scaling + "type", default="linear")
    match kind:
        case "none":
            return None
        case "linear":
            return LinearScaling(factor) if factor not in (0.0, 1.0) else None
        case "yarn":
            if meta.number(scaling + "yarn_ext_factor", default=1.0) != 1.0:
                raise UnsupportedError(f"{file.paths[0]}: {scaling}yarn_ext_factor other than 1 is not supported")
            return YarnScaling(
                factor=factor or 1.0,
                original_context=meta.integer(scaling + "original_context_length", default=context_length),
                beta_fast=meta.number(scaling + "yarn_beta_fast", default=32.0),
                beta_slow=meta.number(scaling + "yarn_beta_slow", default=1.0),
                attention_factor=meta.number(scaling + "attn_factor", default=1.0),
            )
    raise UnsupportedError(f"{file.paths[0]}: {scaling}type is {kind!r}; known are none, linear, yarn")

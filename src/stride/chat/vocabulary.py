"""The tokens of a model file: their texts, types and roles, checked once at load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from stride.errors import ModelFileError


class TokenType(IntEnum):
    """``tokenizer.ggml.token_type``."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


HIDDEN_TYPES = frozenset({TokenType.CONTROL, TokenType.UNKNOWN})

END_OF_TURN_NAMES = frozenset(
    {
        "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<|endoftext|>", "</s>",
        "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>", "<eos>",
        "<｜end▁of▁sentence｜>", "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<|fim_repo|>", "<|repo_name|>", "<fim-repo>",
        "<reponame>", "<|file_sep|>",
    }
)  # fmt: skip
"""Tokens that end the answer whatever the file says: files often name only one of those the model uses."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """``texts[i]`` and ``types[i]`` describe token i; ``ids`` is the inverse of ``texts``."""

    texts: Sequence[str]
    types: Sequence[int]
    scores: Sequence[float]
    ids: Mapping[str, int]
    bos_id: int | None
    eos_id: int | None
    unknown_id: int | None
    end_ids: frozenset[int]

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Vocabulary:
        """Read ``tokenizer.ggml.*``.

        Raises:
            ModelFileError: there is no vocabulary, or its arrays disagree.
        """
        texts = [text or f"[EMPTY_{i}]" for i, text in enumerate(_array(metadata, "tokens", str))]
        if not texts:
            raise ModelFileError("the file has no vocabulary (tokenizer.ggml.tokens)")
        ids = {text: i for i, text in enumerate(texts)}
        if len(ids) != len(texts):
            twice = next(text for i, text in enumerate(texts) if ids[text] != i)
            raise ModelFileError(f"tokenizer.ggml.tokens holds {twice!r} twice")
        types = _array(metadata, "token_type", int) or [int(TokenType.NORMAL)] * len(texts)
        scores = _array(metadata, "scores", float) or [0.0] * len(texts)
        for name, array in (("token_type", types), ("scores", scores)):
            if len(array) < len(texts):
                raise ModelFileError(f"tokenizer.ggml.{name} has {len(array)} entries for {len(texts)} tokens")

        # Some files mark these as plain text. What merges can make is plain text indeed: </s> is HTML to Qwen.
        merged = {merge.replace(" ", "", 1) for merge in metadata.get("tokenizer.ggml.merges", ())}
        end_ids = {ids[name] for name in (END_OF_TURN_NAMES & ids.keys()) - merged}
        for token_id in end_ids:
            types[token_id] = int(TokenType.CONTROL)
        declared = [_token_id(metadata, role, len(texts)) for role in ("eos", "eot", "eom")]
        end_ids |= {token_id for token_id in declared if token_id is not None}
        if {"<|return|>", "<|call|>", "<|end|>"} <= ids.keys():
            end_ids.discard(ids["<|end|>"])  # there it ends a part of the answer, not the answer
            types[ids["<|end|>"]] = int(TokenType.USER_DEFINED)
        return cls(
            texts=texts,
            types=types,
            scores=scores,
            ids=ids,
            bos_id=_token_id(metadata, "bos", len(texts)),
            eos_id=declared[0],
            unknown_id=_token_id(metadata, "unknown", len(texts)),
            end_ids=frozenset(end_ids),
        )

    def of_types(self, *types: TokenType) -> dict[str, int]:
        """Text → id of the tokens of these types."""
        return {text: i for text, i in self.ids.items() if self.types[i] in types}


def _array(metadata: Mapping[str, Any], name: str, item: type) -> list[Any]:
    array = metadata.get(f"tokenizer.ggml.{name}")
    if array is None:
        return []
    try:
        items = array.tolist() if hasattr(array, "tolist") else list(array)
        if item is str and not all(isinstance(text, str) for text in items):
            raise TypeError
        return [item(value) for value in items]
    except (TypeError, ValueError):
        raise ModelFileError(f"tokenizer.ggml.{name} is not an array of {item.__name__}") from None


def _token_id(metadata: Mapping[str, Any], role: str, n_vocab: int) -> int | None:
    key = f"tokenizer.ggml.{role}_token_id"
    if key not in metadata:
        return None
    token_id = int(metadata[key])
    if not 0 <= token_id < n_vocab:
        raise ModelFileError(f"{key} is {token_id}, but the vocabulary has {n_vocab} tokens")
    return token_id

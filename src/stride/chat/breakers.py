"""What texts are in a model's tokens, however text before and after them shares a token with them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stride.chat.tokenizer import Tokenizer

MAX_CHARACTERS = 40
MAX_TAIL = 20
"""Tokens of a tail at most, as in llama.cpp: what follows is not compared."""
_KEPT = 256
"""Texts whose tokens are remembered: finding them looks at the whole vocabulary."""


class SequenceBreakers:
    """Finds the token sequences that contain a text, in one vocabulary. Safe to share between threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._of = lru_cache(_KEPT)(self._find)

    def __call__(self, texts: Iterable[str]) -> dict[int, list[tuple[int, ...]]]:
        """By the token in which a text begins, the tokens by which the text may go on: () where it ends in the first.

        Texts count with their first `MAX_CHARACTERS` characters.
        """
        found: dict[int, list[tuple[int, ...]]] = {}
        for text in texts:
            for token_id, tails in self._of(text[:MAX_CHARACTERS]).items():
                found.setdefault(token_id, []).extend(tails)
        return found

    def _find(self, text: str) -> dict[int, list[tuple[int, ...]]]:
        whole = text.encode()
        tails = {text[:n].encode(): tuple(self._tokenizer.encode(text[n:])[:MAX_TAIL]) for n in range(1, len(text))}
        beginnings = tuple(tails)
        found: dict[int, list[tuple[int, ...]]] = {}
        for token_id in range(self._tokenizer.n_vocab):
            word = self._tokenizer.token_bytes(token_id)
            if whole in word:
                found[token_id] = [()]
            elif beginnings and word.endswith(beginnings):
                found[token_id] = [tail for beginning, tail in tails.items() if word.endswith(beginning)]
        return found

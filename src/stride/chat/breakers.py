"""What texts are in a model's tokens, however text before and after them shares a token with them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING

from stride.chat.unicode import check_text

if TYPE_CHECKING:
    from stride.chat.tokenizer import Tokenizer

MAX_CHARACTERS = 40
MAX_TAIL = 20
"""Tokens of a tail at most, as in llama.cpp: what follows is not compared."""
_KEPT = 256
"""Texts whose tokens are remembered."""
_NO_TEXT = b"\xff"


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
        check_text(text, "dry_sequence_breakers")
        found: dict[int, list[tuple[int, ...]]] = {token_id: [()] for token_id in self._with(text.encode())}
        holds = set(found)
        tails: dict[int, list[tuple[int, ...]]] = {}
        for n in range(1, len(text)):
            if ending := [one for one in self._ending(text[:n].encode()) if one not in holds]:
                tail = tuple(self._tokenizer.encode(text[n:])[:MAX_TAIL])
                for token_id in ending:
                    tails.setdefault(token_id, []).append(tail)
        return {**found, **tails}

    @cached_property
    def _joined(self) -> tuple[bytes, list[int]]:
        """All tokens' bytes, with a byte between that is in no text; and where each token begins."""
        words = [self._tokenizer.token_bytes(token_id) for token_id in range(self._tokenizer.n_vocab)]
        return _NO_TEXT.join(words), list(accumulate((len(word) + 1 for word in words[:-1]), initial=0))

    @cached_property
    def _by_end(self) -> list[int]:
        """Token ids in the order of their bytes read backwards: those that end alike stand together."""
        return sorted(range(self._tokenizer.n_vocab), key=self._backwards)

    def _backwards(self, token_id: int) -> bytes:
        return self._tokenizer.token_bytes(token_id)[::-1]

    def _with(self, data: bytes) -> Iterator[int]:
        """Tokens whose bytes have these among them."""
        joined, starts = self._joined
        at = joined.find(data)
        while at >= 0:
            token_id = bisect_right(starts, at) - 1
            yield token_id
            at = joined.find(data, starts[token_id + 1]) if token_id + 1 < len(starts) else -1

    def _ending(self, data: bytes) -> Iterator[int]:
        """Tokens whose bytes end with these."""
        for at in range(bisect_left(self._by_end, data[::-1], key=self._backwards), len(self._by_end)):
            token_id = self._by_end[at]
            if not self._tokenizer.token_bytes(token_id).endswith(data):
                return
            yield token_id

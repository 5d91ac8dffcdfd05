"""SentencePiece-style BPE (``tokenizer.ggml.model`` = llama): merges by score, bytes for unknown characters."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from heapq import heapify, heappop, heappush

SPACE = "▁"  # stands for a space inside tokens


class SentencePieceBpe:
    """``byte_ids[b]`` is the token of byte b, used for characters that no token covers."""

    def __init__(self, vocabulary: Mapping[str, int], scores: Sequence[float], byte_ids: Sequence[int]) -> None:
        self._vocabulary = vocabulary
        self._scores = scores
        self._byte_ids = byte_ids
        # Where no token has a space after something else, no merge can cross the start of a word, so words can be
        # encoded one by one with the same result.
        inner_space = re.compile(f"[^{SPACE}]{SPACE}")
        words_are_independent = not any(inner_space.search(token) for token in vocabulary)
        self._word = re.compile(f"{SPACE}*[^{SPACE}]+|{SPACE}+" if words_are_independent else r"(?s:.+)")
        self._encode_short_word = lru_cache(maxsize=1 << 14)(self._encode_word)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for word in self._word.findall(text.replace(" ", SPACE)):
            ids += self._encode_short_word(word) if len(word) <= 32 else self._encode_word(word)
        return ids

    def _encode_word(self, word: str) -> tuple[int, ...]:
        """Merge the best-scored pair of neighbours (the leftmost of equals) until none is in the vocabulary."""
        n = len(word)
        symbols: list[str] = list(word)  # "" once merged into its left neighbour
        previous = list(range(-1, n - 1))
        following = [*range(1, n), -1]
        vocabulary, scores = self._vocabulary, self._scores

        def candidate(left: int, right: int) -> tuple[float, int, int, int] | None:
            token = vocabulary.get(symbols[left] + symbols[right])
            if token is None:
                return None
            return -scores[token], left, right, len(symbols[left]) + len(symbols[right])

        heap = [found for i in range(n - 1) if (found := candidate(i, i + 1))]
        heapify(heap)
        while heap:
            _, left, right, length = heappop(heap)
            if not symbols[left] or not symbols[right] or len(symbols[left]) + len(symbols[right]) != length:
                continue  # one of the two has merged since
            symbols[left] += symbols[right]
            symbols[right] = ""
            after = following[left] = following[right]
            if after >= 0:
                previous[after] = left
                if found := candidate(left, after):
                    heappush(heap, found)
            before = previous[left]
            if before >= 0 and (found := candidate(before, left)):
                heappush(heap, found)
        ids: list[int] = []
        for symbol in filter(None, symbols):
            token = vocabulary.get(symbol)
            ids += [token] if token is not None else [self._byte_ids[byte] for byte in symbol.encode()]
        return tuple(ids)

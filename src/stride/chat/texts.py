"""Texts as token ids: what the model wants before them, and what is refused before it takes time."""

from __future__ import annotations

from stride.chat.tokenizer import Tokenizer
from stride.chat.unicode import check_text
from stride.errors import ContextOverflowError


class Texts:
    """Tokenizes texts for contexts of ``n_ctx`` tokens. Safe to share between threads."""

    def __init__(self, tokenizer: Tokenizer, n_ctx: int) -> None:
        self._tokenizer = tokenizer
        self._n_ctx = n_ctx

    def ids(self, text: str, field: str) -> list[int]:
        """Token ids of a text, in which special tokens are recognised; BOS first where the model wants it.

        Raises:
            RequestError: the text is no Unicode; names the field.
        """
        check_text(text, field)
        ids = self._tokenizer.encode(text, special=True)
        bos = self._tokenizer.bos_id
        if self._tokenizer.add_bos and bos is not None and ids[:1] != [bos]:
            ids.insert(0, bos)
        return ids

    def puts_bos_before(self, text: str) -> bool:
        """Whether a text that does not begin with BOS gets it."""
        tokenizer = self._tokenizer
        return tokenizer.add_bos and tokenizer.bos_id is not None and not text.startswith(tokenizer.bos_token)

    def check_length(self, *texts: str, n_least: int = 0, generates: bool = True) -> None:
        """Refuse what cannot fit before it takes time and memory to count it: no token has more bytes than the longest.

        ``n_least``: tokens that there are at least, whatever the texts are.

        Raises:
            ContextOverflowError: the texts do not fit the context together.
        """
        n_bytes = sum(len(text.encode(errors="replace")) for text in texts)
        n_least = max(n_least, -(-n_bytes // self._tokenizer.longest))
        if n_least > self._n_ctx:
            raise ContextOverflowError(n_least, self._n_ctx, generates=generates, at_least=True)

    def beginning(self, text: str) -> str:
        """As much of a text as may fit."""
        return text[: self._n_ctx * self._tokenizer.longest]

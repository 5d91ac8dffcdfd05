"""Texts as token ids: what the model wants before them, and what is refused before it takes time."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import numpy as np

from stride.chat.tokenizer import Tokenizer
from stride.chat.unicode import check_text
from stride.errors import ContextOverflowError, RequestError
from stride.ops.api import IntArray


class Texts:
    """Tokenizes texts for contexts of ``n_ctx`` tokens, of which the model knows ``n_vocab``. Safe to share between
    threads."""

    def __init__(self, tokenizer: Tokenizer, n_ctx: int, n_vocab: int) -> None:
        self._n_vocab = n_vocab
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

    def to_embed(self, text: Any, field: str, truncate: bool) -> IntArray:
        """A text's token ids, with what the model wants before and after it; token ids as they are.

        ``truncate``: of what does not fit the context, the beginning is taken.

        Raises:
            RequestError: there are none, there are others than the model's, or there are too many.
        """
        ends: list[int] = []
        if isinstance(text, str) and text:
            if truncate:
                text = text[: self._n_ctx * self._tokenizer.longest]
            else:
                self.check_length(text, generates=False)
            ids, eos = self.ids(text, field), self._tokenizer.eos_id
            if self._tokenizer.add_eos and eos is not None and ids[-1:] != [eos]:
                ends = [eos]
        else:
            ids = self.known_ids(text, field)
        if truncate:
            ids = ids[: self._n_ctx - len(ends)]
        if len(ids) + len(ends) > self._n_ctx:
            raise ContextOverflowError(len(ids) + len(ends), self._n_ctx, generates=False)
        return np.array([*ids, *ends], np.int32)

    def known_ids(self, values: Iterable[Any], field: str) -> list[int]:
        """As `whole_numbers`; ids that the vocabulary does not have are refused too."""
        ids = whole_numbers(values, field)
        if not all(0 <= i < self._n_vocab for i in ids):
            raise RequestError(f"{field} must be token ids from 0 to {self._n_vocab - 1}", field=field)
        return ids


def whole_numbers(values: Iterable[Any], field: str) -> list[int]:
    """Token ids from whatever holds them, arrays too.

    Raises:
        RequestError: there are none, or they are no integers; names the field.
    """
    try:
        ids = [operator.index(value) for value in values]
    except TypeError:
        raise RequestError(f"{field} must be made of token ids, which are integers", field=field) from None
    if not ids:
        raise RequestError(f"{field} is empty", field=field)
    return ids

"""Conversations as token ids, through Stride's own template and tokenizer, packed into rows of one length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import tokenizer
from texts.conversation import Conversation

from stride.chat.template import ChatTemplate, builtin
from stride.chat.tokenizer import Tokenizer

OTHER_WEIGHT = 0.01
"""What a token counts for that the model never has to write. Most of these are made-up names that nothing predicts:
with more weight their gradients drown the others."""

DECISION_WEIGHT = 4.0
"""What the first token of a function's name, of a parameter's name and of a value counts for: there the model decides,
the rest is copied on from it."""


class Encoder:
    """Renders a conversation as the server does, and knows which tokens are the model's own."""

    def __init__(self) -> None:
        vocabulary = tokenizer.vocabulary()
        self.tokenizer = Tokenizer.from_metadata(
            {
                "tokenizer.ggml.model": "gpt2",
                "tokenizer.ggml.pre": tokenizer.PRE_TOKENIZER,
                "tokenizer.ggml.tokens": list(vocabulary.tokens),
                "tokenizer.ggml.token_type": np.array(vocabulary.types, np.int32),
                "tokenizer.ggml.merges": list(vocabulary.merges),
                "tokenizer.ggml.bos_token_id": tokenizer.BOS,
                "tokenizer.ggml.eos_token_id": tokenizer.EOS,
                "tokenizer.ggml.eot_token_id": vocabulary.end_of_turn,
                "tokenizer.ggml.add_bos_token": True,
            }
        )
        special = self.tokenizer.special_tokens
        self.template = ChatTemplate(
            builtin("step35"), self.tokenizer.bos_token, self.tokenizer.eos_token, special_tokens=special
        )
        self._begin, self._end = special["<|im_start|>"], special["<|im_end|>"]
        self._assistant = self.tokenizer.encode("assistant\n", continues=True)
        self._function, self._parameter = (self.tokenizer.encode(name) for name in ("function=", "parameter="))
        (self._close,) = self.tokenizer.encode(">\n")

    def encode(self, conversation: Conversation) -> tuple[list[int], npt.NDArray[np.float32]]:
        """Token ids, and what each counts for as something to predict."""
        rendered = self.template.render(conversation.messages, conversation.tools, add_generation_prompt=False)
        ids = self.tokenizer.encode_prompt(rendered.pieces)
        weights = np.full(len(ids), OTHER_WEIGHT, np.float32)
        start = 0
        while self._begin in ids[start:]:
            start = ids.index(self._begin, start) + 1
            first = start + len(self._assistant)
            if ids[start:first] == self._assistant:
                end = ids.index(self._end, start)
                weights[first : end + 1] = 1
                weights[self._decisions(ids, first, end)] = DECISION_WEIGHT
        weights[0] = 0
        return ids, weights

    def _decisions(self, ids: list[int], first: int, end: int) -> list[int]:
        """Where names and values of calls begin."""
        found: list[int] = []
        for i in range(first + 2, end):
            if ids[i - 2 : i] == self._function:
                found.append(i)
            elif ids[i - 2 : i] == self._parameter:
                value = next((j for j in range(i, end) if ids[j] == self._close), end)
                found += [i, min(value + 1, end)]
        return found


@cache
def encoder() -> Encoder:
    return Encoder()


@dataclass(frozen=True)
class Rows:
    """Arrays [rows, length]: tokens, which document each is of, its weight, and its kind of text."""

    tokens: npt.NDArray[np.int64]
    documents: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    kinds: npt.NDArray[np.int64]


def pack(conversations: Iterator[Conversation], kinds: Sequence[str], n_rows: int, length: int) -> Rows:
    """As many conversations as fit, each in the first row that has room; what is longer than a row is cut."""
    shape = (n_rows, length)
    tokens = np.full(shape, tokenizer.PAD, np.int64)
    documents, weights = np.full(shape, -1, np.int64), np.zeros(shape, np.float32)
    of_kind = np.zeros(shape, np.int64)
    used, misses, number = [0] * n_rows, 0, 0
    while misses < n_rows:
        conversation = next(conversations)
        ids, counts = encoder().encode(conversation)
        n = min(len(ids), length)
        row = next((row for row in range(n_rows) if used[row] + n <= length), None)
        if row is None:
            misses += 1
            continue
        place = slice(used[row], used[row] + n)
        tokens[row, place], weights[row, place] = ids[:n], counts[:n]
        documents[row, place], of_kind[row, place] = number, kinds.index(conversation.kind)
        number += 1
        used[row] += n
    return Rows(tokens, documents, weights, of_kind)

"""The demo model's vocabulary: a byte-level BPE trained on `text.py`, cut into words as Step's tokenizer does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from config import N_VOCAB, SEED
from text import conversations, plain_text
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from stride.chat.pretokenizers import PRE_TOKENIZERS
from stride.chat.vocabulary import TokenType

N_CONVERSATIONS = 8_000
PRE_TOKENIZER = "deepseek-v3"
BOS, EOS, PAD = 0, 1, 2
FIRST = ("<|begin_of_sentence|>", "<|end_of_sentence|>", "<|pad|>")
"""Ids 0, 1 and 2, as in Step's vocabulary; the other special tokens close the vocabulary, as there."""
TURNS = ("<|im_start|>", "<|im_end|>")
TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
"""Text that is one token each, and is shown."""


@dataclass(frozen=True)
class Vocabulary:
    """What the file says under ``tokenizer.ggml``. Tokens are in GPT-2's printable letters for bytes."""

    tokens: Sequence[str]
    types: Sequence[TokenType]
    merges: Sequence[str]

    @property
    def end_of_turn(self) -> int:
        return self.tokens.index("<|im_end|>")


def train() -> Vocabulary:
    """Learn the merges; the same each time."""
    bpe = Tokenizer(models.BPE())
    expressions = PRE_TOKENIZERS[PRE_TOKENIZER].expressions
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(expression), "isolated") for expression in expressions),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=N_VOCAB - len(TURNS) - len(TAGS),
        special_tokens=list(FIRST),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(map(plain_text, islice(conversations(SEED), N_CONVERSATIONS)), trainer)
    ids = bpe.get_vocab()
    learnt = sorted(ids, key=lambda token: ids[token])
    tokens = [*learnt, *TURNS, *TAGS]
    if len(tokens) != N_VOCAB:
        raise ValueError(f"the text gives only {len(tokens)} tokens, not {N_VOCAB}")
    control, normal, tag = TokenType.CONTROL, TokenType.NORMAL, TokenType.USER_DEFINED
    n_normal = len(learnt) - len(FIRST)
    types = [control] * len(FIRST) + [normal] * n_normal + [control] * len(TURNS) + [tag] * len(TAGS)
    # The library tells the order of the merges only through its JSON form.
    merges = [" ".join(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    return Vocabulary(tokens, types, merges)

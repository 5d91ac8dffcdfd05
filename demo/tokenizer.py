#!/usr/bin/env python3
"""The demo model's vocabulary: a byte-level BPE, cut into words as Step's tokenizer does.

    python demo/tokenizer.py   # learns it anew from the texts and writes vocabulary.json

No merge joins a word and what stands before it, so that a name is the same tokens wherever it stands: behind a space,
in quotes, or at the beginning of a line. A model this small could not copy it otherwise. Only frequent whole words have
a second form with the space; digits stand alone.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

from config import N_VOCAB, SEED
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from stride.chat.pretokenizers import PRE_TOKENIZERS
from stride.chat.template import ChatTemplate, builtin
from stride.chat.vocabulary import TokenType

MERGES = Path(__file__).parent / "vocabulary.json"
"""The learnt merges, in order. Texts may change and this stays: weights and vocabulary belong together."""
N_CONVERSATIONS = 8_000
N_SPACED = 500
"""Words that have a second form, with a space before them."""
PRE_TOKENIZER = "deepseek-v3"
BOS, EOS, PAD = 0, 1, 2
FIRST = ("<|begin_of_sentence|>", "<|end_of_sentence|>", "<|pad|>")
"""Ids 0, 1 and 2, as in Step's vocabulary; the other special tokens close the vocabulary, as there."""
TURNS = ("<|im_start|>", "<|im_end|>")
TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
"""Text that is one token each, and is shown."""
SPACE = "Ġ"
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


@dataclass(frozen=True)
class Vocabulary:
    """What the file says under ``tokenizer.ggml``. Tokens are in GPT-2's printable letters for bytes."""

    tokens: Sequence[str]
    types: Sequence[TokenType]
    merges: Sequence[str]

    @property
    def end_of_turn(self) -> int:
        return self.tokens.index("<|im_end|>")


def vocabulary() -> Vocabulary:
    """What was learnt."""
    merges: list[str] = json.loads(MERGES.read_text(encoding="utf-8"))
    learnt = [*ALPHABET, *(merge.replace(" ", "") for merge in merges)]
    tokens = [*FIRST, *learnt, *TURNS, *TAGS]
    if len(tokens) != N_VOCAB or len(set(tokens)) != N_VOCAB:
        raise ValueError(f"{MERGES.name} gives {len(set(tokens))} tokens, not {N_VOCAB}")
    control, normal, tag = TokenType.CONTROL, TokenType.NORMAL, TokenType.USER_DEFINED
    types = [control] * len(FIRST) + [normal] * len(learnt) + [control] * len(TURNS) + [tag] * len(TAGS)
    return Vocabulary(tokens, types, merges)


def learn(texts: Sequence[str]) -> list[str]:
    """The merges; the same each time."""
    expressions = (*PRE_TOKENIZERS[PRE_TOKENIZER].expressions, r" (?=[^\s])", r"[\p{L}\p{M}]+", r"\p{N}")
    cut = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(expression), "isolated") for expression in expressions),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = cut
    n_merges = N_VOCAB - len(FIRST) - len(ALPHABET) - N_SPACED - len(TURNS) - len(TAGS)
    trainer = trainers.BpeTrainer(
        vocab_size=len(ALPHABET) + n_merges, initial_alphabet=ALPHABET, show_progress=False, max_token_length=16
    )
    bpe.train_from_iterator(texts, trainer)
    # The library tells the order of the merges only through its JSON form.
    merges = [" ".join(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    known = bpe.get_vocab()
    spaced: Counter[str] = Counter()
    for text in texts:
        pieces = [piece for piece, _ in cut.pre_tokenize_str(text)]
        spaced.update(after for before, after in pairwise(pieces) if before == SPACE)
    frequent = [piece for piece, _ in spaced.most_common() if piece in known and not piece.isdigit()]
    return [*merges, *(f"{SPACE} {piece}" for piece in frequent[:N_SPACED])]


def main() -> None:
    from texts import conversations

    template = ChatTemplate(builtin("step35"))
    drawn = islice(conversations(SEED), N_CONVERSATIONS)
    rendered = (template.render(conversation.messages, conversation.tools).text for conversation in drawn)
    special = re.compile("|".join(map(re.escape, (*FIRST, *TURNS, *TAGS))))
    texts = [part for text in rendered for part in special.split(text)]
    MERGES.write_text(json.dumps(learn(texts), ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    print(f"{MERGES}: {len(vocabulary().tokens)} tokens")


if __name__ == "__main__":
    main()

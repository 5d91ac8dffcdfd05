"""Sequence breakers: every way in which a vocabulary can spell them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stride import demo
from stride.chat.breakers import MAX_CHARACTERS
from stride.chat.tokenizer import Tokenizer
from stride.errors import RequestError
from stride.gguf import open_gguf


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    with open_gguf(Path(demo.path())) as file:
        return Tokenizer.from_metadata(file.metadata)


def test_every_token_with_the_text_in_it_breaks(tokenizer: Tokenizer) -> None:
    found = tokenizer.sequence_breakers(["\n"])
    expected = {i for i in range(tokenizer.n_vocab) if b"\n" in tokenizer.token_bytes(i)}
    assert expected
    assert set(found) == expected
    assert all(tails == [()] for tails in found.values())


def test_a_text_may_begin_at_the_end_of_a_token(tokenizer: Tokenizer) -> None:
    found = tokenizer.sequence_breakers(["the end"])
    for token_id, tails in found.items():
        word = tokenizer.token_bytes(token_id)
        for tail in tails:
            spelled = word + b"".join(map(tokenizer.token_bytes, tail))
            assert b"the end" in spelled
            assert word.endswith(b"t") or b"th" in word or b"the" in word
    t = next(i for i in range(tokenizer.n_vocab) if tokenizer.token_bytes(i) == b"t")
    assert tuple(tokenizer.encode("he end")) in found[t]


def test_long_texts_count_with_their_beginning(tokenizer: Tokenizer) -> None:
    text = "x" * MAX_CHARACTERS
    assert tokenizer.sequence_breakers([text + "yyy"]) == tokenizer.sequence_breakers([text])


@given(st.text(st.sampled_from("the nd\n:é"), min_size=1, max_size=8))
def test_tokens_are_those_that_a_look_at_each_finds(tokenizer: Tokenizer, text: str) -> None:
    expected: dict[int, list[tuple[int, ...]]] = {}
    for token_id in range(tokenizer.n_vocab):
        word = tokenizer.token_bytes(token_id)
        if text.encode() in word:
            expected[token_id] = [()]
        elif ends := [n for n in range(1, len(text)) if word.endswith(text[:n].encode())]:
            expected[token_id] = [tuple(tokenizer.encode(text[n:])) for n in ends]
    assert tokenizer.sequence_breakers([text]) == expected


def test_half_a_surrogate_pair_is_no_text(tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match="surrogate"):
        tokenizer.sequence_breakers(["a\ud800"])

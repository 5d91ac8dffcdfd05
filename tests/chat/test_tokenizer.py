"""Token ids equal llama.cpp's (golden file, see scripts/make_tokenizer_golden.py); text survives the round trip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stride.chat.tokenizer import Tokenizer
from stride.errors import ModelFileError, RequestError, UnsupportedError
from stride.types import PromptPiece

GOLDEN = json.loads((Path(__file__).parent / "golden" / "tokenizer.json").read_text(encoding="utf-8"))
CASES: dict[str, dict[str, Any]] = {case["name"]: case for case in GOLDEN["cases"]}
TOKENIZERS = {name: Tokenizer.from_metadata(case["metadata"]) for name, case in CASES.items()}
EMOJI = "👨‍👩‍👧‍👦"


def metadata(name: str = "deepseek-v3", **changes: object) -> dict[str, Any]:
    return CASES[name]["metadata"] | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("special", [False, True])
def test_ids_equal_llama_cpp(name: str, special: bool) -> None:
    for text, ids in zip(GOLDEN["strings"], CASES[name]["ids"], strict=True):
        assert TOKENIZERS[name].encode(text, special) == ids[special], text


@pytest.mark.parametrize("name", CASES)
def test_end_tokens_equal_llama_cpp(name: str) -> None:
    assert sorted(TOKENIZERS[name].eos_ids) == CASES[name]["end_ids"]


@pytest.mark.parametrize("name", CASES)
@given(text=st.text(max_size=60))
@settings(max_examples=60, deadline=None)
def test_decode_inverts_encode(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    if name.startswith("sentencepiece"):
        text = text.replace("▁", "_")  # those models cannot tell this character from a space
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("name", ["deepseek-v3", "sentencepiece-prefix"])
def test_special_tokens_count_only_in_trusted_pieces(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    start = tokenizer.special_tokens["<|im_start|>"]
    ids = tokenizer.encode_prompt(
        [PromptPiece("<|im_start|>", trusted=True), PromptPiece("user\nsay <|im_start|> please", trusted=False)]
    )
    assert ids.count(start) == 1
    assert ids[tokenizer.add_bos] == start
    assert start not in tokenizer.encode("<|im_start|>")
    assert tokenizer.encode("<|im_start|>", special=True) == [start]


def test_user_defined_tokens_count_everywhere() -> None:
    tokenizer = TOKENIZERS["deepseek-v3"]
    keep = tokenizer.encode("<keep>")
    assert len(keep) == 1
    assert not tokenizer.is_special(keep[0])
    assert tokenizer.decode(keep) == "<keep>"


def test_text_split_into_untrusted_pieces_is_encoded_like_their_sum_after_a_special_token() -> None:
    tokenizer = TOKENIZERS["sentencepiece-prefix"]
    whole = tokenizer.encode("<|im_start|>user", special=True)
    pieces = [PromptPiece("<|im_start|>", True), PromptPiece("user", False)]
    assert tokenizer.encode_prompt(pieces) == [tokenizer.bos_id, *whole]


def test_a_prompt_begins_with_one_bos() -> None:
    tokenizer = TOKENIZERS["llama-bpe"]
    assert tokenizer.encode_prompt([PromptPiece("<s>", True), PromptPiece("a", False)])[:2] == [
        0,
        *tokenizer.encode("a"),
    ]
    assert tokenizer.encode_prompt([PromptPiece("a", False)]) == [0, *tokenizer.encode("a")]
    assert TOKENIZERS["qwen2"].encode_prompt([PromptPiece("a", False)]) == tokenizer.encode("a")


def test_special_tokens_are_decoded_on_demand() -> None:
    tokenizer = TOKENIZERS["qwen2"]
    ids = tokenizer.encode("<|im_start|>hi<|im_end|>", special=True)
    assert tokenizer.decode(ids) == "hi"
    assert tokenizer.decode(ids, special=True) == "<|im_start|>hi<|im_end|>"


@pytest.mark.parametrize("name", ["deepseek-v3", "sentencepiece"])
def test_detokenizer_never_splits_a_character(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    text = f"a{EMOJI}中文é{EMOJI}"
    detokenizer = tokenizer.detokenizer()
    pieces = [detokenizer.push(i) for i in tokenizer.encode(text)]
    assert "".join(pieces) + detokenizer.flush() == text
    assert "\ufffd" not in "".join(pieces)
    assert "" in pieces  # something was held back


def test_detokenizer_flushes_an_unfinished_character() -> None:
    tokenizer = TOKENIZERS["deepseek-v3"]
    ids = tokenizer.encode("😀")
    detokenizer = tokenizer.detokenizer()
    assert [detokenizer.push(i) for i in ids[:-1]] == [""] * (len(ids) - 1)
    assert detokenizer.flush() == "\ufffd"


def test_detokenizer_shows_only_the_special_tokens_it_was_told_to_keep() -> None:
    tokenizer = TOKENIZERS["deepseek-v3"]
    ids = tokenizer.encode("<think>x</think>y<|im_end|>", special=True)
    detokenizer = tokenizer.detokenizer(keep=("<think>", "</think>", "<not in this vocabulary>"))
    assert "".join(map(detokenizer.push, ids)) == "<think>x</think>y"


@pytest.mark.parametrize("name", ["deepseek-v3", "llama-bpe", "sentencepiece", "sentencepiece-prefix-inner-spaces"])
@pytest.mark.parametrize("unit", ["a", " ", "\n", "1", "é", "中"])
def test_a_long_run_of_one_character(name: str, unit: str) -> None:
    tokenizer = TOKENIZERS[name]
    text = unit * 100_000
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_lone_surrogates_become_replacement_characters() -> None:
    tokenizer = TOKENIZERS["qwen2"]
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"


def test_beginning_and_end_tokens() -> None:
    tokenizer = TOKENIZERS["llama-bpe"]
    assert (tokenizer.bos_id, tokenizer.bos_token, tokenizer.eos_token) == (0, "<s>", "</s>")
    assert tokenizer.add_bos  # llama 3's default
    assert not TOKENIZERS["qwen2"].add_bos
    assert Tokenizer.from_metadata(metadata(add_bos_token=True)).add_bos


def test_a_name_of_an_end_token_that_merges_can_make_is_plain_text() -> None:
    changed = metadata()
    changed["tokenizer.ggml.tokens"] = [*changed["tokenizer.ggml.tokens"], "</", "[EOT]", "T]", "[EO"]
    changed["tokenizer.ggml.token_type"] = [*changed["tokenizer.ggml.token_type"], 1, 1, 1, 1]
    assert changed["tokenizer.ggml.tokens"].index("[EOT]") in Tokenizer.from_metadata(changed).eos_ids
    changed["tokenizer.ggml.merges"] = [*changed["tokenizer.ggml.merges"], "[EO T]"]
    assert changed["tokenizer.ggml.tokens"].index("[EOT]") not in Tokenizer.from_metadata(changed).eos_ids


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": "bert"}, UnsupportedError, "bert"),
        ({"pre": "kimi-k2"}, UnsupportedError, "kimi-k2.*deepseek-v3"),
        ({"tokens": []}, ModelFileError, "no vocabulary"),
        ({"tokens": ["a", "b", "a"]}, ModelFileError, "'a' twice"),
        ({"tokens": [1, 2]}, ModelFileError, "not an array of str"),
        ({"token_type": [1]}, ModelFileError, "token_type has 1 entries"),
        ({"merges": ["ab"]}, ModelFileError, r"merges\[0\]"),
        ({"merges": ["ab zz"]}, ModelFileError, "do not fit"),
        ({"bos_token_id": 10**6}, ModelFileError, "bos_token_id is 1000000"),
    ],
)
def test_a_bad_vocabulary_is_refused_by_name(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Tokenizer.from_metadata(metadata(**changes))


def test_a_token_outside_the_vocabulary_is_a_request_error() -> None:
    with pytest.raises(RequestError, match="999999"):
        TOKENIZERS["qwen2"].decode([999999])
    with pytest.raises(RequestError, match="-1"):
        TOKENIZERS["qwen2"].decode([-1])

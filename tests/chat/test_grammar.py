"""Masks: every token of the vocabulary right, errors named."""

import pytest

from stride.chat import grammar
from stride.chat.grammar import GrammarCompiler
from stride.chat.tokenizer import Tokenizer
from stride.errors import GenerationError, RequestError

ANY = "start: /(?s:.*)/"


def byte_vocabulary() -> Tokenizer:
    """All bytes as tokens, halves of characters, an unused token and one more end."""
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁the", "é", "unused", "<end>", "▁"]
    types = [2, 3, 3, *[6] * 256, 1, 1, 5, 3, 1]
    return Tokenizer.from_metadata(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": texts,
            "tokenizer.ggml.token_type": types,
            "tokenizer.ggml.scores": [0.0] * len(texts),
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.eot_token_id": texts.index("<end>"),
        }
    )


def allowed(tokenizer, text, *ids, shown=()):
    mask = GrammarCompiler(tokenizer, shown).mask(text, "grammar")
    for token_id in ids:
        assert token_id in mask.allowed()
        mask.accept(token_id)
    tokens = mask.allowed()
    return {i for i in range(tokenizer.n_vocab) if i in tokens}


def test_free_text_may_be_all_but_special_tokens_and_bytes_of_no_character():
    tokenizer = byte_vocabulary()
    ends = {2, 262}
    never = {0xC0, 0xC1, *range(0xF5, 0x100), *range(0x80, 0xC0)}
    assert allowed(tokenizer, ANY) == ends | {3 + b for b in range(256) if b not in never} | {259, 260, 263}


def test_a_character_goes_on_with_its_own_bytes():
    tokenizer = byte_vocabulary()
    assert allowed(tokenizer, ANY, 3 + 0xE2) == {3 + b for b in range(0x80, 0xC0)}
    assert allowed(tokenizer, "start: /[éèx]/") == {3 + 0xC3, 260, 3 + ord("x")}
    assert allowed(tokenizer, "start: /[éè]/", 3 + 0xC3) == {3 + 0xA9, 3 + 0xA8}
    assert allowed(tokenizer, "start: /( the| a)/") == {3 + 0x20, 259, 263}


def test_text_that_is_certain_takes_the_tokens_it_would_have_been_trained_with(tokenizer):
    spaced = byte_vocabulary()
    assert allowed(spaced, 'start: "é"') == {260}
    assert allowed(spaced, 'start: "x " /[yz]/', 3 + ord("x")) == {263}
    first, *_ = tokenizer.encode("function")
    assert allowed(tokenizer, 'start: "function"') == {first}


def test_what_is_complete_ends_with_any_end_token():
    assert allowed(byte_vocabulary(), 'start: "a"', 3 + ord("a")) == {2, 262}


def test_special_tokens_are_text_only_where_they_are_shown(tokenizer):
    tag = tokenizer.special_tokens["<|im_start|>"]
    assert tag in allowed(tokenizer, 'start: "<|im_start|>"', shown=("<|im_start|>",))
    assert tag not in allowed(tokenizer, 'start: "<|im_start|>"')
    assert tag not in allowed(tokenizer, ANY)


def test_every_token_of_a_vocabulary_is_allowed_where_its_bytes_match(tokenizer):
    found = allowed(tokenizer, "start: /[a-e]+/")
    expected = {i for i in range(tokenizer.n_vocab) if (b := tokenizer.token_bytes(i)) and set(b) <= set(b"abcde")}
    assert found == expected


@pytest.mark.parametrize(
    "text",
    [
        "start: x",
        "start: /(/",
        'start: start "a"',
        r"start: /[^\s\S]/",
        'start: %json {"type": "strin"}',
        'start: %json {"enum": []}',
        'start: %json {"$ref": "http://localhost/x"}',
        'start: %json {"not": {}}',
        "",
        "start: " + "x" * (1 << 20),
    ],
)
def test_what_cannot_be_enforced_is_refused_by_name(compiler, text):
    with pytest.raises(RequestError, match=r"my_field (cannot be enforced: .|makes a grammar of more)") as caught:
        compiler.mask(text, "my_field")
    assert caught.value.field == "my_field"


@pytest.mark.parametrize("small", [0, 10_000])
def test_a_dead_end_is_an_error_and_not_free_text(compiler, tokenizer, monkeypatch, small):
    monkeypatch.setattr("stride.chat.grammar.SMALL_VOCABULARY", small)
    mask = compiler.mask('start: "a" x\nx: x "b"\n', "grammar")
    (a,) = tokenizer.encode("a")
    mask.accept(a)
    with pytest.raises(RequestError, match="grammar cannot be enforced any further: nothing") as caught:
        mask.allowed()
    assert caught.value.field == "grammar"


def test_more_work_than_may_be_is_an_error_of_the_field(compiler, tokenizer):
    mask = compiler.mask('start: x{60000}\nx: y{60000}\ny: "a"', "grammar")
    (a,) = tokenizer.encode("a")
    mask.accept(a)
    with pytest.raises(RequestError, match="Too many items") as caught:
        mask.allowed()
    assert caught.value.field == "grammar"


@pytest.mark.parametrize("small", [0, 10_000])
def test_a_token_that_is_not_allowed_is_an_error(compiler, tokenizer, monkeypatch, small):
    monkeypatch.setattr("stride.chat.grammar.SMALL_VOCABULARY", small)
    mask = compiler.mask("start: /a+/", "grammar")
    (b,) = tokenizer.encode("b")
    with pytest.raises(GenerationError, match="does not allow"):  # noqa: PT012 - now, or when it is computed
        mask.accept(b)
        mask.allowed()


def test_masks_of_one_grammar_are_independent(compiler, tokenizer):
    (a,), (b,) = tokenizer.encode("a"), tokenizer.encode("b")
    compiled = compiler.compile("start: /a[bc]/", "grammar")
    first, second = compiled.mask(), compiled.mask()
    first.accept(a)
    assert b in first.allowed()
    assert a in second.allowed()


def test_what_has_too_many_symbols_is_too_large(compiler):
    repeated = " ".join(f"x{i % 10}{{{60_000 - i}}}" for i in range(9000))
    rules = "\n".join(f'x{i}: "a" | "b" x{i}' for i in range(10))
    with pytest.raises(RequestError, match="my_field cannot be enforced: it is too large"):
        compiler.mask(f"start: {repeated}\n{rules}", "my_field")


def test_small_grammars_do_not_wait_for_large_ones(compiler, monkeypatch):
    class Busy:
        def submit(self, *args):
            raise AssertionError("waits in line")

    monkeypatch.setattr(grammar, "_LARGE", Busy())
    compiler.mask(ANY, "grammar")
    with pytest.raises(AssertionError, match="waits"):
        compiler.mask(ANY + " " * grammar.SMALL_GRAMMAR, "grammar")


def test_the_estimate_of_memory_grows_with_text_and_repetitions(compiler):
    small = compiler.compile('start: "a"', "grammar").n_bytes
    assert compiler.compile('start: "a"' + " " * 1000, "grammar").n_bytes == small + 1000 * grammar.BYTES_OF_CHARACTER
    repeated = compiler.compile('start: "a"{ 9}', "grammar").n_bytes
    assert repeated == small + 4 * grammar.BYTES_OF_CHARACTER + grammar.BYTES_OF_REPETITION

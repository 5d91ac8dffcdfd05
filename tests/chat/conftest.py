"""A real vocabulary: the demo model's."""

from collections.abc import Callable

import pytest

from stride import demo
from stride.chat.grammar import GrammarCompiler, GrammarMask
from stride.chat.tokenizer import Tokenizer
from stride.errors import GenerationError
from stride.gguf import open_gguf


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    with open_gguf(demo.path()) as file:
        return Tokenizer.from_metadata(file.metadata)


@pytest.fixture(scope="session")
def compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    """Grammars over the vocabulary, whose tags are text."""
    return GrammarCompiler(tokenizer, ("<think>", "</think>", "<tool_call>", "</tool_call>"))


@pytest.fixture(scope="session")
def matches(tokenizer: Tokenizer, compiler: GrammarCompiler) -> Callable[[str, str], str]:
    """``matches(grammar, text)``: the part of a text that a grammar allows, with "$" after it if it may end there."""
    end = tokenizer.special_tokens["<|im_end|>"]

    def match(grammar: str, text: str) -> str:
        mask: GrammarMask = compiler.mask(grammar, "test")
        done: list[int] = []
        for token_id in tokenizer.encode(text):
            if token_id not in mask.allowed():
                break
            mask.accept(token_id)
            done.append(token_id)
        text = tokenizer.decode(done)
        try:
            return text + "$" * (end in mask.allowed())
        except GenerationError:
            return text

    return match

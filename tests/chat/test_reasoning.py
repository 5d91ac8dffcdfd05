"""A budget closes the thought: at once, between characters, not within a call, and not twice."""

from dataclasses import replace

import numpy as np
import pytest

from stride.chat.answer_grammar import answer_grammar
from stride.chat.constraints import Constraints
from stride.chat.parsers import HERMES, STEP_XML
from stride.chat.parsers.format import THINK
from stride.chat.reasoning import ThoughtBudget
from stride.types import Tool

STEP = replace(STEP_XML, reasoning=THINK)
NOW = Tool("now", parameters={"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]})
CALL = "<tool_call>\n<function=now>\n<parameter=x>\nlong value\n</parameter>\n</function>\n</tool_call>"


def say(mask, tokenizer, text):
    """Let the model say a text as far as the mask lets it; what was forced on it meanwhile is said too."""
    said = []
    for token_id in tokenizer.encode(text, continues=True):
        while token_id not in (allowed := mask.allowed()):
            assert len(allowed.ids) == 1, "neither free nor forced"
            said.append(int(allowed.ids[0]))
            mask.accept(said[-1])
        said.append(token_id)
        mask.accept(token_id)
    return tokenizer.decode(said)


def budget(tokenizer, n, tools=(), tool_format=STEP, inner=None, in_reasoning=True):
    return ThoughtBudget(inner, n, tokenizer, tool_format, tools, in_reasoning)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_the_thought_ends_after_its_budget_and_the_answer_goes_on(tokenizer, n):
    words = tokenizer.encode(" one two three four five")
    thought = tokenizer.decode(words[:n])
    rest = tokenizer.decode(words[n:])
    assert say(budget(tokenizer, n), tokenizer, tokenizer.decode(words)) == f"{thought}\n</think>\n{rest}"


def test_a_thought_that_ends_in_time_is_left_alone(tokenizer):
    text = "Hm.</think>This is much longer than the budget of the thought was."
    assert say(budget(tokenizer, 8), tokenizer, text) == text


def test_a_thought_that_the_model_opens_itself_counts_from_there(tokenizer):
    mask = budget(tokenizer, 0, tool_format=replace(HERMES, reasoning=THINK), in_reasoning=False)
    assert say(mask, tokenizer, "<think>x") == "<think>\n</think>\nx"
    mask = budget(tokenizer, 0, tool_format=replace(HERMES, reasoning=THINK), in_reasoning=False)
    assert say(mask, tokenizer, "No thought, <think> is a word") == "No thought, <think> is a word"


def test_a_character_is_not_cut(tokenizer):
    char = tokenizer.encode("\U0001f9ff", continues=True)
    assert len(char) > 1
    assert say(budget(tokenizer, 1), tokenizer, "\U0001f9ffx") == "\U0001f9ff\n</think>\nx"


def test_a_call_in_the_thought_is_not_cut(tokenizer, compiler):
    grammar = answer_grammar(STEP, [NOW], Constraints(), True)
    mask = budget(tokenizer, 12, [NOW], inner=compiler.mask(grammar, "tools"))
    assert say(mask, tokenizer, f"Hm.{CALL}So") == f"Hm.{CALL}\n</think>\nSo"


def test_the_grammar_goes_on_after_the_forced_end(tokenizer, compiler):
    grammar = answer_grammar(STEP, [NOW], Constraints("required"), True)
    mask = budget(tokenizer, 2, [NOW], inner=compiler.mask(grammar, "tools"))
    for _ in range(2):
        mask.accept(tokenizer.encode(" word")[0])
    for token_id in tokenizer.encode("\n</think>\n", continues=True):
        assert mask.allowed().ids.tolist() == [token_id]
        mask.accept(token_id)
    after = mask.allowed()
    assert not after.excluded
    assert {tokenizer.decode([i])[0] for i in after.ids.tolist()} <= set("< \n\t\r")


def test_without_a_grammar_everything_else_is_allowed(tokenizer):
    allowed = budget(tokenizer, 5).allowed()
    assert allowed.excluded
    assert np.array_equal(allowed.ids, [])

"""What is asked of an answer becomes one mask, whose errors name what cannot be enforced."""

from dataclasses import replace

import pytest

from stride.chat import masks
from stride.chat.constraints import Constraints, TextFormat
from stride.chat.masks import AnswerMasks
from stride.chat.parsers import STEP_XML
from stride.chat.parsers.format import THINK
from stride.errors import RequestError
from stride.types import Tool

STEP = replace(STEP_XML, reasoning=THINK)
NOW = Tool("now", parameters={"type": "object", "properties": {}})
ENDLESS = Tool("endless", parameters={"$ref": "#"})


@pytest.fixture
def budgets(monkeypatch):
    """The budgets of reasoning that masks were made with."""
    made = []
    monkeypatch.setattr(masks, "ThoughtBudget", lambda mask, budget, *rest: made.append(budget))
    return made


def test_an_answer_of_which_nothing_is_asked_has_no_mask(tokenizer):
    assert AnswerMasks(tokenizer, STEP, knows_efforts=False).answer([], Constraints(), in_reasoning=True) is None


@pytest.mark.parametrize(("effort", "expected"), [("none", [0]), ("low", [2048]), ("high", [])])
def test_effort_becomes_a_budget_where_the_template_does_not_know_it(tokenizer, budgets, effort, expected):
    asked = Constraints(reasoning_effort=effort)
    AnswerMasks(tokenizer, STEP, knows_efforts=False).answer([], asked, in_reasoning=True)
    assert budgets == expected
    AnswerMasks(tokenizer, STEP, knows_efforts=True).answer([], asked, in_reasoning=True)
    assert budgets == expected


def test_the_tool_that_cannot_be_enforced_is_named(tokenizer):
    with pytest.raises(RequestError, match="'endless'") as caught:
        AnswerMasks(tokenizer, STEP, knows_efforts=False).answer([NOW, ENDLESS], Constraints(), in_reasoning=False)
    assert caught.value.field == "tools"


def test_a_format_that_cannot_be_enforced_is_not_blamed_on_the_tools(tokenizer):
    asked = Constraints(text=TextFormat("regex", "(", "regex"))
    with pytest.raises(RequestError) as caught:
        AnswerMasks(tokenizer, STEP, knows_efforts=False).answer([NOW], asked, in_reasoning=False)
    assert caught.value.field == "regex"


@pytest.mark.parametrize(("budget", "expected"), [(100, 100), (9999, 2048)])
def test_the_smaller_of_a_budget_and_what_an_effort_means_counts(tokenizer, budgets, budget, expected):
    asked = Constraints(reasoning_effort="low", reasoning_budget=budget)
    AnswerMasks(tokenizer, STEP, knows_efforts=False).answer([], asked, in_reasoning=True)
    assert budgets == [expected]


def compiled_texts(masks_of_model, monkeypatch):
    """The grammars that are compiled from now on."""
    texts = []
    for compiler in (masks_of_model.grammars, masks_of_model._text_grammars):
        compile_ = compiler.compile
        monkeypatch.setattr(compiler, "compile", lambda text, *rest, do=compile_: texts.append(text) or do(text, *rest))
    return texts


def test_what_was_asked_before_is_neither_written_nor_compiled_again(tokenizer, monkeypatch):
    model = AnswerMasks(tokenizer, STEP, knows_efforts=False)
    compiled = compiled_texts(model, monkeypatch)
    asked = Constraints(text=TextFormat.json_object())

    def ask(*tools: Tool, constraints=asked, in_reasoning=True, scope=""):
        before = len(compiled)
        assert model.answer(tools, constraints, in_reasoning, scope) is not None
        return len(compiled) - before

    assert ask(NOW) == 2  # the format alone, and with the tools
    monkeypatch.setattr(masks, "answer_grammar", None)
    assert ask(Tool("now", "in other words", {"type": "object", "properties": {}})) == 0
    assert ask(NOW, constraints=replace(asked, reasoning_budget=5)) == 0
    monkeypatch.undo()
    compiled = compiled_texts(model, monkeypatch)
    assert ask(NOW, in_reasoning=False) == 1
    assert ask(NOW, constraints=replace(asked, tool_choice="required")) == 1
    assert ask(replace(NOW, name="then")) == 1
    assert ask(replace(NOW, parameters={"properties": {"a": {}}})) == 1
    assert ask(NOW, constraints=Constraints()) == 1


def test_nothing_compiled_is_shared_across_scopes(tokenizer, monkeypatch):
    model = AnswerMasks(tokenizer, STEP, knows_efforts=False)
    compiled = compiled_texts(model, monkeypatch)
    for expected, scope in enumerate(["", "a", "b"], start=1):
        for _ in range(2):
            model.text(TextFormat.json_object(), scope)
            model.answer([NOW], Constraints(), True, scope)
            assert len(compiled) == 2 * expected


def test_a_schema_that_is_no_json_is_refused(tokenizer):
    endless: dict[str, object] = {}
    endless["properties"] = endless
    for parameters in (endless, {"properties": {"a": {"const": object()}}}):
        with pytest.raises(RequestError, match="no JSON") as caught:
            AnswerMasks(tokenizer, STEP, knows_efforts=False).answer([Tool("f", "", parameters)], Constraints(), True)
        assert caught.value.field == "tools"

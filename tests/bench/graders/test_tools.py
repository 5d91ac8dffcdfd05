"""Tool calls: what a turn is, and which wanted calls it holds; the post's case of two calls."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stride.bench.client import Answer
from stride.bench.graders.arguments import place, same, text
from stride.bench.graders.tools import Wanted, grade_calls, judge_calls, read_turn
from stride.bench.tasks import TOOL_CALLS, grade_tools
from stride.types import ToolCall


def call(name: str, arguments: object) -> ToolCall:
    return ToolCall("id", name, arguments if isinstance(arguments, str) else json.dumps(arguments))


WEATHER = call("get_weather", {"location": "Austin, TX"})
TIP = call("calculate", {"expression": "84.50 * 0.15"})


def grade(*calls: ToolCall, **fields: str):
    found = grade_tools(Answer(tool_calls=calls, **fields))
    assert found is not None
    return found


def read(*calls: ToolCall, **fields: str):
    return read_turn(Answer(tool_calls=calls, **fields), TOOL_CALLS.tools)


@pytest.mark.parametrize("calls", [(WEATHER, TIP), (TIP, WEATHER)])
def test_both_in_any_order_pass(calls):
    assert grade(*calls).outcome == "pass"


@pytest.mark.parametrize(
    "expression", ["84.5*15/100", "15% of 84.50", "84.50 * 1.15", "0.15*84.50", "(84.50) * (15 / 100)", "84.5 * .15"]
)
def test_ways_to_write_the_tip(expression):
    assert grade(WEATHER, call("calculate", {"expression": expression})).outcome == "pass"


@pytest.mark.parametrize(
    ("bad", "evidence", "outcome"),
    [
        (call("calculate", '{"expression": "84.50'), "not JSON", "malformed"),
        (call("calculate", ""), "not JSON", "malformed"),
        (call("calculate", '{"expression": NaN}'), "not JSON", "malformed"),
        (call("calculate", "[" * 100_000), "nested too deep", "malformed"),
        (call("calculate", '["84.50 * 0.15"]'), "no object", "malformed"),
        (call("calculate", {"expression": 12.675}), "do not fit the schema", "malformed"),
        (call("calculate", {}), "do not fit the schema", "malformed"),
        (call("calculate", {"expression": "2 + 2"}), "expression is '2 + 2', not", "called"),
        (call("calculate", {"expression": "12.675"}), "expression is '12.675', not", "called"),
        (call("calculate", {"expression": "84.50 * 0.15", "digits": 2}), "digits was not asked for", "called"),
        (call("calculator", {"expression": "84.50 * 0.15"}), "not among the calls", "malformed"),
        (call("", ""), "not among the calls", "malformed"),
    ],
)
def test_a_wrong_call_leaves_it_partial(bad, evidence, outcome):
    found = grade(WEATHER, bad)
    assert found.outcome == "partial"
    assert evidence in found.checks[1].evidence
    assert not found.checks[2].passed
    assert read(WEATHER, bad).outcome == outcome
    assert found.checks[3].passed == (outcome == "called")


def test_one_call_is_partial_as_in_the_post():
    found = grade(WEATHER, finish_reason="tool_calls")
    assert (found.outcome, found.score) == ("partial", "1 of 2 calls")


def test_a_call_too_many_is_no_pass():
    found = grade(WEATHER, TIP, TIP)
    assert (found.outcome, found.score) == ("partial", "2 of 2 calls, but not: no other call")


def test_a_good_call_counts_after_a_bad_one():
    assert grade(call("get_weather", {}), WEATHER, TIP).checks[0].passed


@pytest.mark.parametrize(
    ("fields", "evidence", "outcome"),
    [
        ({"content": "It is sunny."}, "answered in words: It is sunny.", "abstained"),
        ({"content": "It is", "finish_reason": "length"}, "token limit", "malformed"),
        ({"finish_reason": "length"}, "token limit", "malformed"),
        ({}, "no answer", "malformed"),
        ({"content": " \n"}, "no answer", "malformed"),
        ({"reasoning": "Sunny?"}, "no answer", "malformed"),
    ],
)
def test_no_call_is_a_fail(fields, evidence, outcome):
    found = grade(**fields)
    assert found.outcome == "fail"
    assert evidence in found.checks[0].evidence
    assert read(**fields).outcome == outcome


@pytest.mark.parametrize(
    "content",
    [
        '<tool_call>\n{"name": "get_weather"',
        "Sure. <function=get_weather>",
        '[TOOL_CALLS] [{"arguments": {}}]',
        '```json\n{ "name": "get_weather", "parameters": {}}\n```',
        '{"function": "get_weather"}',
        '{"type": "function", "x": 1}',
        "<|python_tag|>get_weather.call()",
        "[get_weather(location='Austin')]",
        "<｜tool▁calls▁begin｜>",
        '<invoke name="get_weather">',
        "</tool_call>",
    ],
)
def test_markup_left_in_the_text_never_counts_as_abstaining(content):
    turn = read(content=content)
    assert turn.outcome == "malformed"
    assert "markup" in turn.faults[0]
    assert grade(WEATHER, TIP, content=content).outcome == "partial"


@pytest.mark.parametrize("content", ["Your name: ask him.", "x <tool> y", "A function is a map.", "{name}", "[1](a)"])
def test_plain_words_are_no_markup(content):
    assert read(content=content).outcome == "abstained"


def test_thoughts_in_the_text_are_no_part_of_the_answer():
    thought = '\n<think>\nPerhaps {"name": "get_weather"}?\n</think>'
    assert (read(content=thought).outcome, read(content=thought + " It is sunny.").outcome) == (
        "malformed",
        "abstained",
    )
    assert read(content=thought + "\n\nIt is sunny.").text.strip() == "It is sunny."
    assert read(content=thought + "<tool_call>").outcome == "malformed"
    assert read(content="<think>Perhaps").outcome == "abstained"
    assert read(WEATHER, content=thought).outcome == "called"


def test_many_calls_are_listed_briefly():
    found = grade(*[TIP] * 200)
    assert found.outcome == "partial"
    assert len(found.checks[2].evidence) < 1000
    assert found.checks[2].evidence.endswith("194 more")


# The matching, on one tool that takes a place and a number of days.

FORECAST = {
    "type": "function",
    "function": {
        "name": "forecast",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["place"],
        },
    },
}
CITIES = ("Oslo", "Lima", "Cairo")


def forecast(city: str, days: int = 1) -> ToolCall:
    return call("forecast", {"place": city, "days": days})


def wanted(city: str, days: int = 1) -> Wanted:
    return Wanted("forecast", {"place": place(city), "days": same(days)})


pairs = st.tuples(st.sampled_from(CITIES), st.integers(1, 2))


@given(st.lists(pairs, max_size=5).flatmap(lambda all_of: st.tuples(st.permutations(all_of), st.just(all_of))))
def test_order_never_matters(drawn):
    shuffled, asked = drawn
    turn = read_turn(Answer("." if not asked else "", tool_calls=tuple(forecast(*p) for p in shuffled)), [FORECAST])
    assert judge_calls(turn, [wanted(*p) for p in asked]).passed


@given(st.lists(pairs, min_size=1, max_size=5), st.data())
def test_more_fewer_or_others_never_pass(asked, data):
    given_calls = data.draw(st.lists(pairs, max_size=6).filter(lambda made: sorted(made) != sorted(asked)))
    answer = Answer(tool_calls=tuple(forecast(*p) for p in given_calls))
    found = grade_calls(answer, [FORECAST], [wanted(*p) for p in asked])
    common = sum(min(given_calls.count(p), asked.count(p)) for p in set(asked))
    assert found.outcome == ("partial" if common else "fail")
    assert sum(check.passed for check in found.checks[: len(asked)]) == common


def test_the_matching_finds_what_a_greedy_one_misses():
    """The first wanted call would take the only one that suits the second."""
    wide, narrow = Wanted("forecast", {"place": place("Austin")}), Wanted("forecast", {"place": text("Austin, TX")})
    made = [call("forecast", {"place": "Austin, TX"}), call("forecast", {"place": "Austin"})]
    assert grade_calls(Answer(tool_calls=tuple(made)), [FORECAST], [wide, narrow]).outcome == "pass"
    assert grade_calls(Answer(tool_calls=tuple(made[::-1])), [FORECAST], [narrow, wide]).outcome == "pass"


def test_a_miss_is_explained_by_the_call_that_comes_nearest():
    turn = read_turn(Answer(tool_calls=(forecast("Rome", 9), forecast("Lima", 2), forecast("Oslo"))), [FORECAST])
    found = judge_calls(turn, [wanted("Lima"), wanted("Oslo")])
    assert [check.evidence for check in found.wanted] == ["days is 2, not 1", 'forecast({"place": "Oslo", "days": 1})']
    assert [check.passed for check in found.guards] == [False, True]

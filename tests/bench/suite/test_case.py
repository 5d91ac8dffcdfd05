"""Conversations: what the next request is, in OpenAI's format, and when there is none."""

from __future__ import annotations

import json
from dataclasses import replace

from stride.bench.client import Answer
from stride.bench.graders import Grade
from stride.bench.graders.arguments import place, same
from stride.bench.suite.case import Case, Step, conversation, proceed
from stride.bench.suite.judges import anything, calls, repeats
from stride.bench.suite.toolbox import Tool, a
from stride.types import ToolCall

FIND = Tool("find", "Find.", {"name": a("string", "Who.")})
ACT = Tool("act", "Act.", {"id": a("string", "Its id.")})
CASE = Case(
    "dependent",
    3,
    "Do it.",
    (FIND.definition, ACT.definition),
    (
        Step(calls(FIND.wanted(place("Ada")), FIND.wanted(place("Björn")))),
        Step(calls(ACT.wanted(same("7"))), results={"find": {"id": "7", "of": "Björn"}}),
    ),
)
FOUND = Answer(
    "One moment.",
    "Hm",
    (ToolCall("x1", "find", '{"name": "Björn"}'), ToolCall("", "find", '{"name":"Ada"}')),
    "tool_calls",
)


def test_the_first_request():
    assert proceed(CASE, [], 99) == {
        "messages": [{"role": "user", "content": "Do it."}],
        "tools": [FIND.definition, ACT.definition],
        "max_tokens": 99,
        "temperature": 0,
        "seed": 3,
        "cache_prompt": False,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_results_are_given_back_for_each_call():
    result = json.dumps({"id": "7", "of": "Björn"}, ensure_ascii=False)
    assert conversation(CASE, [FOUND]) == [
        {"role": "user", "content": "Do it."},
        {
            "role": "assistant",
            "content": "One moment.",
            "tool_calls": [
                {"id": "x1", "type": "function", "function": {"name": "find", "arguments": '{"name": "Björn"}'}},
                {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": '{"name":"Ada"}'}},
            ],
        },
        {"role": "tool", "tool_call_id": "x1", "content": result},
        {"role": "tool", "tool_call_id": "call_1", "content": result},
    ]
    body = proceed(CASE, [FOUND], 99)
    assert isinstance(body, dict)
    assert body["messages"] == conversation(CASE, [FOUND])


def test_it_ends_with_the_last_turn_or_the_first_that_does_not_pass():
    done = proceed(CASE, [FOUND, Answer(tool_calls=(ToolCall("2", "act", '{"id": "7"}'),))], 99)
    assert isinstance(done, Grade)
    assert (done.outcome, done.score) == ("pass", "3 of 3 checks")
    ended = proceed(CASE, [replace(FOUND, tool_calls=FOUND.tool_calls[:1])], 99)
    assert isinstance(ended, Grade)
    assert (ended.outcome, ended.score) == ("partial", "1 of 3 checks")
    assert ended.checks[-1].evidence == "not reached: the turn before did not pass"


def test_a_step_without_results_begins_again():
    case = replace(CASE, steps=(Step(anything()), Step(repeats(), stream=False)))
    first, second = proceed(case, [], 9), proceed(case, [Answer("Hi")], 9)
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert first.pop("stream_options")
    assert (first.pop("stream"), second.pop("stream")) == (True, False)
    assert first == second


def test_the_fingerprint_is_of_what_the_model_sees():
    others = [
        replace(CASE, prompt="Do it!"),
        replace(CASE, tools=CASE.tools[:1]),
        replace(CASE, steps=(CASE.steps[0], replace(CASE.steps[1], results={"find": {"id": "8"}}))),
        replace(CASE, steps=(CASE.steps[0], replace(CASE.steps[1], stream=False))),
    ]
    assert CASE.fingerprint not in {other.fingerprint for other in others}
    assert len({other.fingerprint for other in others}) == len(others)
    assert replace(CASE, steps=(Step(anything()), *CASE.steps[1:])).fingerprint == CASE.fingerprint

"""Tool calls: both is a pass, one is partial, none is a fail, and the evidence says why."""

from __future__ import annotations

import json

import pytest

from stride.bench.client import Answer
from stride.bench.tasks import TOOL_CALLS
from stride.types import ToolCall


def call(name: str, arguments: object) -> ToolCall:
    return ToolCall("id", name, arguments if isinstance(arguments, str) else json.dumps(arguments))


WEATHER = call("get_weather", {"location": "Austin, TX"})
TIP = call("calculate", {"expression": "84.50 * 0.15"})


def grade(*calls: ToolCall, **fields: str):
    assert TOOL_CALLS.grade is not None
    return TOOL_CALLS.grade(Answer(tool_calls=calls, **fields))


@pytest.mark.parametrize("calls", [(WEATHER, TIP), (TIP, WEATHER)])
def test_both_in_any_order_pass(calls):
    assert grade(*calls).outcome == "pass"


@pytest.mark.parametrize(
    "expression", ["84.5*15/100", "15% of 84.50", "84.50 * 1.15", "0.15*84.50", "(84.50) * (15 / 100)", "84.5 * .15"]
)
def test_ways_to_write_the_tip(expression):
    assert grade(WEATHER, call("calculate", {"expression": expression})).outcome == "pass"


@pytest.mark.parametrize(
    ("bad", "evidence"),
    [
        (call("calculate", '{"expression": "84.50'), "not JSON"),
        (call("calculate", {"expression": 12.675}), "do not fit the schema"),
        (call("calculate", {}), "do not fit the schema"),
        (call("calculate", {"expression": "2 + 2"}), "expected 15% of 84.50"),
        (call("calculator", {"expression": "84.50 * 0.15"}), "not among the calls"),
        (call("", ""), "not among the calls"),
    ],
)
def test_a_wrong_call_leaves_it_partial(bad, evidence):
    found = grade(WEATHER, bad)
    assert found.outcome == "partial"
    assert evidence in found.checks[1].evidence
    assert not found.checks[2].passed


def test_one_call_is_partial_as_in_the_post():
    found = grade(WEATHER, finish_reason="tool_calls")
    assert (found.outcome, found.score) == ("partial", "1 of 2 calls")


def test_a_call_too_many_is_no_pass():
    assert grade(WEATHER, TIP, TIP).outcome == "partial"


def test_a_good_call_counts_after_a_bad_one():
    assert grade(call("get_weather", {}), WEATHER, TIP).checks[0].passed


@pytest.mark.parametrize(
    ("fields", "evidence"),
    [
        ({"content": "It is sunny."}, "answered in words"),
        ({"finish_reason": "length"}, "token limit"),
        ({}, "no answer"),
    ],
)
def test_no_call_is_a_fail(fields, evidence):
    found = grade(**fields)
    assert found.outcome == "fail"
    assert evidence in found.checks[0].evidence

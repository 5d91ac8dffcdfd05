"""Playing: turn after turn over HTTP, until it is decided or fails; and grading what is stored, without a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx
import pydantic
import pytest

from stride.bench.client import Answer, Reply, Times
from stride.bench.suite.kinds import KINDS
from stride.bench.suite.play import Ask, CaseResult, find, grade, over_http, play, regrade
from stride.bench.targets import ServedModel
from stride.errors import StrideError
from stride.types import ToolCall

STORED = pydantic.TypeAdapter(CaseResult)


def reply(answer: Answer, error: str | None = None) -> Reply:
    return Reply(answer, Times(end=1.0), {"completion_tokens": 3}, None, (0.5, 0.9), error)


def first_call(body: Mapping[str, Any], arguments: Mapping[str, Any], tool: int = 0) -> Answer:
    return Answer(tool_calls=(ToolCall("1", body["tools"][tool]["function"]["name"], json.dumps(arguments)),))


def play_stock(second: Reply | Ask | None = None, max_tokens: int = 99) -> CaseResult:
    """A case of two turns; the first passes, the second is what is said or asked for here."""
    case = find("uses-results", 1)
    article = case.prompt.split()[5]

    def ask(body: Mapping[str, Any]) -> Reply:
        if len(body["messages"]) == 1:
            [argument] = body["tools"][0]["function"]["parameters"]["properties"]
            return reply(first_call(body, {argument: article}))
        if callable(second):
            return second(body)
        units = json.loads(body["messages"][-1]["content"])["units"]
        return second or reply(Answer(f"There are {units}."))

    return play(case, ask, max_tokens)


def test_a_case_of_two_turns():
    result = play_stock()
    assert result.passed
    assert len(result.replies) == 2
    assert result.fault is None


def test_a_failed_request_ends_it_as_a_fail_that_is_named():
    result = play_stock(reply(Answer("There a"), "HTTP 500: out of memory"))
    assert (result.grade.outcome, result.fault) == ("partial", "HTTP 500: out of memory")
    assert result.grade.checks[-1].evidence == "not reached: HTTP 500: out of memory"
    refused = play(find("single", 0), lambda body: reply(Answer(), "ConnectError: refused"))
    assert (refused.grade.outcome, len(refused.replies)) == ("fail", 1)


@pytest.mark.parametrize("second", [None, reply(Answer("Many.")), reply(Answer(), "ReadTimeout: slow")])
def test_what_is_stored_is_graded_again_without_a_model(second):
    result = play_stock(second)
    stored = STORED.validate_json(STORED.dump_json(result))
    assert stored == result
    assert regrade(replace(stored, grade=replace(stored.grade, outcome="fail", checks=()))) == result


def test_answers_to_another_question_are_not_graded():
    with pytest.raises(StrideError, match="single, seed 2: the suite asks something else now"):
        regrade(replace(play(find("single", 2), lambda body: reply(Answer("Hm"))), fingerprint="0"))
    with pytest.raises(StrideError, match="no kind 'juggling': it has single, default"):
        find("juggling", 0)


def test_stored_replies_that_end_too_early_are_a_fault():
    result = play_stock()
    cut = grade(find("uses-results", 1), result.replies[:1])
    assert not cut.passed
    assert "end too early" in (cut.fault or "")
    assert not grade(find("uses-results", 1), []).passed


def test_over_http_streamed_and_whole(stand, wire):
    call = {"id": "1", "function": {"name": "none_such", "arguments": "{}"}}

    def answer(body):
        if body["stream"]:
            return [
                wire.delta(content="Hi"),
                wire.delta(tool_calls=[call | {"index": 0}]),
                wire.delta("stop"),
                wire.DONE,
            ]
        choice = {"message": {"content": "Hi", "tool_calls": [call]}, "finish_reason": "stop"}
        return [json.dumps({"choices": [choice]}).encode()]

    stand.answer = answer
    with httpx.Client() as http:
        result = play(find("streamed", 0), over_http(http, stand.url, "tiny"), max_tokens=7)
    assert result.passed
    assert [(body["model"], body["max_tokens"], body["stream"]) for body in stand.requests] == [
        ("tiny", 7, True),
        ("tiny", 7, False),
    ]


def test_every_kind_with_the_demo_model():
    """Its weights are random: what it says may fail, but no request does, and whatever it says can be graded."""
    with ServedModel(n_ctx=2048).connect(lambda text: None) as endpoint:
        ask = over_http(endpoint.http, endpoint.url, endpoint.model)
        results = [play(kind.case(0), ask, max_tokens=16) for kind in KINDS]
        second_turn = play_stock(ask, max_tokens=16)
    assert [result.fault for result in [*results, second_turn]] == [None] * (len(KINDS) + 1)
    assert len(second_turn.replies) == 2
    assert all(result.replies and result.grade.checks for result in results)
    streamed = results[-1]
    assert streamed.passed, streamed.grade

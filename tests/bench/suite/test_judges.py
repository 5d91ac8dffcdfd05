"""What a turn of words, of anything, of the same again is taken for."""

from __future__ import annotations

import pytest

from stride.bench.client import Answer
from stride.bench.graders.arguments import place
from stride.bench.graders.tools import Wanted, read_turn
from stride.bench.suite import judges
from stride.bench.suite.toolbox import Tool, a
from stride.types import ToolCall

WEATHER = Tool("get_weather", "Weather.", {"city": a("string", "Where.")})
OSLO = ToolCall("1", "get_weather", '{"city": "Oslo"}')
WANTED = Wanted("get_weather", {"city": place("Oslo")})


def judge(how: judges.Judge, *answers: Answer):
    return how([read_turn(answer, [WEATHER.definition]) for answer in answers])


@pytest.mark.parametrize(
    "words",
    ["Which city?", "Please give me the date.", "I need to know from where you leave.", "Let me know the time.",
     "The account number is missing.", "You did not specify the recipient."],
)  # fmt: skip
def test_asking(words):
    assert judges.ASKS.sees(words)


@pytest.mark.parametrize("words", ["Done.", "I have booked your flight.", "I sent 20 euros."])
def test_not_asking(words):
    assert not judges.ASKS.sees(words)


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        ("There are 1847 units.", True),
        ("There are **1,847** units.", True),
        ("1847", True),
        ("1847.0 units", True),
        ("1847units", True),
        ("about 1,850", False),
        ("18470 or 11847", False),
        ("1847.5", False),
        ("21,847", False),
        ("v.1847.2.1", False),
        ("eighteen hundred", False),
    ],
)
def test_a_number_has_to_stand_there(words, seen):
    assert judges.says_number(1847).sees(words) == seen


def test_words_are_looked_for_only_where_there_is_no_call():
    look = judges.answers(judges.says("Oslo"))
    assert judge(look, Answer("It is Oslo.")).passed
    for answer in (
        Answer("It is Oslo.", tool_calls=(OSLO,)),
        Answer("It is Oslo.", finish_reason="length"),
        Answer("<tool_call> Oslo"),
    ):
        assert [check.passed for check in judge(look, answer).wanted] == [False, False]
    assert [check.passed for check in judge(look, Answer("It is Rome.")).wanted] == [True, False]


@pytest.mark.parametrize(
    "words",
    ["Sorry, that did not work.", "The service is unavailable.", "It timed out.", "There was an error.",
     "I couldn’t reach it.", "I wasn't able to get it.", "Please try again later.", "The request failed.",
     "I am having trouble with that.", "I cannot tell (error 503)."],
)  # fmt: skip
def test_telling_of_a_failure(words):
    assert judge(judges.retries_or_tells(WANTED), Answer(words)).passed


@pytest.mark.parametrize(
    "words",
    ["It is cold.", "It is 21°C.", "Sorry, but it is usually 3 degrees.", "An error; 70 F.", "Sorry, -3 °C", "",
     "Sorry <tool_call>"],
)  # fmt: skip
def test_not_telling_or_making_something_up(words):
    assert not judge(judges.retries_or_tells(WANTED), Answer(words)).passed


def test_trying_again_is_the_same_call_alone():
    retry = judges.retries_or_tells(WANTED)
    assert judge(retry, Answer("Sorry, once more.", tool_calls=(OSLO,))).passed
    assert not judge(retry, Answer("Sorry", tool_calls=(OSLO, OSLO))).passed
    assert not judge(retry, Answer("Sorry", tool_calls=(ToolCall("1", "get_weather", "{"),))).passed


def test_anything_is_anything_but_nothing():
    for answer in (Answer("x"), Answer(reasoning="x"), Answer(tool_calls=(OSLO,))):
        assert judge(judges.anything(), answer).passed
    assert not judge(judges.anything(), Answer()).passed


@pytest.mark.parametrize(
    ("second", "wrong"),
    [
        (Answer("The answer", "Hm", (OSLO,)), []),
        (Answer("The answer", "Hm", (ToolCall("other", "get_weather", '{"city":"Oslo"}'),)), []),
        (Answer("The answers", "Hm", (OSLO,)), ["same text"]),
        (Answer("The answer", "", (OSLO,)), ["same reasoning"]),
        (Answer("The answer", "Hm", ()), ["same calls"]),
        (Answer("The answer", "Hm", (ToolCall("1", "get_weather", '{"city": "Rome"}'),)), ["same calls"]),
        (Answer("The answer", "Hm", (ToolCall("1", "get_weather", '{"city": "Os'),)), ["same calls"]),
    ],
)
def test_repeating(second, wrong):
    found = judge(judges.repeats(), Answer("The answer", "Hm", (OSLO,)), second)
    assert [check.name for check in found.wanted if not check.passed] == wrong


def test_evidence_shows_where_texts_part():
    found = judge(judges.repeats(), Answer("a" * 50 + "b"), Answer("a" * 50 + "c"))
    assert found.wanted[1].evidence == f"they part at character 50: {'a' * 20 + 'b'!r} and {'a' * 20 + 'c'!r}"

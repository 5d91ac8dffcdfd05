"""Every kind and seed: what a model that does right and several that do wrong get; and that cases are well made."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from stride.bench.client import Answer, Reply, Times
from stride.bench.suite.case import Case
from stride.bench.suite.kinds import FACTS, KINDS, SEEDS, cases
from stride.bench.suite.play import CaseResult, play
from stride.types import ToolCall

Answers = list[Answer]


def call(case: Case, tool: int | str, *values: Any) -> ToolCall:
    """Of a tool by its place or a word of its description, with values in the order of its properties."""
    offered = [offer["function"] for offer in case.tools]
    chosen = offered[tool] if isinstance(tool, int) else next(f for f in offered if tool in f["description"])
    return ToolCall(
        "id", chosen["name"], json.dumps(dict(zip(chosen["parameters"]["properties"], values, strict=False)))
    )


def called(*calls: ToolCall) -> Answer:
    return Answer(tool_calls=calls, finish_reason="tool_calls")


def said(text: str) -> Answer:
    return Answer(text, finish_reason="stop")


def parts(case: Case, pattern: str) -> tuple[str, ...]:
    match = re.fullmatch(pattern, case.prompt)
    assert match, case.prompt
    return match.groups()


def properties(case: Case) -> Mapping[str, Any]:
    return case.tools[0]["function"]["parameters"]["properties"]


def single(case: Case) -> Answers:
    minutes, label = parts(case, r'Start a timer for (\d+) minutes, labelled "(.+)"\.')
    length = int(minutes) * (60 if "seconds" in properties(case) else 1)
    return [called(call(case, 0, length, label.title()))]


def default(case: Case) -> Answers:
    city, nights = parts(case, r"Find me a hotel in (.+) for (\d) nights\.")
    return [called(call(case, 0, city, int(nights)))]


def enum(case: Case) -> Answers:
    room, degrees = parts(case, r".*(living room|kitchen|bedroom|bathroom) .* ([\d.]+) degrees\.")
    words = {"Warm": "heat", "down": "cool", "economy": "eco"}
    mode = next(mode for word, mode in words.items() if word in case.prompt)
    spelled = [
        next(value for value in properties(case)[name]["enum"] if value.lower() == wanted)
        for name, wanted in (("room", room.replace(" ", "_")), ("mode", mode))
    ]
    return [called(call(case, 0, *spelled, float(degrees)))]


def choice(case: Case) -> Answers:
    topics = {"raining": "weather", "time": "local time", "clean": "air quality", "dark": "sunset"}
    topic = next(topic for word, topic in topics.items() if word in case.prompt)
    [city] = re.findall(r"(?:in|is) ([A-Z]\w+)", case.prompt)
    return [called(call(case, topic, f"{city}, Earth"))]


def three_times(case: Case) -> Answers:
    cities = parts(case, r"What is .* in (\S+), (\S+) and (\S+)\?")
    return [called(*(call(case, 0, city) for city in cities))]


def weather_and_calculate(case: Case) -> Answers:
    city, percent, bill = parts(case, r"What's the weather in (.+) and calculate (\d+)% tip on \$([\d.]+)")
    return [called(call(case, "weather", city), call(case, "arithmetic", f"{bill} * {percent} / 100"))]


def dependent(case: Case) -> Answers:
    [who] = re.findall(r"our \w+ (\w+ \w+)", case.prompt)
    [found] = (case.steps[1].results or {}).values()
    return [called(call(case, 0, who)), called(call(case, 1, *found.values()))]


def irrelevant(case: Case) -> Answers:
    return [said("I have no tool for that.")]


def missing_argument(case: Case) -> Answers:
    return [said("Could you tell me the rest?")]


def no_tool(case: Case) -> Answers:
    return [said(f"It is **{dict(FACTS)[case.prompt][0]}**.")]


def tool_error(case: Case) -> Answers:
    [city] = parts(case, r"How warm is it in (.+) at the moment\?")
    return [called(call(case, 0, city)), said("I'm sorry, I couldn't look that up.")]


def uses_results(case: Case) -> Answers:
    [article] = re.findall(r"\w\w-\d+", case.prompt)
    [found] = (case.steps[1].results or {}).values()
    return [called(call(case, 0, article)), said(f"There are {found['units']:,} units.")]


def nested(case: Case) -> Answers:
    n1, a1, n2, a2, who, street, postcode, city = parts(
        case, r"Order (\d+) of article (\S+) and (\d+) of article (\S+) for (.+), (.+), (\d+) (.+)\."
    )
    customer = {"address": {"city": city, "postcode": postcode, "street": street}, "name": who}
    items = [{"article": a2, "quantity": int(n2)}, {"quantity": int(n1), "article": a1}]
    return [called(call(case, 0, customer, items))]


def streamed(case: Case) -> Answers:
    return 2 * (no_tool(case) if case.prompt in dict(FACTS) else weather_and_calculate(case))


RIGHT: Mapping[str, Callable[[Case], Answers]] = {
    "single": single,
    "default": default,
    "enum": enum,
    "choice": choice,
    "three-times": three_times,
    "weather-and-calculate": weather_and_calculate,
    "dependent": dependent,
    "irrelevant": irrelevant,
    "missing-argument": missing_argument,
    "no-tool": no_tool,
    "tool-error": tool_error,
    "uses-results": uses_results,
    "nested": nested,
    "streamed": streamed,
}
ABSTAIN = ("irrelevant", "missing-argument", "no-tool")
CALL = [kind for kind in RIGHT if kind not in (*ABSTAIN, "streamed")]


def played(case: Case, answers: Sequence[Answer]) -> CaseResult:
    """Checks on the way that requests alternate as a server demands, and that all answers are asked for."""
    left = list(answers)

    def ask(body: Mapping[str, Any]) -> Reply:
        roles = [message["role"] for message in body["messages"]]
        assert roles[0] == "user"
        assert roles[-1] in ("user", "tool")
        assert "tool_choice" not in body
        return Reply(left.pop(0), Times(), None, None)

    result = play(case, ask)
    assert not left
    assert result.fault is None
    return result


def changed(answer: Answer, **arguments: Any) -> Answer:
    """Its first call with other arguments; None leaves one out."""
    first, *rest = answer.tool_calls
    found = json.loads(first.arguments) | arguments
    left = {name: value for name, value in found.items() if value is not None}
    return replace(answer, tool_calls=(replace(first, arguments=json.dumps(left)), *rest))


def test_the_kinds_are_those_of_the_contract():
    assert [kind.name for kind in KINDS] == list(RIGHT)
    assert len(list(cases())) == 14 * 5


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_right_answers_pass_for_every_seed(kind):
    for seed in range(25):
        case = kind.case(seed)
        result = played(case, RIGHT[kind.name](case))
        assert result.grade.outcome == "pass", (case.prompt, result.grade)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_cases_are_well_made(kind):
    made = [kind.case(seed) for seed in SEEDS]
    assert made[0].fingerprint == kind.case(0).fingerprint
    assert len({case.prompt for case in made}) == len({case.fingerprint for case in made}) == len(SEEDS)
    for case in made:
        tools = [tool["function"] for tool in case.tools]
        assert len({tool["name"] for tool in tools}) == len(tools)
        for tool in tools:
            jsonschema.Draft202012Validator.check_schema(tool["parameters"])
            assert re.fullmatch(r"[a-z_]{1,64}", tool["name"])
            assert tool["description"]
            assert set(tool["parameters"]["required"]) <= set(tool["parameters"]["properties"])
        assert json.loads(json.dumps(case.tools)) == list(case.tools)


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        (lambda case, first: said("It is fine."), "fail"),
        (lambda case, first: said(""), "fail"),
        (lambda case, first: replace(said("Let me th"), finish_reason="length"), "fail"),
        (lambda case, first: said(f'<tool_call>{{"name": "{first.tool_calls[0].name}"}}</tool_call>'), "fail"),
        (lambda case, first: called(*(replace(c, arguments=c.arguments[:-1]) for c in first.tool_calls)), "fail"),
        (lambda case, first: called(*(replace(c, name="functions." + c.name) for c in first.tool_calls)), "fail"),
        (lambda case, first: called(*(replace(c, arguments="{}") for c in first.tool_calls)), "fail"),
        (lambda case, first: called(*first.tool_calls, first.tool_calls[0]), "partial"),
        (lambda case, first: replace(first, content="</tool_call>"), "partial"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", CALL)
def test_wrong_first_turns_where_calls_are_wanted(kind, change, outcome):
    for case in (known.case(seed) for known in KINDS if known.name == kind for seed in SEEDS):
        first = RIGHT[kind](case)[0]
        assert played(case, [change(case, first)]).grade.outcome == outcome, case.prompt


@pytest.mark.parametrize("kind", ABSTAIN)
def test_wrong_turns_where_no_call_is_wanted(kind):
    for case in (known.case(seed) for known in KINDS if known.name == kind for seed in SEEDS):
        right = RIGHT[kind](case)[0]
        wrong = [
            said(""),
            replace(right, finish_reason="length"),
            replace(right, content=right.content + ' {"name": "x"}'),
            replace(right, tool_calls=(call(case, 0, "Oslo", "x"),)),
            called(ToolCall("", "none_such", "{}")),
        ]
        for answer in wrong:
            result = played(case, [answer])
            assert result.grade.outcome == "fail", answer
            assert result.grade.checks[0].evidence


Change = Callable[[Case, Answers], Answers]


def _other_number(answers: Answers, name: str) -> Answers:
    value = json.loads(answers[0].tool_calls[0].arguments)[name]
    return [changed(answers[0], **{name: value + 1})]


PARTICULAR: list[tuple[str, str, Change, str]] = [
    ("default", "the defaults said", lambda c, a: [
        changed(a[0], guests=properties(c)["guests"]["default"], sort_by="rating")], "pass"),
    ("default", "another default", lambda c, a: [changed(a[0], guests=1)], "fail"),
    ("default", "a sort of its own", lambda c, a: [changed(a[0], sort_by="price")], "fail"),
    ("default", "a null", lambda c, a: [called(replace(a[0].tool_calls[0], arguments='{"city": null, "nights": 2}'))],
     "fail"),
    ("default", "other nights", lambda c, a: _other_number(a, "nights"), "fail"),
    ("enum", "other letters", lambda c, a: [
        changed(a[0], mode=json.loads(a[0].tool_calls[0].arguments)["mode"].swapcase())], "fail"),
    ("enum", "other mode", lambda c, a: [
        changed(a[0], mode=next(m for m in properties(c)["mode"]["enum"] if m.lower() == "fan_only"))], "fail"),
    ("enum", "other degrees", lambda c, a: _other_number(a, "degrees"), "fail"),
    ("enum", "degrees as text", lambda c, a: [changed(a[0], degrees="20")], "fail"),
    ("choice", "another tool", lambda c, a: [called(next(
        call(c, i, "Oslo") for i in range(4) if call(c, i).name != a[0].tool_calls[0].name))], "fail"),
    ("three-times", "two of three", lambda c, a: [called(*a[0].tool_calls[:2])], "partial"),
    ("three-times", "in another order", lambda c, a: [called(*a[0].tool_calls[::-1])], "pass"),
    ("three-times", "one twice", lambda c, a: [called(*a[0].tool_calls[:2], a[0].tool_calls[0])], "partial"),
    ("three-times", "all in one", lambda c, a: [called(*3 * [call(c, 0, c.prompt)])], "fail"),
    ("weather-and-calculate", "in another order", lambda c, a: [called(*a[0].tool_calls[::-1])], "pass"),
    ("weather-and-calculate", "one of two, as in the post", lambda c, a: [called(a[0].tool_calls[0])], "partial"),
    ("weather-and-calculate", "another sum", lambda c, a: [
        called(a[0].tool_calls[0], call(c, "arithmetic", "2 + 2"))], "partial"),
    ("dependent", "both at once", lambda c, a: [called(*a[0].tool_calls, *a[1].tool_calls)], "partial"),
    ("dependent", "the second at once", lambda c, a: [a[1]], "fail"),
    ("dependent", "an id made up", lambda c, a: [a[0], called(call(c, 1, "ID-1"))], "partial"),
    ("dependent", "the first again", lambda c, a: [a[0], a[0]], "partial"),
    ("dependent", "words", lambda c, a: [a[0], said("There are three.")], "partial"),
    ("missing-argument", "no question", lambda c, a: [said("It is done.")], "partial"),
    ("no-tool", "another answer", lambda c, a: [said("Nobody knows.")], "partial"),
    ("tool-error", "tried again", lambda c, a: [a[0], a[0]], "pass"),
    ("tool-error", "tried elsewhere", lambda c, a: [a[0], called(call(c, 0, "Rome"))], "partial"),
    ("tool-error", "tried twice", lambda c, a: [a[0], called(*2 * a[0].tool_calls)], "partial"),
    ("tool-error", "a temperature made up", lambda c, a: [a[0], said("It is 21°C.")], "partial"),
    ("tool-error", "told, and one made up", lambda c, a: [a[0], said("It failed; about 15 degrees.")], "partial"),
    ("tool-error", "the error as it came", lambda c, a: [a[0], said("The tool gave an error (503).")], "pass"),
    ("tool-error", "nothing", lambda c, a: [a[0], said("")], "partial"),
    ("uses-results", "no number", lambda c, a: [a[0], said("There are plenty.")], "partial"),
    ("uses-results", "another number", lambda c, a: [a[0], said("There are 12 units.")], "partial"),
    ("uses-results", "the call again", lambda c, a: [a[0], a[0]], "partial"),
    ("uses-results", "plain digits", lambda c, a: [a[0], said(a[1].content.replace(",", ""))], "pass"),
    ("nested", "one item", lambda c, a: [
        changed(a[0], items=json.loads(a[0].tool_calls[0].arguments)["items"][:1])], "fail"),
    ("nested", "flat", lambda c, a: [changed(a[0], customer="x")], "fail"),
    ("nested", "no address", lambda c, a: [changed(a[0], customer={"name": "x"})], "fail"),
    ("streamed", "other text", lambda c, a: [a[0], replace(a[1], content="Hm")], "partial"),
    ("streamed", "other reasoning", lambda c, a: [a[0], replace(a[1], reasoning="Hm")], "partial"),
    ("streamed", "a call more", lambda c, a: [a[0], replace(a[1], tool_calls=(*a[1].tool_calls, call(c, 0, "x")))],
     "partial"),
    ("streamed", "both malformed alike", lambda c, a: 2 * [replace(said("<tool_call>"), finish_reason="length")],
     "pass"),
    ("streamed", "all different", lambda c, a: [a[0], Answer("Hm", "Hm", (call(c, 0, "x"), call(c, 0, "y")))], "fail"),
    ("streamed", "nothing twice", lambda c, a: [Answer()], "fail"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "change", "outcome"), [(k, c, o) for k, _, c, o in PARTICULAR],
                         ids=[f"{kind}: {name}" for kind, name, _, _ in PARTICULAR])  # fmt: skip
def test_particular_answers(kind, change, outcome):
    for case in (known.case(seed) for known in KINDS if known.name == kind for seed in SEEDS):
        result = played(case, change(case, RIGHT[kind](case)))
        assert result.grade.outcome == outcome, (case.prompt, result.grade)

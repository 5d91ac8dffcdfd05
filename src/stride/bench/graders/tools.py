"""Tool calls: what a turn is (called, abstained, malformed), and which of the wanted calls it holds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeAlias

import jsonschema

from stride.bench.client import Answer
from stride.bench.graders import Check, Grade, Outcome
from stride.bench.graders.arguments import Argument, assign, differences
from stride.types import ToolCall

Tools: TypeAlias = Sequence[Mapping[str, Any]]
TurnOutcome: TypeAlias = Literal["called", "abstained", "malformed"]

SHOWN = 200
"""Characters of what the model said that evidence quotes."""
LISTED = 5

_THOUGHT = re.compile(r"\s*<think>.*?</think>", re.S)
"""What a server that knows no reasoning leaves at the beginning of the text."""
_MARKUP = re.compile(
    r"</?tool_call>|<function=|<parameter=|<invoke\b|\[TOOL_CALLS\]|<\|python_tag\|>|<\|tool|<｜tool|functools\["
    r'|\{\s*"(?:name|function|tool|tool_name|tool_calls)"\s*:|"type"\s*:\s*"function"',
    re.I,
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A call that the prompt asks for, argument by argument."""

    name: str
    arguments: Mapping[str, Argument]

    def __str__(self) -> str:
        return f"{self.name} of " + ", ".join(f"{name}: {wanted.expected}" for name, wanted in self.arguments.items())


@dataclass(frozen=True, slots=True)
class Call:
    """A call as it came. ``fault`` is why it is none that could be carried out; then there are no arguments."""

    name: str
    text: str
    arguments: Mapping[str, Any]
    fault: str | None

    def __str__(self) -> str:
        return f"{self.name or '(no name)'}({self.text[:SHOWN]})"


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer, read. It is malformed if there is any fault: what cannot be understood never counts as abstaining.

    ``text`` is what it says in words, without thoughts.
    """

    answer: Answer
    text: str
    calls: tuple[Call, ...]
    faults: tuple[str, ...]

    @property
    def outcome(self) -> TurnOutcome:
        return "malformed" if self.faults else "called" if self.calls else "abstained"

    @property
    def words(self) -> str:
        """The start of the text, for evidence."""
        said = " ".join(self.text.split())
        return said[:SHOWN] + "…" if len(said) > SHOWN else said


@dataclass(frozen=True, slots=True)
class Judgement:
    """Checks of one turn. Those of ``wanted`` earn a partial success, each; ``guards`` must hold for a whole one."""

    wanted: tuple[Check, ...]
    guards: tuple[Check, ...] = ()

    @property
    def passed(self) -> bool:
        return all(check.passed for check in (*self.wanted, *self.guards))


def read_turn(answer: Answer, tools: Tools) -> Turn:
    """Calls with arguments that fit their schemas, and everything that is wrong with the rest."""
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    thought = _THOUGHT.match(answer.content)
    text = answer.content[thought.end() :] if thought else answer.content
    calls = tuple(_read_call(call, schemas) for call in answer.tool_calls)
    faults = [call.fault for call in calls if call.fault]
    names = "|".join(map(re.escape, schemas))
    markup = _MARKUP.search(text) or re.search(rf"\[\s*(?:{names})\(", text)
    if markup:
        faults.append(f"markup of a call in the text: {text[markup.start() :][:SHOWN]}")
    if not calls and not markup:
        if answer.finish_reason == "length":
            faults.append("cut off at the token limit, with no call so far")
        elif not text.strip():
            faults.append("no call and no answer")
    return Turn(answer, text, calls, tuple(faults))


def judge_calls(turn: Turn, wanted: Sequence[Wanted]) -> Judgement:
    """Each wanted call, by the matching that finds most of them, whatever their order; and no other call.

    A wanted call that was not found is compared with the call that comes nearest to it.
    """
    misses = [[_misses(call, want) for call in turn.calls] for want in wanted]
    whole = 2 * len(wanted) + 1  # more than all near misses together
    worth = [[0 if miss is None else 1 / len(miss) if miss else whole for miss in row] for row in misses]
    pairs = {row: column for row, column in assign(worth) if worth[row][column]}
    found = {row: column for row, column in pairs.items() if not misses[row][column]}
    checks = []
    for row, want in enumerate(wanted):
        miss = misses[row][pairs[row]] if row in pairs else None
        evidence = str(turn.calls[found[row]]) if row in found else "; ".join(miss or [_absent(turn)])
        checks.append(Check(str(want), row in found, evidence))
    surplus = [str(call) for column, call in enumerate(turn.calls) if column not in found.values()]
    return Judgement(tuple(checks), (Check("no other call", not surplus, _list(surplus)), well_formed(turn)))


def well_formed(turn: Turn) -> Check:
    """That nothing in the turn is malformed."""
    return Check("well-formed", not turn.faults, _list(turn.faults))


def verdict(judgements: Sequence[Judgement], noun: str = "checks") -> Grade:
    """Everything passed is a pass; something of what was wanted is partial; otherwise it is a fail."""
    wanted = [check for judgement in judgements for check in judgement.wanted]
    guards = [check for judgement in judgements for check in judgement.guards]
    found, broken = sum(check.passed for check in wanted), [check.name for check in guards if not check.passed]
    whole = found == len(wanted) and not broken
    outcome: Outcome = "pass" if whole else "partial" if found else "fail"
    but = f", but not: {', '.join(broken)}" if broken and found else ""
    checks = [check for judgement in judgements for check in (*judgement.wanted, *judgement.guards)]
    return Grade(outcome, f"{found} of {len(wanted)} {noun}{but}", tuple(checks))


def grade_calls(answer: Answer, tools: Tools, wanted: Sequence[Wanted]) -> Grade:
    """One turn: all wanted calls and no other is a pass, some of them is partial, none is a fail."""
    return verdict([judge_calls(read_turn(answer, tools), wanted)], "calls")


def _read_call(call: ToolCall, schemas: Mapping[str, Any]) -> Call:
    try:
        if call.name not in schemas:
            raise ValueError(f"no such tool: {call.name or '(no name)'}")
        arguments = _parse(call.arguments)
        error = jsonschema.exceptions.best_match(
            jsonschema.Draft202012Validator(schemas[call.name]).iter_errors(arguments)
        )
        if error is not None:
            raise ValueError(f"arguments do not fit the schema ({error.message[:SHOWN]})")
    except (ValueError, RecursionError) as error:
        why = "arguments are nested too deep" if isinstance(error, RecursionError) else error
        return Call(call.name, call.arguments, {}, f"{why}: {call.name}({call.arguments[:SHOWN]})")
    return Call(call.name, call.arguments, arguments, None)


def _parse(text: str) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no number of JSON")

    try:
        arguments = json.loads(text, parse_constant=refuse)
    except ValueError as error:
        raise ValueError(f"arguments are not JSON ({error})") from error
    if not isinstance(arguments, dict):
        raise ValueError("arguments are no object")
    return arguments


def _misses(call: Call, want: Wanted) -> list[str] | None:
    """Why a call is not the wanted one, nothing if it is; None if it is another tool's."""
    if call.name != want.name:
        return None
    return [call.fault] if call.fault else differences(call.arguments, want.arguments)


def _absent(turn: Turn) -> str:
    if turn.calls:
        return "not among the calls: " + _list([str(call) for call in turn.calls])
    return "; ".join(turn.faults) or f"no call; it answered in words: {turn.words}"


def _list(texts: Sequence[str]) -> str:
    more = f"; {len(texts) - LISTED} more" if len(texts) > LISTED else ""
    return "; ".join(texts[:LISTED]) + more or "none"

"""Tool calls: which of the wanted calls came back in one turn, with arguments that fit the schema."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jsonschema

from stride.bench.client import Answer
from stride.bench.graders import Check, Grade, Outcome
from stride.types import ToolCall

Arguments = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A call that the prompt asks for; ``accepts`` judges arguments that already fit the schema."""

    name: str
    expected: str
    accepts: Callable[[Arguments], bool]


def grade_calls(answer: Answer, tools: Sequence[Mapping[str, Any]], wanted: Sequence[Wanted]) -> Grade:
    """All wanted calls and no other is a pass, some of them is partial, none is a fail. Order does not count."""
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    left = list(answer.tool_calls)
    checks = []
    for want in wanted:
        judged = [(call, _fault(call, schemas, want)) for call in left if call.name == want.name]
        good = [call for call, fault in judged if fault is None]
        if good:
            left.remove(good[0])
            evidence = good[0].arguments
        else:
            evidence = "; ".join(fault for _, fault in judged if fault) or _absent(answer)
        checks.append(Check(f"{want.name} called", bool(good), evidence))
    found = sum(check.passed for check in checks)
    surplus = ", ".join(f"{call.name or '(no name)'}({call.arguments[:80]})" for call in left)
    checks.append(Check("no other call", not left, surplus or "none"))
    complete = found == len(wanted) and not left
    outcome: Outcome = "pass" if complete else "partial" if found else "fail"
    return Grade(outcome, f"{found} of {len(wanted)} calls" + (f", {len(left)} more" if left else ""), tuple(checks))


def _fault(call: ToolCall, schemas: Mapping[str, Any], want: Wanted) -> str | None:
    """Why a call of the right name does not count."""
    try:
        arguments = json.loads(call.arguments)
        jsonschema.validate(arguments, schemas[call.name])
    except ValueError as error:
        return f"arguments are not JSON ({error}): {call.arguments[:100]}"
    except jsonschema.ValidationError as error:
        return f"arguments do not fit the schema ({error.message}): {call.arguments[:100]}"
    return None if want.accepts(arguments) else f"expected {want.expected}, got {call.arguments[:100]}"


def _absent(answer: Answer) -> str:
    if answer.tool_calls:
        return "not among the calls: " + ", ".join(call.name or "(no name)" for call in answer.tool_calls)
    if answer.finish_reason == "length":
        return "no call before the token limit"
    return "no call; the model answered in words" if answer.content.strip() else "no call and no answer"

"""A conversation with tools: what is asked, what each turn has to be, and what the tools give back in between."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from stride.bench.client import Answer
from stride.bench.graders import Check, Grade
from stride.bench.graders.tools import Judgement, Turn, read_turn, verdict

Judge: TypeAlias = Callable[[Sequence[Turn]], Judgement]
"""Judges the last of the turns so far."""
Message: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """One turn of the model. ``results`` are what the tools that it called before gave back, by the tool's name;

    None: the conversation begins, or begins again from the prompt.
    """

    judge: Judge
    results: Mapping[str, Any] | None = None
    stream: bool = True


@dataclass(frozen=True, slots=True)
class Case:
    """One conversation of a kind, made from a seed. It goes on to a step only if the one before passed."""

    kind: str
    seed: int
    prompt: str
    tools: tuple[Mapping[str, Any], ...]
    steps: tuple[Step, ...]

    @property
    def fingerprint(self) -> str:
        """Of everything that the model gets to see: stored answers are graded only against the same."""
        seen = [self.prompt, self.tools, [(step.results, step.stream) for step in self.steps]]
        return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()[:16]


def proceed(case: Case, answers: Sequence[Answer], max_tokens: int) -> dict[str, Any] | Grade:
    """The next request after these answers, or the verdict if there is nothing more to ask."""
    judgements = judge(case, answers)
    if len(judgements) == len(case.steps) or not all(judgement.passed for judgement in judgements):
        return conclude(case, judgements, "the turn before did not pass")
    return _body(case, answers, max_tokens)


def judge(case: Case, answers: Sequence[Answer]) -> list[Judgement]:
    """One judgement for each answer, up to the first that did not pass."""
    judgements: list[Judgement] = []
    turns: list[Turn] = []
    for step, answer in zip(case.steps, answers, strict=False):
        turns.append(read_turn(answer, case.tools))
        judgements.append(step.judge(turns))
        if not judgements[-1].passed:
            break
    return judgements


def conclude(case: Case, judgements: Sequence[Judgement], why: str) -> Grade:
    """The verdict after these turns. Those that the case did not come to, and ``why``, are wanted all the same."""
    missing = range(len(judgements) + 1, len(case.steps) + 1)
    unreached = [Judgement((Check(f"turn {turn}", False, f"not reached: {why}"),)) for turn in missing]
    return verdict([*judgements, *unreached])


def conversation(case: Case, answers: Sequence[Answer]) -> list[Message]:
    """The messages, in OpenAI's format, that the turn after these answers is asked with."""
    messages: list[Message] = []
    for step, answer in zip(case.steps, [None, *answers], strict=False):
        if answer is None or step.results is None:
            messages = [{"role": "user", "content": case.prompt}]
            continue
        calls = [(call.id or f"call_{index}", call) for index, call in enumerate(answer.tool_calls)]
        functions = [(call_id, {"name": call.name, "arguments": call.arguments}) for call_id, call in calls]
        written = [{"id": call_id, "type": "function", "function": function} for call_id, function in functions]
        messages.append({"role": "assistant", "content": answer.content, "tool_calls": written})
        for call_id, call in calls:
            result = json.dumps(step.results[call.name], ensure_ascii=False)
            messages.append({"role": "tool", "tool_call_id": call_id, "content": result})
    return messages


def _body(case: Case, answers: Sequence[Answer], max_tokens: int) -> dict[str, Any]:
    """Without a cache, so that no answer depends on what was asked before."""
    step = case.steps[len(answers)]
    return {
        "messages": conversation(case, answers),
        "tools": [dict(tool) for tool in case.tools],
        "max_tokens": max_tokens,
        "temperature": 0,
        "seed": case.seed,
        "cache_prompt": False,
        "stream": step.stream,
        **({"stream_options": {"include_usage": True}} if step.stream else {}),
    }

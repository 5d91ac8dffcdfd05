"""Plays cases against a model, and grades what was stored of them again, without one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import httpx

from stride.bench.client import Reply, ask, ask_whole
from stride.bench.graders import Grade
from stride.bench.suite.case import Case, conclude, judge, proceed
from stride.bench.suite.kinds import KINDS
from stride.errors import StrideError

Ask: TypeAlias = Callable[[Mapping[str, Any]], Reply]
"""Sends a chat completion, whose ``stream`` says how it is to be answered. The model's name is the caller's to add."""

MAX_TOKENS = 2048
"""Of a turn, thoughts included: a model that is cut off before it calls or answers has not abstained."""


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case that was played: all replies as they came, and the verdict on them.

    ``fault`` is why the case could not be played to its end, which is a fail; ``fingerprint`` is of what was asked.
    """

    kind: str
    seed: int
    fingerprint: str
    replies: tuple[Reply, ...]
    grade: Grade
    fault: str | None = None

    @property
    def passed(self) -> bool:
        return self.grade.outcome == "pass"


def over_http(http: httpx.Client, url: str, model: str | None = None) -> Ask:
    """Asks in OpenAI's format, also a server that has one of its own: programs with tools speak OpenAI's."""
    chat, named = f"{url}/v1/chat/completions", {} if model is None else {"model": model}
    return lambda body: (ask if body["stream"] else ask_whole)(http, chat, {**body, **named})


def play(case: Case, ask: Ask, max_tokens: int = MAX_TOKENS) -> CaseResult:
    """Ask turn after turn, giving back what the tools found, until the case is decided or a request fails."""
    replies: list[Reply] = []
    while not replies or replies[-1].error is None:
        step = proceed(case, [reply.answer for reply in replies], max_tokens)
        if isinstance(step, Grade):
            break
        replies.append(ask(step))
    return grade(case, replies)


def grade(case: Case, replies: Sequence[Reply]) -> CaseResult:
    """The verdict on replies, however old."""
    answers = [reply.answer for reply in replies if reply.error is None]
    fault = next((reply.error for reply in replies if reply.error is not None), None)
    step = proceed(case, answers, MAX_TOKENS)
    if not isinstance(step, Grade):
        fault = fault or "the stored replies end too early for today's grading; play it again"
        step = conclude(case, judge(case, answers), fault)
    return CaseResult(case.kind, case.seed, case.fingerprint, tuple(replies), step, fault)


def regrade(result: CaseResult) -> CaseResult:
    """Grade a stored case by today's rules.

    Raises:
        StrideError: today's suite asks something else; names the case.
    """
    case = find(result.kind, result.seed)
    if case.fingerprint != result.fingerprint:
        raise StrideError(f"{result.kind}, seed {result.seed}: the suite asks something else now; play it again")
    return grade(case, result.replies)


def find(kind: str, seed: int) -> Case:
    """A case by what it is stored under.

    Raises:
        StrideError: there is no such kind.
    """
    for known in KINDS:
        if known.name == kind:
            return known.case(seed)
    raise StrideError(f"the tool suite has no kind {kind!r}: it has {', '.join(known.name for known in KINDS)}")

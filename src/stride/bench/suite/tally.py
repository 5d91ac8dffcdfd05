"""Passed of how many: of each kind and of all, and two models against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stride.bench.graders.tools import read_turn
from stride.bench.statistics import McNemar, mcnemar, wilson
from stride.bench.suite.kinds import KINDS
from stride.bench.suite.play import CaseResult, find


@dataclass(frozen=True, slots=True)
class Tally:
    """Of ``n`` cases: how many passed, with Wilson's interval of the rate, and what became of the others.

    ``malformed`` had a turn that could not be understood; ``faults`` were not played to their end.
    """

    kind: str
    title: str
    n: int
    passed: int
    partial: int
    malformed: int
    faults: int
    low: float
    high: float


def tally(results: Sequence[CaseResult]) -> list[Tally]:
    """One row for each kind that was played, in the suite's order."""
    rows = ((kind, [result for result in results if result.kind == kind.name]) for kind in KINDS)
    return [_tally(kind.name, kind.title, found) for kind, found in rows if found]


def total(results: Sequence[CaseResult]) -> Tally | None:
    """All cases together; None of none."""
    return _tally("all", "All kinds", results) if results else None


def compare(first: Sequence[CaseResult], second: Sequence[CaseResult]) -> McNemar:
    """Two models on the cases that both have played."""
    passed = [{(r.kind, r.seed, r.fingerprint): r.passed for r in results} for results in (first, second)]
    both = [case for case in passed[0] if case in passed[1]]
    return mcnemar([passed[0][case] for case in both], [passed[1][case] for case in both])


def is_malformed(result: CaseResult) -> bool:
    """Whether any turn could not be understood."""
    tools = find(result.kind, result.seed).tools
    answers = (reply.answer for reply in result.replies if reply.error is None)
    return any(read_turn(answer, tools).outcome == "malformed" for answer in answers)


def _tally(kind: str, title: str, results: Sequence[CaseResult]) -> Tally:
    passed = sum(result.passed for result in results)
    return Tally(
        kind,
        title,
        len(results),
        passed,
        sum(result.grade.outcome == "partial" for result in results),
        sum(is_malformed(result) for result in results),
        sum(result.fault is not None for result in results),
        *wilson(passed, len(results)),
    )

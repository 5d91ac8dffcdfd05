"""The figures that targets are compared, required and ranked by: one declaration each."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from stride.bench import figures as fig
from stride.bench.results import Results, TargetResult
from stride.bench.statistics import Summary, summarize, wilson
from stride.bench.tasks import CODING, SPEED, TOOL_CALLS
from stride.errors import RequestError

OUTCOME_VALUES = {"pass": 1.0, "partial": 0.5, "fail": 0.0}


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure by its key: values of one target, one for each repeat, in order; empty where it was not measured.

    ``summarize`` makes one of them: the median, or for ``passes`` (1.0 and 0.0) their rate; no interval goes beyond
    ``most``.
    """

    key: str
    title: str
    values: Callable[[TargetResult], list[float]]
    write: Callable[[float | None], str]
    higher_is_better: bool = True
    passes: bool = False
    most: float = math.inf

    def summary(self, target: TargetResult) -> Summary | None:
        return self.summarize(self.values(target))

    def summarize(self, values: Sequence[float]) -> Summary | None:
        found = _rate(values) if self.passes else summarize(values)
        return found and replace(found, high=min(found.high, self.most))


def _prompt_rates(target: TargetResult) -> list[float]:
    """The server's own figures, else the client's estimate."""
    return target.values(SPEED.name, "server_prompt_rate") or target.values(SPEED.name, "prompt_rate")


def _first_tokens(target: TargetResult) -> list[float]:
    times = (run.reply.times.first_token for run in target.counted(SPEED.name))
    return [seconds for seconds in times if seconds is not None]


def _coding(target: TargetResult) -> list[float]:
    grades = (run.grade for run in target.counted(CODING.name))
    return [grade.points for grade in grades if grade and grade.points is not None]


def _points(value: float | None) -> str:
    return fig.NONE if value is None else f"{value:.1f} of 5"


def _tools(target: TargetResult) -> list[float]:
    return [OUTCOME_VALUES[run.grade.outcome] for run in target.counted(TOOL_CALLS.name) if run.grade]


def _suite(target: TargetResult) -> list[float]:
    return [float(case.passed) for case in target.cases]


def _memory(target: TargetResult) -> list[float]:
    return [target.memory.footprint / 2**30] if target.memory else []


def _gib(value: float | None) -> str:
    return fig.size(None if value is None else value * 2**30)


def _rate(values: Sequence[float]) -> Summary | None:
    """Of passes, whose median would be all or nothing, with Wilson's interval."""
    if not values:
        return None
    low, high = wilson(round(sum(values)), len(values))
    return Summary(len(values), sum(values) / len(values), low, high, None, None)


MEASURES = {
    measure.key: measure
    for measure in (
        Measure("generation", "Generation, tok/s", lambda t: t.values(SPEED.name, "generation_rate"), fig.rate),
        Measure("prompt", "Prompt processing, tok/s", _prompt_rates, fig.rate),
        Measure("first_token", "First token, s", _first_tokens, fig.seconds, higher_is_better=False),
        Measure("coding", "Coding, points", _coding, _points, most=5.0),
        Measure("tools", "Post's tool calls, share", _tools, fig.percent, most=1.0),
        Measure("suite", "Tool suite, passed", _suite, fig.percent, passes=True),
        Measure("memory", "Memory, GiB", _memory, _gib, higher_is_better=False),
    )
}


@dataclass(frozen=True, slots=True)
class Requirement:
    """A bound that the median of a measure must keep: ``generation>=40``."""

    measure: Measure
    at_least: bool
    bound: float

    def __str__(self) -> str:
        return f"{self.measure.key}{'>=' if self.at_least else '<='}{self.bound:g}"

    def misses(self, results: Results) -> Sequence[str]:
        """Where it is not kept, in words: a target that was not measured keeps nothing."""
        missed = []
        for target in results.targets:
            found = self.measure.summary(target)
            if found is None:
                missed.append(f"{target.label}: {self.measure.key} was not measured, but {self} is required")
            elif (found.median < self.bound) if self.at_least else (found.median > self.bound):
                missed.append(f"{target.label}: {self.measure.key} is {found.median:.4g}, but {self} is required")
        return missed


def requirement(text: str) -> Requirement:
    """Read one from the command line.

    Raises:
        RequestError: it is none; says what it may be.
    """
    match = re.fullmatch(r"\s*(\w+)\s*(>=|<=)\s*(\d+(?:\.\d+)?)\s*", text)
    if not match or match[1] not in MEASURES:
        raise RequestError(
            f"{text!r} is no requirement: it is one of {', '.join(MEASURES)}, then >= or <=, then a number",
            field="require",
        )
    return Requirement(MEASURES[match[1]], match[2] == ">=", float(match[3]))

"""How much is measured: which tests, how often, and for how long."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from stride.bench.suite.case import Case
from stride.bench.suite.kinds import KINDS
from stride.bench.tasks import CODING, POST_TASKS, WARM, Task, deep
from stride.errors import RequestError

SUITE = "suite"
"""What the tool suite is asked for by."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Every test ``repeats`` times; timed ones more often, up to ``most_repeats``, while their interval is wide.

    No repeat but the first begins that would end later than ``seconds``, if there is such a limit.
    """

    level: str
    tasks: tuple[Task, ...]
    repeats: int
    most_repeats: int
    suite_seeds: int = 0
    """Conversations of each kind of the tool suite; one of each kind is played in every repeat."""
    seconds: float | None = None

    @property
    def n_requests(self) -> int:
        """Of each target, if every conversation of the suite goes to its end and nothing is repeated more often."""
        suite = sum(len(case.steps) for repeat in range(1, self.suite_seeds + 1) for case in self.cases(repeat))
        return 1 + self.repeats * sum(task.n_requests for task in self.tasks) + suite

    def cases(self, repeat: int) -> list[Case]:
        """The suite's conversations of a repeat."""
        return [kind.case(repeat) for kind in KINDS] if repeat <= self.suite_seeds else []


DEPTHS = (1024, 4096, 16384, 65536)
"""Tokens of context before the question, as far as a target's context goes."""

LEVELS = {
    "quick": Plan("quick", (*POST_TASKS, WARM, deep(1024)), 3, 3, suite_seeds=1, seconds=90),
    "standard": Plan("standard", (*POST_TASKS, WARM, *map(deep, DEPTHS[:2])), 5, 10, suite_seeds=5),
    "full": Plan("full", (*POST_TASKS, WARM, *map(deep, DEPTHS)), 10, 30, suite_seeds=5),
}
"""What may be asked for by name."""


def with_coding_tokens(plan: Plan, max_tokens: int) -> Plan:
    """The plan with another token limit of the coding test."""
    tasks = tuple(replace(task, max_tokens=max_tokens) if task.name == CODING.name else task for task in plan.tasks)
    return replace(plan, tasks=tasks)


def with_only(plan: Plan, names: Collection[str]) -> Plan:
    """The plan with these of its tests alone, in its order; ``suite`` is the tool suite.

    Raises:
        RequestError: it has no such test; says which it has.
    """
    known = [*(task.name for task in plan.tasks), SUITE]
    if unknown := [name for name in names if name not in known]:
        raise RequestError(f"{plan.level} has no test {unknown[0]!r}: it has {', '.join(known)}", field="test")
    tasks = tuple(task for task in plan.tasks if task.name in names)
    return replace(plan, tasks=tasks, suite_seeds=plan.suite_seeds if SUITE in names else 0)

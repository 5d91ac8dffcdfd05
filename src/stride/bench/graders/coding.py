"""The coding answer: read, and run where that can be done without danger. Five points for all that was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from stride.bench.client import Answer
from stride.bench.graders import NOT_RUN, SANDBOX, Check, Grade, Outcome
from stride.bench.graders.behaviour import ESSENTIAL
from stride.bench.graders.environment import packages
from stride.bench.graders.project import Project, read_project
from stride.bench.graders.running import Workshop
from stride.bench.graders.static import INSTEAD_OF_RUNNING, READ
from stride.bench.sandbox import SandboxError, find
from stride.errors import StrideError

PASS, PARTIAL = 4.5, 2.5
"""Points, at least."""


@dataclass
class CodingGrader:
    """Grades answers; the sandbox is looked for, and the packages fetched, when the first one is to be run.

    ``unsafe``: code is run without a sandbox where there is none.
    """

    unsafe: bool = False

    @cached_property
    def workshop(self) -> Workshop | str:
        """Where code is run, or why none is."""
        try:
            return Workshop(find(self.unsafe), packages())
        except StrideError as error:
            return str(error)

    def __call__(self, answer: Answer) -> Grade:
        project = read_project(answer.content)
        if not project.trees:
            why = "; ".join(project.syntax_errors) or "no Python file in the answer"
            return _grade([Check(name, False, why, weight) for name, (weight, _) in READ.items()], ran=True)
        checks = _read(project)
        workshop = self.workshop
        if isinstance(workshop, str):
            return _not_run(project, checks, workshop)
        sandbox = workshop.sandbox
        where = Check(SANDBOX, True, f"{sandbox.name}: {'; '.join(sandbox.protections)}", 0.0)
        try:
            return _grade([*checks, *workshop.run(project), where], ran=True)
        except SandboxError as error:  # not the code's fault, and no reason to lose what else is measured
            return _not_run(project, checks, str(error))


def _not_run(project: Project, checks: list[Check], why: str) -> Grade:
    promised = [Check(name, *look(project), weight) for name, (weight, look) in INSTEAD_OF_RUNNING.items()]
    return _grade([*checks, *promised, Check(NOT_RUN, False, why, 0.0)], ran=False)


def _read(project: Project) -> list[Check]:
    return [Check(name, *look(project), weight) for name, (weight, look) in READ.items()]


def _grade(checks: list[Check], *, ran: bool) -> Grade:
    share = sum(check.weight for check in checks if check.passed) / sum(check.weight for check in checks)
    points = round(5 * share, 1)
    lacking = any(check.name in ESSENTIAL and not check.passed for check in checks)
    outcome: Outcome = "pass" if points >= PASS and not lacking else "partial" if points >= PARTIAL else "fail"
    counted = [check for check in checks if check.weight]
    said = f"{points:.1f} of 5, {sum(check.passed for check in counted)} of {len(counted)} checks"
    return Grade(outcome, said if ran else f"{said}, not run", tuple(checks), points)

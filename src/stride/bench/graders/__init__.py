"""Graders: an answer in, named checks with their evidence out. None of them runs what the model wrote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Outcome: TypeAlias = Literal["pass", "partial", "fail"]

NOT_RUN, SANDBOX = "Not run", "Sandbox"
"""Checks of no weight: why code was not run, or what kept it from this machine."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked for, whether it was there, where or why not, and how much it counts."""

    name: str
    passed: bool
    evidence: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Grade:
    """``outcome`` is pass, partial or fail; ``score`` says it in words, ``points`` of five where there are any."""

    outcome: Outcome
    score: str
    checks: tuple[Check, ...]
    points: float | None = None

    @property
    def n_checks(self) -> int:
        """Those that count."""
        return sum(check.weight > 0 for check in self.checks)

    @property
    def n_passed(self) -> int:
        return sum(check.passed and check.weight > 0 for check in self.checks)

"""Graders: an answer in, named checks with their evidence out. None of them runs what the model wrote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Outcome: TypeAlias = Literal["pass", "partial", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked for, whether it was there, and where or why not."""

    name: str
    passed: bool
    evidence: str


@dataclass(frozen=True, slots=True)
class Grade:
    """``outcome`` is pass, partial or fail; ``score`` says it in words."""

    outcome: Outcome
    score: str
    checks: tuple[Check, ...]

    @property
    def n_passed(self) -> int:
        return sum(check.passed for check in self.checks)

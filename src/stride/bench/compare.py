"""Two measurements of one thing beside each other: what became better, what worse, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, TypeAlias

from stride.bench.measures import MEASURES, Measure
from stride.bench.results import TargetResult
from stride.bench.statistics import Summary, ratio

Figures: TypeAlias = Mapping[str, Sequence[float]]
"""Values by the key of their measure, one for each repeat."""

TOLERANCE = 0.02
"""A change that is smaller is none: two starts of one program differ by as much."""
FEWEST_REPEATS = 3
"""Fewer have no interval to speak of."""


@dataclass(frozen=True, slots=True)
class Difference:
    """After over before, as a ratio of medians with its bootstrap interval."""

    measure: Measure
    before: float
    after: float
    ratio: Summary

    @property
    def verdict(self) -> Literal["better", "worse", "same", "unsure"]:
        """Better or worse where the whole interval is, by more than `TOLERANCE`."""
        if self.ratio.n < FEWEST_REPEATS and self.measure.key != "memory":
            return "unsure"
        above, below = self.ratio.low > 1 + TOLERANCE, self.ratio.high < 1 - TOLERANCE
        if not above and not below:
            return "same"
        return "better" if above == self.measure.higher_is_better else "worse"


def figures_of(target: TargetResult) -> dict[str, list[float]]:
    """Every measure that a target has values of."""
    return {key: values for key, measure in MEASURES.items() if (values := measure.values(target))}


def differences(before: Figures, after: Figures) -> Iterator[Difference]:
    """Of every measure that both have, and that is not nought before; passes are compared case by case, elsewhere."""
    for key, measure in MEASURES.items():
        if before.get(key) and after.get(key) and not measure.passes:
            old = median(before[key])
            found = ratio(after[key], before[key]) if old else None
            if found is not None:
                yield Difference(measure, old, median(after[key]), found)

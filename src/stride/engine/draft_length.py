"""How many drafts pay: measured, so that drafting is never slower than going without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np

from stride.engine.recent import Recent
from stride.engine.request import Request

PRIOR_RIGHT, PRIOR_TRIES = 0.8, 2.0
"""Share of drafts taken to be right before any was seen, and how many tries that counts for."""
SEQUENCE_TRIES = 4.0
"""Tries of one sequence's own after which it counts for as much as all sequences' average."""
KEPT, KEPT_OF_ALL = 0.9, 0.99
"""What each try leaves of the weight of those before it, for one sequence and for the average."""
HOPE = 0.25
"""Share of drafts right, on average, from which on a new sequence has some."""
PLAIN_EVERY = 32
"""Steps after which one goes without drafts, to be measured."""
LEAST_GAIN = 1.03
"""Tokens per second with drafts, over those without, below which there are none: what was measured is not exact."""
SLOPE = 0.05
"""Time of one draft for each sequence, in steps that have not been tried, over that of a step without."""


@dataclass(slots=True)
class Acceptance:
    """How often drafts are right, each by itself behind right ones; older tries count less."""

    tries: list[float]
    right: list[float]

    @classmethod
    def new(cls, n_most: int, rate: float = 0.0, tries: float = 0.0) -> Acceptance:
        return cls([tries] * n_most, [rate * tries] * n_most)

    def judge(self, position: int, is_right: bool, kept: float) -> None:
        """Count a draft."""
        self.tries[position] = kept * self.tries[position] + 1
        self.right[position] = kept * self.right[position] + is_right

    def rates(self, average: Sequence[float]) -> list[float]:
        """By position; ``average`` counts for `SEQUENCE_TRIES`."""
        return [
            (right + SEQUENCE_TRIES * usual) / (tries + SEQUENCE_TRIES)
            for tries, right, usual in zip(self.tries, self.right, average, strict=True)
        ]


@dataclass(slots=True)
class _Costs:
    """Seconds by number of sequences: of steps by their tokens, of drafting by the drafts of the longest row."""

    steps: Recent = field(default_factory=Recent)
    drafting: Recent = field(default_factory=Recent)


class DraftLength:
    """Chooses drafts so that tokens per second are most, going by what was measured.

    The drafts likeliest to be right come first: a draft is right if it and all before it are. As many of them are
    verified as bring the most expected tokens per second, drafting and step taken together; none, where that is not
    clearly more than without. How often they are right is measured for each sequence and position, and starts with the
    average of all; what steps take, by the number of their sequences and tokens, and old measurements are forgotten, so
    that each way is tried again now and then.
    """

    def __init__(self, n_most: int) -> None:
        self._n_most = n_most
        self._average = Acceptance.new(n_most, PRIOR_RIGHT, PRIOR_TRIES)
        self._sequences: WeakKeyDictionary[Request, Acceptance] = WeakKeyDictionary()
        self._costs: dict[int, _Costs] = {}

    def judge(self, request: Request, position: int, is_right: bool) -> None:
        """A draft, all before it right, turned out right or wrong."""
        self._of(request).judge(position, is_right, KEPT)
        self._average.judge(position, is_right, KEPT_OF_ALL)

    def stepped(self, n_sequences: int, n_tokens: int, seconds: float) -> None:
        """Note what a step without prompts took."""
        self._costs.setdefault(n_sequences, _Costs()).steps.add(n_tokens, seconds)

    def drafted(self, n_sequences: int, depth: int, seconds: float) -> None:
        """Note what drafting took, up to ``depth`` drafts for each."""
        if depth:
            self._costs.setdefault(n_sequences, _Costs()).drafting.add(depth, seconds)

    @property
    def is_hopeful(self) -> bool:
        """Whether drafts are right often enough, on average, to try them with a new sequence."""
        return self._average.right[:1] > [HOPE * tries for tries in self._average.tries[:1]]

    def choose(self, room: Mapping[Request, int]) -> dict[Request, int]:
        """Drafts to verify for the sequences of the next step, each of which has room for so many."""
        lengths = dict.fromkeys(room, 0)
        costs = self._costs.get(len(room))
        if costs is None or costs.steps.is_due(
            len(room), PLAIN_EVERY
        ):  # what goes without is measured first, and again
            return lengths
        plain = costs.steps.seconds(len(room), 0.0)
        usual = [right / tries for right, tries in zip(self._average.right, self._average.tries, strict=True)]
        candidates = [
            (float(chance), position, request)
            for request, most in room.items()
            for position, chance in enumerate(np.cumprod(self._of(request).rates(usual)[:most]))
        ]
        candidates.sort(key=lambda one: (-one[0], one[1]))
        expected, depth, n_best, best = float(len(room)), 0, 0, LEAST_GAIN * len(room) / plain
        for n, (chance, position, _) in enumerate(candidates, 1):
            expected, depth = expected + chance, max(depth, position + 1)
            step = costs.steps.seconds(len(room) + n, SLOPE * plain / len(room))
            rate = expected / (step + costs.drafting.seconds(depth, 0.0))
            if rate > best:
                n_best, best = n, rate
        for _, _, request in candidates[:n_best]:
            lengths[request] += 1
        return lengths

    def _of(self, request: Request) -> Acceptance:
        found = self._sequences.get(request)
        if found is None:
            found = self._sequences[request] = Acceptance.new(self._n_most)
        return found

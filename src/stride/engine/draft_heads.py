"""Drafts by the model's own heads (multi-token prediction), chained as they were trained.

At each position head 0 reads the trunk's state and the next token and predicts the token after that; head k reads head
k - 1's state and one token further on. Run behind the last token, with each other's drafts for tokens, they guess as
many tokens as there are heads. A head's keys and values are right once the tokens it read are known: what it computed
with drafts is kept if they turn out right, and computed again if not. They lie in the cache's pages beside the trunk's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np

from stride.engine.request import Request
from stride.engine.runner import Runner
from stride.engine.scheduler import Row
from stride.ops.api import FloatArray

_NONE = np.empty((0, 0), np.float32)
_ALL = 1 << 30
"""Positions that a head looks back which has no window: all there can be."""


@dataclass(slots=True)
class _Head:
    """Where one head is in one sequence: positions before ``first`` are done.

    Attributes:
        states: [n, d] of the positions from ``first`` on, what it is to read there.
        guessed: [m, d] of the same and some more, what it made of them with drafts for the tokens it read.
    """

    first: int = 0
    states: FloatArray = field(default_factory=lambda: _NONE)
    guessed: FloatArray = field(default_factory=lambda: _NONE)

    def append(self, first: int, states: FloatArray) -> None:
        """States of further positions; what does not go on from those that are here replaces them."""
        if self.first + len(self.states) != first:
            self.first, self.states, self.guessed = first, states, _NONE
        else:
            self.states = _joined(self.states, states)


def _joined(*parts: FloatArray) -> FloatArray:
    return np.concatenate([part for part in parts if len(part)] or [_NONE])


class _Sequence:
    """All heads in one sequence. ``starts``: positions of its prompt before which each head has nothing to read."""

    def __init__(self, starts: list[int]) -> None:
        self.starts = starts
        self.heads = [_Head() for _ in starts]

    @property
    def n_told(self) -> int:
        """Positions up to the last one whose state is here, drafts included."""
        return self.heads[0].first + len(self.heads[0].states)

    def settle(self, n_computed: int) -> None:
        """The first ``n_computed`` tokens have turned out right, and none of the drafts behind them."""
        self.heads[0].states = self.heads[0].states[: max(0, n_computed - self.heads[0].first)]
        for index, head in enumerate(self.heads):
            n_right = min(max(0, n_computed - 1 - index - head.first), len(head.guessed))
            self.passed(index, head.guessed[:n_right])
            head.guessed = _NONE

    def passed(self, index: int, made: FloatArray) -> None:
        """A head is done with its next positions; the next head reads what it made of them."""
        head = self.heads[index]
        first, head.first, head.states = head.first, head.first + len(made), head.states[len(made) :]
        if index + 1 < len(self.heads):
            n_before = min(max(0, self.starts[index + 1] - first), len(made))
            self.heads[index + 1].append(first + n_before, made[n_before:])

    def skip(self, position: int) -> None:
        """Go on from a position at least: what a token before it looks at is no longer kept."""
        for head in self.heads:
            if head.first < position:
                n_skipped = min(position - head.first, len(head.states))
                head.first, head.states, head.guessed = head.first + n_skipped, head.states[n_skipped:], _NONE


class HeadDrafter:
    """A `Drafter` of a model's heads.

    A head needs keys and values of its last window alone, and these need the states of the head before, which looks
    back by its own: of a prompt, head k runs over as many of the last tokens as it and those after it look back
    together, so that what it has not seen has no consequences. A resumed sequence goes on from the pages it was given.
    A head that no draft is asked of for a while runs over what has come when one is. After more than ``lag`` tokens it
    has left some out: until they are out of its window, its drafts are somewhat worse.
    """

    def __init__(self, runner: Runner, lag: int) -> None:
        """``lag``: positions that the cache keeps beyond the heads' windows."""
        windows = [_ALL if window is None else window for window in runner.draft_windows]
        self._reaches = [sum(windows[index:]) for index in range(len(windows))]
        self._runner = runner
        self._lag = lag
        self._sequences: WeakKeyDictionary[Request, _Sequence] = WeakKeyDictionary()
        self.n_most = len(windows)
        self.reach = self._reaches[0]
        self.probe_every = lag // 2

    def computed(self, row: Row, states: FloatArray) -> None:
        """See `Drafter`."""
        sequence = self._sequences.get(row.request)
        if sequence is not None and sequence.n_told < row.start:  # drafting rested meanwhile
            del self._sequences[row.request]
            sequence = None
        if sequence is not None:
            sequence.settle(row.start)
            sequence.skip(row.start - self._lag)
        if len(states):
            if sequence is None:
                starts = [max(0, row.request.n_prompt - reach) for reach in self._reaches]
                sequence = self._sequences[row.request] = _Sequence(starts)
            sequence.heads[0].append(row.end - len(states), states)

    def propose(self, lengths: Mapping[Request, int]) -> None:
        """See `Drafter`."""
        guessed: dict[Request, FloatArray] = {}  # what the head before made of positions whose tokens are drafts
        for request in lengths:
            if request in self._sequences:
                self._sequences[request].settle(request.n_computed)
        for index in range(self.n_most):
            rows, states = [], []
            for request, length in lengths.items():
                if request in self._sequences:
                    is_asked = length > index == request.n_drafts
                    row, of_row = self._row(request, index, is_asked, guessed.get(request, _NONE))
                    if row is not None:
                        rows.append(row)
                        states.append(of_row)
            guessed = self._run(index, rows, states) if rows else {}

    def _row(self, request: Request, index: int, is_asked: bool, guessed: FloatArray) -> tuple[Row | None, FloatArray]:
        """What a head is to run over in one sequence, and the states it reads there."""
        head = self._sequences[request].heads[index]
        if is_asked:
            states = _joined(head.states, guessed)
            if len(states) and head.first + len(states) == request.n_computed:
                return Row(request, head.first, request.n_computed, n_outputs=1), states
        n_known = self._n_known(request, index)
        if n_known and request.n_computed <= request.n_prompt:  # a prompt, whose pages are there now
            return Row(request, head.first, head.first + n_known, n_outputs=0), head.states[:n_known]
        return None, _NONE

    def _n_known(self, request: Request, index: int) -> int:
        """Positions whose state and token a head has, that are no drafts."""
        head = self._sequences[request].heads[index]
        return min(max(0, request.n_tokens - 1 - index - head.first), len(head.states))

    def _run(self, index: int, rows: list[Row], states: list[FloatArray]) -> dict[Request, FloatArray]:
        """Run a head: what it made of positions whose tokens are drafts, of the sequences that it has drafted for."""
        made, logits = self._runner.draft(index, rows, np.concatenate(states))
        if index + 1 == self.n_most:  # nobody reads what it made
            made = np.empty((sum(map(len, states)), 0), np.float32)
        of_rows = np.split(made, np.cumsum([len(part) for part in states])[:-1])
        guessed: dict[Request, FloatArray] = {}
        n_drafts = 0
        for row, of_row in zip(rows, of_rows, strict=True):
            sequence, n_known = self._sequences[row.request], self._n_known(row.request, index)
            sequence.passed(index, of_row[:n_known])
            if row.n_outputs:
                sequence.heads[index].guessed = guessed[row.request] = of_row[n_known:]
                row.request.add_draft(row.request.sampler.guess(logits[n_drafts], index))
                n_drafts += 1
        return guessed

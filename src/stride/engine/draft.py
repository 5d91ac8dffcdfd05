"""Drafts: tokens guessed ahead, which one step of the model verifies all at once.

The step computes them like the tokens of a prompt, and the loop then chooses token after token as it always does, with
the same sampler and the same random numbers, for as long as what it chooses is what was guessed: drafts change how many
tokens a step brings, and never which. What was computed behind a wrong one is overwritten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Protocol

from stride.engine.config import EngineConfig
from stride.engine.draft_length import DraftLength
from stride.engine.measures import Measures
from stride.engine.request import Request
from stride.engine.scheduler import Row
from stride.ops.api import FloatArray


class Drafter(Protocol):
    """Guesses how sequences go on. Used by the engine's thread only.

    Attributes:
        n_most: tokens guessed for a sequence at a time, at most.
        reach: the states of so many tokens before a prompt's end are wanted, and of all after; 0: none are.
        probe_every: steps after which a sequence that has no drafts gets one that is only compared.
    """

    n_most: int
    reach: int
    probe_every: int

    def computed(self, row: Row, states: FloatArray) -> None:
        """A row was computed: float32 [n_states, n_embd], the states before the output norm of its last tokens. How
        many of its drafts were right is not known yet."""

    def propose(self, lengths: Mapping[Request, int]) -> None:
        """Put up to so many drafts behind the known tokens of each running sequence (`Request.add_draft`)."""


class Drafting:
    """A drafter, and how many of its drafts are verified."""

    def __init__(self, drafter: Drafter, config: EngineConfig, measures: Measures) -> None:
        self._drafter = drafter
        self._n_most = min(config.draft_max, drafter.n_most, config.chunk - 1)
        self._length = DraftLength(self._n_most, drafter.probe_every)
        self._measures = measures

    @property
    def reach(self) -> int:
        """See `Drafter`."""
        return self._drafter.reach

    def computed(self, rows: Sequence[Row], states: Sequence[FloatArray], seconds: float) -> None:
        """A step was run, and its drafts are about to be verified."""
        for row, of_row in zip(rows, states, strict=True):
            self._drafter.computed(row, of_row)
        if all(row.start >= row.request.n_prompt for row in rows):
            self._length.stepped(len(rows), sum(row.end - row.start for row in rows), seconds)

    def judge(self, request: Request, n_right: int, n_judged: int, n_verified: int) -> None:
        """Of a sequence's drafts, ``n_judged`` were compared and the first ``n_right`` of these right."""
        for position in range(n_judged):
            self._length.judge(request, position, position < n_right)
        n_right = min(n_right, n_verified)
        request.n_accepted += n_right
        self._measures.drafts(n_verified, n_right)

    def propose(self, running: Sequence[Request]) -> None:
        """Draft for the sequences that decode."""
        decoding = [request for request in running if request.n_computed >= request.n_prompt]
        chosen = self._length.choose({request: min(self._n_most, request.draft_room) for request in decoding})
        guessed = dict.fromkeys(running, 0) | {request: length.guessed for request, length in chosen.items()}
        start = perf_counter()
        self._drafter.propose(guessed)
        seconds = perf_counter() - start
        if len(decoding) == len(running):
            self._length.drafted(len(decoding), max(guessed.values(), default=0), seconds)
        for request, length in chosen.items():
            request.n_verified = min(request.n_drafts, length.verified)

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

IDLE_SHARE = 0.01
"""Share of the time that drafting may take while none of its drafts are worth to be verified."""
EARNED_STEPS = 100
"""Steps whose share may be saved up."""


class Drafter(Protocol):
    """Guesses how sequences go on. Used by the engine's thread only.

    Attributes:
        n_most: tokens guessed for a sequence at a time, at most.
        reach: the states of so many tokens before a prompt's end are wanted, and of all after; 0: none are.
        probe_every: steps after which a sequence without drafts gets one that is only compared.
    """

    n_most: int
    reach: int
    probe_every: int

    def computed(self, row: Row, states: FloatArray) -> None:
        """A row was computed: float32 [n_states, n_embd], the states before the output norm of its last tokens. How
        many of its drafts were right is not known yet. Not told while drafting rests."""

    def propose(self, lengths: Mapping[Request, int]) -> None:
        """Put up to so many drafts behind the known tokens of each running sequence (`Request.add_draft`)."""


class Drafting:
    """A drafter, and how many of its drafts are verified.

    Where none pay, it only probes, and its own work may take `IDLE_SHARE` of the time: when that is spent, it rests,
    and asks for no states, until it has earned what its last time awake has cost.
    """

    def __init__(self, drafter: Drafter, config: EngineConfig, measures: Measures) -> None:
        self._drafter = drafter
        self._n_most = min(config.draft_max, drafter.n_most, config.chunk - 1)
        self._length = DraftLength(self._n_most)
        self._measures = measures
        self._rests = False
        self._earned = 0.0  # seconds that it may take
        self._cost = 0.0  # of this time awake, or, resting, of the last one
        self._since_probe = 0
        self._has_probed = False

    def reach(self, *, has_new: bool) -> int:
        """See `Drafter`; ``has_new``: requests are waiting. It wakes for them if others' drafts were good."""
        if self._rests and has_new and self._length.is_hopeful:
            self._wake()
        return 0 if self._rests else self._drafter.reach

    def computed(self, rows: Sequence[Row], states: Sequence[FloatArray], seconds: float) -> None:
        """A step was run, and its drafts are about to be verified."""
        self._earned = min(self._earned + IDLE_SHARE * seconds, max(self._cost, EARNED_STEPS * IDLE_SHARE * seconds))
        if self._rests and self._earned < self._cost:
            return
        if self._rests:
            self._wake()
        start = perf_counter()
        for row, of_row in zip(rows, states, strict=True):
            self._drafter.computed(row, of_row)
        if all(row.start >= row.request.n_prompt for row in rows):
            self._length.stepped(len(rows), sum(row.end - row.start for row in rows), seconds)
        self._spend(perf_counter() - start)

    def judge(self, request: Request, n_right: int, n_judged: int, n_verified: int) -> None:
        """Of a sequence's drafts, ``n_judged`` were compared and the first ``n_right`` of these right."""
        for position in range(n_judged):
            self._length.judge(request, position, position < n_right)
        n_right = min(n_right, n_verified)
        request.n_accepted += n_right
        self._measures.drafts(n_verified, n_right)

    def propose(self, running: Sequence[Request]) -> None:
        """Draft for the sequences that decode."""
        if self._rests or not running:
            return
        start = perf_counter()
        # One that was cancelled meanwhile has no token to go on from.
        decoding = [request for request in running if request.n_prompt <= request.n_computed < request.n_tokens]
        room = {request: min(self._n_most, request.draft_room) for request in decoding}
        verified = self._length.choose(room)
        self._since_probe += 1
        probes = self._since_probe >= self._drafter.probe_every
        least = {request: min(int(probes), most) for request, most in room.items()}
        lengths = dict.fromkeys(running, 0) | {request: max(n, least[request]) for request, n in verified.items()}
        chosen = perf_counter()
        self._drafter.propose(lengths)
        end = perf_counter()
        if len(decoding) == len(running):
            self._length.drafted(len(decoding), max(lengths.values()), end - chosen)
        for request, n in verified.items():
            request.n_verified = min(request.n_drafts, n)
        if probes:
            self._since_probe, self._has_probed = 0, True
        if any(verified.values()):  # the time is that of the tokens it brings
            self._cost, self._earned, self._has_probed = 0.0, max(self._earned, 0.0), False
        elif decoding:
            self._spend(end - start)
            self._rests = self._has_probed and self._earned < 0

    def _spend(self, seconds: float) -> None:
        self._earned -= seconds
        self._cost += seconds

    def _wake(self) -> None:
        self._rests = self._has_probed = False
        self._cost, self._since_probe = 0.0, 0

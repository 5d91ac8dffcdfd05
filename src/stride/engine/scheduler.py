"""Who computes what in the next step: continuous batching with chunked prefill. Touches no tensor."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

from stride.engine.kv import PagedCache
from stride.engine.request import Request


@dataclass(frozen=True, slots=True)
class Row:
    """Compute a request's tokens start .. end - 1; logits are wanted for the last ``n_outputs`` of them."""

    request: Request
    start: int
    end: int
    n_outputs: int


class Scheduler:
    """Requests waiting for a slot, first come first served, and requests running.

    Every step computes one token of each sequence that decodes, however many there are; what they leave of ``chunk``
    tokens, and at least one, goes to the prompts in order of admission. A long prompt delays a decoding sequence by
    one chunk per token, never more.

    ``has_room`` answers whether memory has room for so many pages of each cache group that were never touched before; a
    request whose tokens may come to need more waits, and those behind it.
    """

    def __init__(
        self, cache: PagedCache, chunk: int, has_room: Callable[[Sequence[int]], bool] = lambda fresh_pages: True
    ) -> None:
        self._cache = cache
        self._chunk = chunk
        self._has_room = has_room
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []

    def add(self, request: Request) -> None:
        """Queue a request."""
        self.waiting.append(request)

    def schedule(self) -> list[Row]:
        """Admit what there is room for, and give the next step's rows. Empty only if nothing is running."""
        while self.waiting and self._cache.has_free_slot and self._may_start(len(self.waiting[0].token_ids)):
            request = self.waiting.popleft()
            request.slot = self._cache.open()
            request.admitted_at = perf_counter()
            self.running.append(request)
        rows = [self._row(request, 1) for request in self.running if request.n_computed >= request.n_prompt]
        budget = max(1, self._chunk - len(rows))
        for request in self.running:
            if request.n_computed < request.n_prompt and budget > 0:
                row = self._row(request, budget)
                budget -= row.end - row.start
                rows.append(row)
        return rows

    def _row(self, request: Request, n_tokens: int) -> Row:
        start = request.n_computed
        end = min(request.n_tokens, start + n_tokens)
        self._cache.extend(request.slot, start, end)
        return Row(request, start, end, n_outputs=int(end == request.n_tokens and not request.is_full))

    def _may_start(self, n_tokens: int) -> bool:
        """Whether there is memory for what runs and a new sequence of so many tokens; 0: for what runs."""
        running = [(request.slot, len(request.token_ids)) for request in self.running]
        return self._has_room(self._cache.fresh_pages(running, n_tokens))

    def remove_refused(self) -> Request | None:
        """Take out a request for which there is too little memory although nothing runs."""
        return self.waiting.popleft() if self.waiting and not self.running else None

    def remove_late(self, waiting_since: float, begun_before: float) -> list[Request]:
        """Take out the requests that wait since before the one time, or are there since before the other."""
        late = [request for request in self.waiting if request.queued_at < waiting_since]
        late += [request for request in (*self.waiting, *self.running) if request.queued_at < begun_before]
        for request in (late := list(dict.fromkeys(late))):
            self.remove(request)
        return late

    def remove_cancelled(self) -> list[Request]:
        """Take out the cancelled requests, freeing their places, and give them."""
        cancelled = [request for request in (*self.waiting, *self.running) if request.cancelled]
        for request in cancelled:
            self.remove(request)
        return cancelled

    def remove(self, request: Request) -> None:
        """Take out a request, waiting or running, and free its place."""
        if request.slot < 0:
            self.waiting.remove(request)
        else:
            self.running.remove(request)
            self._cache.close(request.slot)
            self._may_start(0)  # what it was promised is free for others

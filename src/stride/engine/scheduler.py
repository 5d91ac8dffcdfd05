"""Who computes what in the next step: continuous batching with chunked prefill. Touches no tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from stride.engine.fair_queue import FairQueue
from stride.engine.kv import PagedCache
from stride.engine.pace import Pace
from stride.engine.prefix import PrefixCache
from stride.engine.request import Request


@dataclass(frozen=True, slots=True)
class Row:
    """Compute a request's tokens start .. end - 1, the last of which may be drafts; outputs are wanted of the last
    ``n_outputs`` of them, and of the last ``n_states`` the states that drafting starts from."""

    request: Request
    start: int
    end: int
    n_outputs: int
    n_states: int = 0


class Scheduler:
    """Requests waiting for a slot, in the order of a `FairQueue`, and requests running. One that begins like another
    that is being computed waits until it can share that, and lets those behind it go first.

    Every step computes one token of each sequence that decodes, and its drafts, however many there are. Prompts get
    ``chunk`` tokens; beside decoding sequences, as many as let those keep half their pace (`Pace`). They share them
    evenly, and get one each at least, so that a short prompt ends soon beside a long one, and a long one does end.

    ``has_room`` answers whether memory has room for so many pages of each cache group that were never touched before; a
    request whose tokens may come to need more waits, and those behind it, once nothing is left to give back.

    ``most_logits``: where logits are wanted after each token of a prompt, prompts get this many tokens at most.

    Attributes:
        draft_reach: drafting wants the states of so many tokens before a prompt's end, and of all after; 0: of none.
    """

    def __init__(
        self,
        cache: PagedCache,
        chunk: int,
        prefixes: PrefixCache,
        has_room: Callable[[Sequence[int]], bool] = lambda fresh_pages: True,
        most_logits: int = 128,
    ) -> None:
        self._cache = cache
        self._chunk = chunk
        self._has_room = has_room
        self._most_logits = most_logits
        self.draft_reach = 0
        self._prefixes = prefixes
        self._pace = Pace(chunk)
        self.waiting = FairQueue()
        self.running: list[Request] = []

    def add(self, request: Request) -> None:
        """Queue a request."""
        self.waiting.append(request)

    def schedule(self) -> list[Row]:
        """Admit what there is room for, and give the next step's rows. Empty only if nothing is running."""
        while self._cache.has_free_slot and (request := self._next()) and self._may_start(len(request.token_ids)):
            self.waiting.take(request)
            self._admit(request)
        decoding = [request for request in self.running if request.n_computed >= request.n_prompt]
        prompts = [request for request in self.running if request.n_computed < request.n_prompt]
        rows = [self._row(request, 1 + request.n_verified) for request in decoding]
        budget = self._pace.n_prompt_tokens(sum(row.end - row.start for row in rows))
        if budget == 0:
            return rows
        if any(request.tells_prompt for request in prompts):
            budget = min(budget, self._most_logits)
        budget = max(budget, len(prompts))
        shares: dict[Request, int] = {}
        for n_others, request in zip(
            range(len(prompts) - 1, -1, -1), sorted(prompts, key=lambda one: one.n_prompt - one.n_computed), strict=True
        ):
            shares[request] = min(request.n_prompt - request.n_computed, budget // (n_others + 1))
            budget -= shares[request]
        return rows + [self._row(request, shares[request]) for request in prompts]

    def ran(self, rows: Sequence[Row], seconds: float) -> None:
        """Note what a step took, before its requests go on."""
        n_decoding = sum(row.end - row.start for row in rows if row.start >= row.request.n_prompt)
        n_prompt_tokens = sum(row.end - row.start for row in rows if row.start < row.request.n_prompt)
        self._pace.ran(n_decoding, n_prompt_tokens, seconds)

    def _next(self) -> Request | None:
        """The first request that waits and shall not wait longer."""
        return next(
            (one for one in self.waiting if not any(self._will_share(one, other) for other in self.running)), None
        )

    def _will_share(self, request: Request, other: Request) -> bool:
        """Whether half or more of a prompt is what a running request is still to compute."""
        if other.path is None or request.scope != other.scope:
            return False
        n = min(request.n_prompt - 1, other.n_prompt)
        differ = np.flatnonzero(request.token_ids[:n] != other.token_ids[:n])
        n_alike = int(differ[0]) if len(differ) else n
        if 2 * n_alike < request.n_prompt:
            return False
        return self._prefixes.expect(other.path, n_alike, is_offered=n_alike >= other.n_prompt - 1)

    def _admit(self, request: Request) -> None:
        request.slot = self._cache.open()
        request.admitted_at = perf_counter()
        self.running.append(request)
        if request.scope is not None:
            prompt = request.token_ids[: request.n_prompt]
            path = self._prefixes.open(request.slot, request.scope, prompt, request.eos_ids, len(request.token_ids))
            request.path, request.n_cached, request.n_computed = path, path.n_cached, path.n_cached

    def _row(self, request: Request, n_tokens: int) -> Row:
        start, end = request.n_computed, request.n_computed + n_tokens
        if request.path is not None:
            self._prefixes.keep(request.path, request.slot, request.token_ids, start)
            if start == request.n_prompt:
                self._prefixes.offer(request.path, request.slot, request.token_ids, start)
        self._cache.extend(request.slot, start, end)
        return Row(request, start, end, request.n_outputs(start, end), self._n_states(request, start, end))

    def _n_states(self, request: Request, start: int, end: int) -> int:
        has_drafts = len(request.token_ids) > request.n_prompt + 1 and request.params.draft_max != 0
        if self.draft_reach == 0 or not has_drafts:
            return 0
        return max(0, end - max(start, request.n_prompt - self.draft_reach))

    def _may_start(self, n_tokens: int) -> bool:
        """Whether there is memory for what runs and a new sequence of so many tokens; 0: for what runs."""
        running = [(request.slot, len(request.token_ids)) for request in self.running]
        while not self._has_room(fresh := self._cache.fresh_pages(running, n_tokens)):
            short = [group for group, n_pages in enumerate(fresh) if n_pages]
            if not any(map(self._prefixes.reclaim, short)):
                return False
        return True

    def remove_refused(self) -> Request | None:
        """Take out a request for which there is too little memory although nothing runs."""
        if self.running or (first := next(iter(self.waiting), None)) is None:
            return None
        self.waiting.take(first)
        return first

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
        """Take out a request, waiting or running, and free its place; what it computed stays for others."""
        is_running = request.slot >= 0
        (self.running if is_running else self.waiting).remove(request)
        if is_running:
            if request.path is not None:
                self._prefixes.close(request.path, request.slot, request.token_ids, request.n_computed)
            self._cache.close(request.slot)
        self.left(request)
        if is_running:
            self._may_start(0)  # what it was promised is free for others

    def left(self, request: Request) -> None:
        """A request is neither waiting nor running any more: what its group alone shared is of no more use."""
        if request.scope is not None and request.scope == request.group and not self._has_any(request.group):
            self._prefixes.forget(request.scope)

    def _has_any(self, group: str) -> bool:
        return any(request.group == group for request in (*self.waiting, *self.running))

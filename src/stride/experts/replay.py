"""A routing trace played through policies: how often an expert is found, by the slots there are.

The policies are the objects that a running engine asks, through the same function (`stride.experts.policy.request`).
What is counted is generation: steps of a few tokens, but for the first of them, in which a cache fills. Prompts go
through the cache too, as they do in use, uncounted: they read nearly every expert whatever the policy.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from stride.errors import StrideError
from stride.experts.policy import PolicyChoice, request, wave_size
from stride.experts.trace import Trace

GENERATION_TOKENS = 8
"""Tokens of a step that is taken for generation, at most: of as many sequences, or drafts."""
WARM_UP = 0.25
"""Share of the generated steps that are not counted."""
LEAST_STEPS = 16
"""Generated steps below which a trace says nothing."""


@dataclass(frozen=True, slots=True)
class Request:
    """What one layer of a step uses: distinct keys, ascending. ``is_counted``: it belongs to what is measured."""

    keys: tuple[int, ...]
    is_counted: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """Counted uses of experts that were held, of all; ``seconds`` of a processor went into all uses."""

    hits: int
    uses: int
    seconds: float = 0.0
    uses_in_all: int = 0

    @property
    def hit_rate(self) -> float:
        return self.hits / self.uses

    @property
    def seconds_per_use(self) -> float:
        return self.seconds / self.uses_in_all


def requests(trace: Trace) -> list[Request]:
    """What a trace asks of a cache, in order.

    Raises:
        StrideError: too few generated steps to count.
    """
    steps = list(trace.steps())
    generated = [i for i, step in enumerate(steps) if len(step[0].ids) <= GENERATION_TOKENS]
    if len(generated) < LEAST_STEPS:
        raise StrideError(
            f"the trace has {len(generated)} generated steps, too few to say anything ({LEAST_STEPS} are the least)"
        )
    counted = set(generated[int(len(generated) * WARM_UP) :])
    n_experts = trace.shape.n_experts
    return [
        Request(tuple((record.layer * n_experts + np.unique(record.ids).astype(int)).tolist()), i in counted)
        for i, step in enumerate(steps)
        for record in step
    ]


def waves(keys: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Keys of one layer, as many at a time as can be held."""
    for start in range(0, len(keys), size):
        yield keys[start : start + size]


def replay(trace: Trace, asked: Sequence[Request], choice: PolicyChoice, n_slots: int) -> Outcome:
    """What a policy does with what `requests` gave.

    Raises:
        ValueError: too few slots for the policy.
    """
    shape = trace.shape
    policy = choice.make(n_slots, shape.n_layers, shape.n_experts)
    size = wave_size(choice, n_slots, shape.n_layers)
    hits = uses = uses_in_all = 0
    start = time.process_time()
    for one in asked:
        n_missing = sum(len(request(policy, keys)) for keys in waves(one.keys, size))
        uses_in_all += len(one.keys)
        if one.is_counted:
            uses += len(one.keys)
            hits += len(one.keys) - n_missing
    return Outcome(hits, uses, time.process_time() - start, uses_in_all)


def belady(asked: Sequence[Request], n_slots: int) -> Outcome:
    """The bound: what a cache does that knows the future, and lets go what is used again last (Bélády 1966).

    No policy that reads an expert when it is used finds more, global or per layer. What is not counted costs the bound
    nothing, so it may hold, after that, whatever passed by and is of most use.
    """
    accesses = [(key, one.is_counted) for one in asked for key in one.keys]
    following = _next_counted_use(accesses)
    held: dict[int, float] = {}  # key → when it is used next
    heap: list[tuple[float, int]] = []  # the latest first; entries that are no longer true are passed over
    hits = uses = 0
    for (key, is_counted), then in zip(accesses, following, strict=True):
        is_held = key in held
        uses += is_counted
        hits += is_counted and is_held
        if not is_held and len(held) >= n_slots:
            while held.get(heap[0][1]) != -heap[0][0]:
                heapq.heappop(heap)
            if not is_counted and then >= -heap[0][0]:
                continue  # nothing obliges it to be held
            del held[heapq.heappop(heap)[1]]
        held[key] = then
        heapq.heappush(heap, (-then, key))
    return Outcome(hits, uses)


def _next_counted_use(accesses: Sequence[tuple[int, bool]]) -> list[float]:
    """For each access, when its key is used next, if that is counted; infinity: never, or it comes back at no cost."""
    following = [inf] * len(accesses)
    seen: dict[int, float] = {}
    for i in range(len(accesses) - 1, -1, -1):
        key, is_counted = accesses[i]
        following[i] = seen.get(key, inf)
        seen[key] = i if is_counted else inf
    return following


def curves(
    trace: Trace,
    choices: Sequence[PolicyChoice],
    slots: Sequence[int],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[PolicyChoice, list[Outcome]], list[Outcome]]:
    """For each policy, and for the bound, the outcome by slots.

    ``progress`` is called with (replays done, replays in all).

    Raises:
        StrideError: too short a trace.
        ValueError: fewer slots than layers.
    """
    asked = requests(trace)
    n_all, done = (len(choices) + 1) * len(slots), 0
    found: dict[PolicyChoice, list[Outcome]] = {choice: [] for choice in choices}
    bound = []
    for n_slots in slots:
        for choice in choices:
            found[choice].append(replay(trace, asked, choice, n_slots))
            done += 1
            if progress is not None:
                progress(done, n_all)
        bound.append(belady(asked, n_slots))
        done += 1
        if progress is not None:
            progress(done, n_all)
    return found, bound

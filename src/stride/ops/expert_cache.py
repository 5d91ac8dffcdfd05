"""Which routed experts are in memory, and in which slot: the books of streaming, without a byte of the experts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from stride.experts.policy import PolicyChoice, wave_size
from stride.ops.api import IntArray

WAVE_EXPERTS = 32
"""Experts that are read while as many are computed: enough to keep the disk busy."""


def least_slots(top_k: int) -> int:
    """For one token: its experts of one layer; two where it has one, so that one is read while one is computed."""
    return max(2, top_k)


@dataclass(slots=True)
class Wave:
    """Ascending experts of one layer that are computed together; ``missing`` ones have to be read into ``slots``."""

    experts: list[int]
    missing: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)


@dataclass(slots=True)
class CacheCounts:
    """Since the start. ``expected`` experts were read ahead of their use, ``came_true`` of them were used then."""

    hits: int = 0
    misses: int = 0
    expected: int = 0
    came_true: int = 0


class ExpertCache:
    """Slots for experts that were used, under a policy, and a few besides for experts that are expected.

    Layers are those with experts, counted from 0; a policy's key of an expert is ``layer * n_experts + expert``.

    Args:
        n_slots: of all, ``n_expected`` for experts that are expected among them.

    Attributes:
        n_expected: slots for experts that are expected.
        tables: int32 [experts] for each layer: each expert's slot, or -1; those that are only expected are not here.
    """

    def __init__(self, choice: PolicyChoice, n_layers: int, n_experts: int, n_slots: int, n_expected: int) -> None:
        self._choice = choice
        self._policy = choice.make(n_slots - n_expected, n_layers, n_experts)
        self._n_experts = n_experts
        self._free = list(range(n_slots - 1, -1, -1))
        self._given_back: list[int] = []
        self.n_expected = n_expected
        self._expected: OrderedDict[int, int] = OrderedDict()  # key → slot, the oldest first
        self.tables: list[IntArray] = [np.full(n_experts, -1, np.int32) for _ in range(n_layers)]
        self.counts = CacheCounts()

    # --- what a step uses ---

    def waves(self, layer: int, wanted: Sequence[int]) -> list[Wave]:
        """Cut a layer's experts (ascending) into waves, two of which fit beside all others that are there already.

        Where those leave too little room, the last of them are let go, to be read again in their wave.
        """
        table = self.tables[layer]
        capacity = wave_size(self._choice, self._policy.n_slots, len(self.tables))
        held = [expert for expert in wanted if table[expert] >= 0]
        n_missing = len(wanted) - len(held)
        room = min(n_missing, 2 * WAVE_EXPERTS, max(2, capacity // 2))
        while held and capacity - len(held) < room:
            self.forget(layer, held.pop())
            n_missing += 1
            room = min(n_missing, 2 * WAVE_EXPERTS, max(2, capacity // 2))
        free = capacity - len(held)
        most = n_missing if n_missing <= min(free, WAVE_EXPERTS) else min(free // 2, WAVE_EXPERTS)
        waves, n_missing = [Wave([])], 0
        for expert in wanted:
            if table[expert] < 0:
                if n_missing == most:
                    waves.append(Wave([]))
                    n_missing = 0
                n_missing += 1
            waves[-1].experts.append(expert)
        return waves

    def enter(self, layer: int, wave: Wave, pinned: Collection[int]) -> list[int]:
        """Give every expert of a wave a slot, at the cost of none that is pinned: keys of all experts that the step has
        still to compute, the wave's among them. Fills in what is missing; gives slots whose experts are on their way.
        """
        table, on_their_way = self.tables[layer], []
        for expert in wave.experts:
            key = layer * self._n_experts + expert
            if self._policy.touch(key):
                self.counts.hits += 1
                continue
            victim = self._policy.insert(key, pinned)
            slot = self._free.pop() if victim is None else self._leave(victim)
            ahead = self._expected.pop(key, None)
            if ahead is None:
                self.counts.misses += 1
                wave.missing.append(expert)
                wave.slots.append(slot)
            else:
                self.counts.came_true += 1
                self._free.append(slot)
                slot = ahead
                on_their_way.append(slot)
            table[expert] = slot
        return on_their_way

    def keys(self, layer: int, experts: Sequence[int]) -> set[int]:
        """Of some experts of a layer."""
        first = layer * self._n_experts
        return {first + expert for expert in experts}

    def forget(self, layer: int, expert: int) -> None:
        """An expert that is in a slot is there no more."""
        key = layer * self._n_experts + expert
        self._policy.remove(key)
        self._free.append(self._leave(key))

    def _leave(self, key: int) -> int:
        """The slot that a key had."""
        table, expert = self.tables[key // self._n_experts], key % self._n_experts
        slot = int(table[expert])
        table[expert] = -1
        return slot

    # --- what a step may use ---

    def expect(self, layer: int, experts: Sequence[int]) -> tuple[list[int], list[int]]:
        """Experts of a layer that are worth reading ahead, and a slot for each: those expected longest make room."""
        table = self.tables[layer]
        first = layer * self._n_experts
        new = [e for e in experts if table[e] < 0 and first + e not in self._expected][: self.n_expected]
        slots = []
        for expert in new:
            is_full = len(self._expected) == self.n_expected
            slot = self._expected.popitem(last=False)[1] if is_full else self._free.pop()
            self._expected[first + expert] = slot
            slots.append(slot)
        self.counts.expected += len(new)
        return new, slots

    def overtaken(self, layer: int) -> list[int]:
        """Slots of a layer's expected experts, which did not come true: they are free from now on."""
        late = [key for key in self._expected if key // self._n_experts == layer]
        slots = [self._expected.pop(key) for key in late]
        self._free += slots
        return slots

    # --- size ---

    @property
    def n_slots(self) -> int:
        """Slots that are in use or may be."""
        return self._policy.n_slots + self.n_expected

    def resize(self, n_slots: int) -> list[int]:
        """Have fewer slots, or more again. Gives those that are not used any more until then.

        Raises:
            ValueError: fewer than the policy can do with; nothing has changed then.
        """
        n_fewer = self.n_slots - n_slots
        freed = [self._leave(key) for key in self._policy.resize(n_slots - self.n_expected)]
        if n_fewer < 0:
            self._free += self._given_back[n_fewer:]
            del self._given_back[n_fewer:]
            return []
        freed += [self._free.pop(0) for _ in range(n_fewer - len(freed))]
        self._given_back += freed
        return freed

"""The policies themselves. Each is a `stride.experts.policy.Policy`."""

from __future__ import annotations

import heapq
import random
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Collection, Iterator
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["lru", "lfu", "s3-fifo", "random"]


class Bounded(ABC):
    """What all policies share: the number of slots, and that something goes when there are too few."""

    def __init__(self, n_slots: int) -> None:
        _require_slots(n_slots)
        self.n_slots = n_slots

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __contains__(self, key: int) -> bool: ...

    @abstractmethod
    def touch(self, key: int) -> bool: ...

    @abstractmethod
    def remove(self, key: int) -> None: ...

    @abstractmethod
    def _add(self, key: int) -> None:
        """Hold a key; there is room."""

    @abstractmethod
    def _evict(self, pinned: Collection[int]) -> int:
        """Let a key go that is not pinned. ValueError: there is none."""

    def insert(self, key: int, pinned: Collection[int] = ()) -> int | None:
        victim = self._evict(pinned) if len(self) >= self.n_slots else None
        self._add(key)
        return victim

    def resize(self, n_slots: int, pinned: Collection[int] = ()) -> list[int]:
        self.check_size(n_slots, pinned)
        self.n_slots = n_slots
        return [self._evict(pinned) for _ in range(len(self) - n_slots)]

    def check_size(self, n_slots: int, pinned: Collection[int]) -> None:
        """ValueError: pinned keys need more slots."""
        _require_slots(n_slots)
        n_pinned = sum(key in self for key in set(pinned))
        if n_slots < n_pinned:
            raise ValueError(f"{n_slots} slots are fewer than {n_pinned} pinned experts")


class LRU(Bounded):
    """What was not used for longest goes."""

    def __init__(self, n_slots: int) -> None:
        super().__init__(n_slots)
        self._held: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: int) -> bool:
        return key in self._held

    def touch(self, key: int) -> bool:
        if key not in self._held:
            return False
        self._held.move_to_end(key)
        return True

    def remove(self, key: int) -> None:
        del self._held[key]

    def _add(self, key: int) -> None:
        self._held[key] = None

    def _evict(self, pinned: Collection[int]) -> int:
        for key in self._held:
            if key not in pinned:
                del self._held[key]
                return key
        raise _all_pinned()


class LFU(Bounded):
    """What was used least often goes, where a use counts half after `HALF_LIFE` uses for each slot. Uses of keys that
    are not held count too: an expert that was used often is held again at once."""

    HALF_LIFE = 16.0
    _LARGEST = 2.0**512

    def __init__(self, n_slots: int) -> None:
        super().__init__(n_slots)
        self._counts: dict[int, float] = {}
        self._weight = 1.0  # of the next use: instead of all counts falling, later uses weigh more
        self._held: set[int] = set()
        self._heap: list[tuple[float, int]] = []  # a count that each held key had once: it has grown since, or not

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: int) -> bool:
        return key in self._held

    def touch(self, key: int) -> bool:
        self._counts[key] = self._counts.get(key, 0.0) + self._weight
        self._weight *= 2.0 ** (1 / (self.HALF_LIFE * self.n_slots))
        if self._weight > self._LARGEST:
            self._scale_down()
        return key in self._held

    def remove(self, key: int) -> None:
        self._held.remove(key)
        self._heap = [entry for entry in self._heap if entry[1] != key]
        heapq.heapify(self._heap)

    def _add(self, key: int) -> None:
        self._held.add(key)
        heapq.heappush(self._heap, (self._counts.get(key, 0.0), key))

    def _evict(self, pinned: Collection[int]) -> int:
        passed = []
        victim = None
        while self._heap and victim is None:
            count, key = self._heap[0]
            if count < self._counts.get(key, 0.0):
                heapq.heapreplace(self._heap, (self._counts[key], key))
            elif key in pinned:
                passed.append(heapq.heappop(self._heap))
            else:
                heapq.heappop(self._heap)
                victim = key
        for entry in passed:
            heapq.heappush(self._heap, entry)
        if victim is None:
            raise _all_pinned()
        self._held.remove(victim)
        return victim

    def _scale_down(self) -> None:
        self._counts = {key: count / self._weight for key, count in self._counts.items()}
        self._weight = 1.0
        self._heap = [(self._counts.get(key, 0.0), key) for key in self._held]
        heapq.heapify(self._heap)


class S3Fifo(Bounded):
    """Three queues (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023): what is new goes
    through a small one; what is used twice meanwhile, or comes back soon after it left, goes on to the main one."""

    SMALL = 0.1
    """Share of the slots that is for what is new."""
    MOST_USES = 3

    def __init__(self, n_slots: int) -> None:
        super().__init__(n_slots)
        self._small: OrderedDict[int, int] = OrderedDict()  # uses of each since it came, the oldest first
        self._main: OrderedDict[int, int] = OrderedDict()
        self._ghosts: OrderedDict[int, None] = OrderedDict()  # keys that left the small queue

    def __len__(self) -> int:
        return len(self._small) + len(self._main)

    def __contains__(self, key: int) -> bool:
        return key in self._small or key in self._main

    def touch(self, key: int) -> bool:
        for queue in (self._small, self._main):
            uses = queue.get(key)
            if uses is not None:
                queue[key] = min(uses + 1, self.MOST_USES)
                return True
        return False

    def remove(self, key: int) -> None:
        del (self._small if key in self._small else self._main)[key]

    def _add(self, key: int) -> None:
        if key in self._ghosts:
            del self._ghosts[key]
            self._main[key] = 0
        else:
            self._small[key] = 0

    def _evict(self, pinned: Collection[int]) -> int:
        wants_small = len(self._small) >= self.SMALL * self.n_slots
        queues = (self._from_small, self._from_main) if wants_small else (self._from_main, self._from_small)
        for queue in (*queues, self._from_main):  # what leaves the small queue for the main one may go from there
            victim = queue(pinned)
            if victim is not None:
                return victim
        raise _all_pinned()

    def _from_small(self, pinned: Collection[int]) -> int | None:
        for key, uses in _once_around(self._small):
            if key in pinned:
                self._small[key] = uses
            elif uses > 1:
                self._main[key] = uses
            else:
                self._ghosts[key] = None
                if len(self._ghosts) > self.n_slots:
                    self._ghosts.popitem(last=False)
                return key
        return None

    def _from_main(self, pinned: Collection[int]) -> int | None:
        for _ in range(self.MOST_USES + 1):
            for key, uses in _once_around(self._main):
                if key in pinned:
                    self._main[key] = uses
                elif uses:
                    self._main[key] = uses - 1
                else:
                    return key
        return None


class Random(Bounded):
    """Anything goes, by a seeded draw. For tests, and as what a policy has to beat."""

    def __init__(self, n_slots: int, seed: int = 0) -> None:
        super().__init__(n_slots)
        self._random = random.Random(seed)
        self._held: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: int) -> bool:
        return key in self._held

    def touch(self, key: int) -> bool:
        return key in self._held

    def remove(self, key: int) -> None:
        del self._held[key]

    def _add(self, key: int) -> None:
        self._held[key] = None

    def _evict(self, pinned: Collection[int]) -> int:
        free = [key for key in self._held if key not in pinned]
        if not free:
            raise _all_pinned()
        victim = self._random.choice(free)
        del self._held[victim]
        return victim


def _once_around(queue: OrderedDict[int, int]) -> Iterator[tuple[int, int]]:
    """Takes out one key after the other, the oldest first, but none that is put in again meanwhile."""
    for _ in range(len(queue)):
        yield queue.popitem(last=False)


def _require_slots(n_slots: int) -> None:
    if n_slots < 1:
        raise ValueError(f"a cache of {n_slots} slots holds nothing")


def _all_pinned() -> ValueError:
    return ValueError("every expert that is held is pinned: there are too few slots for what one layer uses")

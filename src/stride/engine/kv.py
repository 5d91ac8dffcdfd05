"""Bookkeeping of the paged key/value cache: which page holds which positions of which sequence. No tensor here.

Layers that look equally far back form a cache group with its own pages: full attention keeps every position, a sliding
window only its last ones. Each running sequence has a slot, and in each group one row of the page table.
There are as many pages as all slots can ever come to need, so extending a sequence cannot fail; a backend touches
a page's memory only when it is first written, and the page freed last is the next to be used. Pages that nobody needs
may be held for later (`stride.engine.prefix`), and are taken back when no page is free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from stride.ops.api import PAGE_TOKENS, IntArray


def pages_for(n_tokens: int) -> int:
    """Pages that hold this many tokens from a page's start on."""
    return -(-n_tokens // PAGE_TOKENS)


def first_page(position: int, window: int | None) -> int:
    """The first page that a token at ``position`` looks at."""
    return 0 if window is None else max(0, position - window + 1) // PAGE_TOKENS


def pages_per_sequence(window: int | None, n_tokens: int, chunk: int) -> int:
    """Pages of one cache group that a sequence of so many tokens comes to hold at a time, at most."""
    whole = pages_for(n_tokens)
    return whole if window is None else min(whole, pages_for(window + chunk) + 1)


class PageAllocator:
    """Pages 0 .. n_pages - 1, each with a count of its holders; free when nobody holds it.

    Attributes:
        n_touched: pages that were ever held; only these have memory.
        reclaim: asked for a page when none is free: lets go of one that it alone holds and gives True, or False.
    """

    def __init__(self, n_pages: int) -> None:
        self.n_pages = n_pages
        self.n_touched = 0
        self.reclaim: Callable[[], bool] = lambda: False
        self._free = list(range(n_pages - 1, -1, -1))
        self._holders = [0] * n_pages

    @property
    def n_busy(self) -> int:
        return self.n_pages - len(self._free)

    def allocate(self) -> int:
        """A free page, held once.

        Raises:
            MemoryError: every page is held, and none can be reclaimed.
        """
        if not self._free and not self.reclaim():
            raise MemoryError(f"all {self.n_pages} pages of the cache are in use")
        page = self._free.pop()
        self._holders[page] = 1
        self.n_touched = max(self.n_touched, self.n_busy)
        return page

    def n_holders(self, page: int) -> int:
        return self._holders[page]

    def retain(self, page: int) -> None:
        """One more holder of a page that is held."""
        if self._holders[page] == 0:
            raise ValueError(f"page {page} is free")
        self._holders[page] += 1

    def release(self, page: int) -> None:
        """One holder less; the last one frees the page."""
        if self._holders[page] == 0:
            raise ValueError(f"page {page} is free")
        self._holders[page] -= 1
        if self._holders[page] == 0:
            self._free.append(page)


class PageGroup:
    """The pages of one cache group: a table of [slots, pages of a whole context] and an allocator.

    Slot s holds the pages ``first[s] .. end[s] - 1`` of its sequence; its other entries are -1. ``n_spare`` pages are
    there beyond what all slots can come to hold.
    """

    def __init__(self, window: int | None, n_slots: int, n_ctx: int, chunk: int, n_spare: int = 0) -> None:
        self.window = window
        self._chunk = chunk
        self.allocator = PageAllocator(n_slots * pages_per_sequence(window, n_ctx, chunk) + n_spare)
        self.table = np.full((n_slots, pages_for(n_ctx)), -1, np.int32)
        self._first = [0] * n_slots
        self._end = [0] * n_slots

    def extend(self, slot: int, start: int, end: int) -> None:
        """Hold what the tokens at positions start .. end - 1 look at or write; let go of what is behind them."""
        self._release(slot, first_page(start, self.window))
        for entry in range(self._end[slot], pages_for(end)):
            self.table[slot, entry] = self.allocator.allocate()
            self._end[slot] = entry + 1

    def fresh_pages(self, running: Iterable[tuple[int, int]], n_new: int) -> int:
        """Pages never touched that sequences may come to touch: running ones (slot, tokens at most), and a new one."""
        to_come = sum(
            max(0, pages_per_sequence(self.window, n_tokens, self._chunk) - self._end[slot] + self._first[slot])
            for slot, n_tokens in running
        )
        to_come += pages_per_sequence(self.window, n_new, self._chunk)
        pages = self.allocator
        return max(0, min(pages.n_pages, pages.n_busy + to_come) - pages.n_touched)

    def adopt(self, slot: int, first: int, pages: Sequence[int]) -> None:
        """Begin an empty slot with pages that others hold too, as its entries ``first ..``."""
        for entry, page in enumerate(pages, first):
            self.allocator.retain(page)
            self.table[slot, entry] = page
        self._first[slot], self._end[slot] = first, first + len(pages)

    def replace(self, slot: int, entry: int, page: int) -> None:
        """Hold another page of the same content instead of the one at an entry."""
        self.allocator.retain(page)
        self.allocator.release(int(self.table[slot, entry]))
        self.table[slot, entry] = page

    def clear(self, slot: int) -> None:
        """Let go of all pages of a slot."""
        self._release(slot, self._end[slot])
        self._first[slot] = self._end[slot] = 0

    def _release(self, slot: int, until: int) -> None:
        for entry in range(self._first[slot], until):
            self.allocator.release(int(self.table[slot, entry]))
            self.table[slot, entry] = -1
        self._first[slot] = until


class PagedCache:
    """All cache groups and the slots of the running sequences.

    ``windows`` has one entry per group (None: full attention), ``n_spare`` pages beyond what the slots can come to
    hold (none, where it is not given). A step adds at most ``chunk`` tokens to a sequence.

    Attributes:
        copies: (group, source, target): pages whose content is to be copied, in this order, before the next step.
    """

    def __init__(
        self,
        windows: Sequence[int | None],
        n_slots: int,
        n_ctx: int,
        chunk: int,
        n_spare: Sequence[int] | None = None,
    ) -> None:
        spare = n_spare or [0] * len(windows)
        self.groups = tuple(
            PageGroup(window, n_slots, n_ctx, chunk, n) for window, n in zip(windows, spare, strict=True)
        )
        self.copies: list[tuple[int, int, int]] = []
        self._free_slots = list(range(n_slots - 1, -1, -1))

    @property
    def n_pages(self) -> tuple[int, ...]:
        """Pages of each group."""
        return tuple(group.allocator.n_pages for group in self.groups)

    @property
    def n_busy_pages(self) -> tuple[int, ...]:
        """Pages of each group that a sequence holds."""
        return tuple(len(np.unique(group.table[group.table >= 0])) for group in self.groups)

    @property
    def has_free_slot(self) -> bool:
        return bool(self._free_slots)

    def open(self) -> int:
        """A free slot for a new sequence."""
        return self._free_slots.pop()

    def extend(self, slot: int, start: int, end: int) -> None:
        """Make room for the tokens at positions start .. end - 1, where start is the sequence's length so far."""
        for group in self.groups:
            group.extend(slot, start, end)

    def fresh_pages(self, running: Sequence[tuple[int, int]], n_new: int = 0) -> tuple[int, ...]:
        """Of each group, as `PageGroup.fresh_pages`."""
        return tuple(group.fresh_pages(running, n_new) for group in self.groups)

    def close(self, slot: int) -> None:
        """Free a slot and its pages."""
        for group in self.groups:
            group.clear(slot)
        self._free_slots.append(slot)

    def tables(self, slots: Sequence[int], end: int) -> tuple[IntArray, ...]:
        """Per group, int32 [len(slots), pages up to position end - 1]: copies, as ``Batch.page_tables`` wants them."""
        return tuple(group.table[list(slots), : pages_for(end)] for group in self.groups)

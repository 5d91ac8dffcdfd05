"""Pages: owned once, returned when free, and covering exactly what a token looks at."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stride.engine.kv import PageAllocator, PagedCache, pages_for
from stride.ops.api import PAGE_TOKENS

N_CTX, CHUNK, SLOTS = 300, 50, 3
WINDOWS = (None, 1, 40, 64)


class Sequences(RuleBasedStateMachine):
    """Sequences that begin, grow by up to a chunk, and end, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = PagedCache(WINDOWS, SLOTS, N_CTX, CHUNK)
        self.lengths: dict[int, int] = {}
        self.last_start: dict[int, int] = {}

    @precondition(lambda self: len(self.lengths) < SLOTS)
    @rule()
    def begin(self) -> None:
        assert self.cache.has_free_slot
        slot = self.cache.open()
        assert slot not in self.lengths
        self.lengths[slot] = self.last_start[slot] = 0

    @precondition(lambda self: self.lengths)
    @rule(data=st.data(), n=st.integers(1, CHUNK))
    def grow(self, data: st.DataObject, n: int) -> None:
        slot = data.draw(st.sampled_from(sorted(self.lengths)))
        start = self.lengths[slot]
        end = min(N_CTX, start + n)
        if start < end:
            self.cache.extend(slot, start, end)
            self.last_start[slot], self.lengths[slot] = start, end

    @precondition(lambda self: self.lengths)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.lengths)))
        self.cache.close(slot)
        del self.lengths[slot], self.last_start[slot]

    @invariant()
    def each_page_has_one_owner_and_each_position_looked_at_a_page(self) -> None:
        slots = sorted(self.lengths)
        tables = self.cache.tables(slots, N_CTX)
        for window, group, table, busy in zip(WINDOWS, self.cache.groups, tables, self.cache.n_busy_pages, strict=True):
            pages = table[table >= 0].tolist()
            assert len(pages) == len(set(pages)) == busy
            assert all(0 <= page < group.allocator.n_pages for page in pages)
            for row, slot in zip(table, slots, strict=True):
                first = 0 if window is None else max(0, self.last_start[slot] - window + 1) // PAGE_TOKENS
                end = pages_for(self.lengths[slot])
                held = [entry for entry, page in enumerate(row) if page >= 0]
                assert held == list(range(first if end else 0, end))
                if window is not None:
                    assert len(held) <= pages_for(window + CHUNK) + 1

    @invariant()
    def nothing_is_held_for_nobody(self) -> None:
        if not self.lengths:
            assert self.cache.n_busy_pages == (0,) * len(WINDOWS)


Sequences.TestCase.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
TestSequences = Sequences.TestCase


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["allocate", "retain", "release"]), max_size=60), st.randoms(use_true_random=False))
def test_an_allocator_counts_holders(actions: list[str], random: object) -> None:
    allocator = PageAllocator(5)
    held: list[int] = []  # one entry per holder
    for action in actions:
        if action == "allocate":
            if len(set(held)) == 5:
                with pytest.raises(MemoryError):
                    allocator.allocate()
                continue
            page = allocator.allocate()
            assert page not in held
            held.append(page)
        elif held:
            page = random.choice(held)  # type: ignore[attr-defined]
            if action == "retain":
                allocator.retain(page)
                held.append(page)
            else:
                allocator.release(page)
                held.remove(page)
        assert allocator.n_busy == len(set(held))


def test_a_free_page_can_be_neither_retained_nor_released() -> None:
    allocator = PageAllocator(2)
    with pytest.raises(ValueError, match="page 0 is free"):
        allocator.release(0)
    with pytest.raises(ValueError, match="page 1 is free"):
        allocator.retain(1)


def test_the_page_freed_last_is_used_first() -> None:
    allocator = PageAllocator(100)
    first, second = allocator.allocate(), allocator.allocate()
    allocator.release(first)
    assert (first, second, allocator.allocate()) == (0, 1, 0)


def test_window_groups_reserve_windows_not_contexts() -> None:
    cache = PagedCache((None, 512), n_slots=2, n_ctx=8192, chunk=512)
    assert cache.n_pages == (2 * 256, 2 * 33)
    assert PagedCache((512,), n_slots=1, n_ctx=64, chunk=512).n_pages == (2,)

"""The prefix cache: what is shared is what would have been computed, whoever comes, goes or is pushed out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stride.engine.kv import PagedCache, first_page, pages_for
from stride.engine.prefix import MARGIN, PrefixCache
from stride.ops.api import PAGE_TOKENS

END = 9
"""The token that ends a message."""


class Memory:
    """A paged cache whose pages hold the tokens that were written to them, with a prefix cache over it."""

    def __init__(self, windows: tuple[int | None, ...], n_slots: int, n_ctx: int, chunk: int, spare: int) -> None:
        self.cache = PagedCache(windows, n_slots, n_ctx, chunk, [spare] * len(windows))
        self.prefixes = PrefixCache(self.cache)
        self.windows, self.chunk = windows, chunk
        self.pages = [np.full((n, PAGE_TOKENS), -1) for n in self.cache.n_pages]

    def begin(self, tokens: list[int], scope: str = "") -> Sequence:
        return Sequence(self, tokens, scope)

    def copy(self) -> None:
        for group, source, target in self.cache.copies:
            self.pages[group][target] = self.pages[group][source]
        self.cache.copies.clear()


class Sequence:
    """A sequence in the memory."""

    def __init__(self, memory: Memory, tokens: list[int], scope: str) -> None:
        self.memory, self.tokens = memory, np.array(tokens, np.int32)
        self.slot = memory.cache.open()
        self.path = memory.prefixes.open(self.slot, scope, self.tokens, {END}, len(tokens) + 100)
        memory.copy()
        self.n_cached = self.n = self.path.n_cached
        self.look()

    def grow(self, n: int, *, offers: bool = False) -> None:
        """Compute up to n further tokens, no more than a chunk."""
        start, end = self.n, min(len(self.tokens), self.n + min(n, self.memory.chunk))
        if start == end:
            return
        self.memory.prefixes.keep(self.path, self.slot, self.tokens, start)
        if offers:
            self.memory.prefixes.offer(self.path, self.slot, self.tokens, start)
        self.memory.cache.extend(self.slot, start, end)
        for group, pages in zip(self.memory.cache.groups, self.memory.pages, strict=True):
            for position in range(start, end):
                pages[group.table[self.slot, position // PAGE_TOKENS], position % PAGE_TOKENS] = self.tokens[position]
        self.n = end
        self.look(start)

    def look(self, position: int | None = None) -> None:
        """All that a token at a position (the next one) looks at, and what was computed since, is there and right."""
        position = self.n if position is None else position
        for group, pages in zip(self.memory.cache.groups, self.memory.pages, strict=True):
            first = 0 if group.window is None else max(0, position - group.window + 1)
            for at in range(first, self.n):
                page = group.table[self.slot, at // PAGE_TOKENS]
                assert page >= 0
                assert pages[page, at % PAGE_TOKENS] == self.tokens[at]

    def end(self) -> None:
        self.memory.prefixes.close(self.path, self.slot, self.tokens, self.n)
        self.memory.cache.close(self.slot)


def run(memory: Memory, tokens: list[int], scope: str = "") -> int:
    """Compute a whole sequence; how many tokens were found."""
    sequence = memory.begin(tokens, scope)
    while sequence.n < len(tokens):
        sequence.grow(memory.chunk)
    sequence.end()
    return sequence.n_cached


def numbers(seed: int, n: int) -> list[int]:
    return np.random.default_rng(seed).integers(10, 1000, n).tolist()


# --- whatever happens ---


@pytest.mark.parametrize("windows", [(None,), (None, 40), (40, None, 100), (33,), (1, 64)], ids=str)
def test_sequences_always_see_their_own_tokens(windows: tuple[int | None, ...]) -> None:
    """A state machine over sequences that begin, grow and end, in scopes, in a cache that is always too small."""

    class Sequences(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.memory = Memory(windows, n_slots=3, n_ctx=200, chunk=50, spare=5)
            self.running: list[tuple[Sequence, str]] = []
            self.known: dict[str, list[list[int]]] = {"a": [], "b": []}

        @precondition(lambda self: len(self.running) < 3)
        @rule(
            data=st.data(),
            scope=st.sampled_from(["a", "b"]),
            keep=st.integers(0, 200),
            new=st.lists(st.integers(0, END), min_size=1, max_size=100),
        )
        def begin(self, data: st.DataObject, scope: str, keep: int, new: list[int]) -> None:
            """Begins like some sequence before, of any scope."""
            before = data.draw(st.sampled_from([[], *self.known["a"], *self.known["b"]]))
            tokens = (before[:keep] + new)[:200]
            sequence = self.memory.begin(tokens, scope)
            assert sequence.n_cached < len(tokens)
            assert sequence.n_cached <= max((common(tokens, one) for one in self.known[scope]), default=0)
            self.known[scope].append(tokens)
            self.running.append((sequence, scope))

        @precondition(lambda self: self.running)
        @rule(data=st.data(), n=st.integers(1, 50), offers=st.booleans())
        def grow(self, data: st.DataObject, n: int, offers: bool) -> None:
            data.draw(st.sampled_from(self.running))[0].grow(n, offers=offers)

        @precondition(lambda self: not self.running)
        @rule(scope=st.sampled_from(["a", "b"]))
        def forget(self, scope: str) -> None:
            self.memory.prefixes.forget(scope)
            self.known[scope].clear()

        @precondition(lambda self: self.running)
        @rule(data=st.data())
        def end(self, data: st.DataObject) -> None:
            one = data.draw(st.sampled_from(self.running))
            self.running.remove(one)
            one[0].end()

        @invariant()
        def the_books_are_right(self) -> None:
            check_books(self.memory)
            for sequence, _ in self.running:
                sequence.look()

    Sequences.TestCase.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
    Sequences.TestCase("runTest").runTest()


def test_another_goes_on_inside_a_page_that_is_being_written() -> None:
    memory = Memory((None, 40), n_slots=3, n_ctx=400, chunk=50, spare=0)
    shared = numbers(1, 110)
    first = memory.begin(shared + numbers(2, 40))
    for n in (50, 50, 10):
        first.grow(n)
    first.grow(1, offers=True)
    second = memory.begin(shared + numbers(3, 40))
    assert second.n_cached == 110
    first.grow(30)  # the page is whole
    third = memory.begin(shared + numbers(4, 40))
    assert third.n_cached == 110
    second.grow(40)
    for sequence in (first, second, third):
        sequence.look()
        sequence.end()
    check_books(memory)
    memory.prefixes.forget("")
    assert memory.prefixes.n_pages == tuple(group.allocator.n_busy for group in memory.cache.groups) == (0, 0)


def common(a: list[int], b: list[int]) -> int:
    n = min(len(a), len(b))
    return next((i for i in range(n) if a[i] != b[i]), n)


def check_books(memory: Memory) -> None:
    """Every page is held by exactly those who have it; the trees hold nothing that cannot be found."""
    nodes = [node for root in memory.prefixes._roots.values() for node in below(root)]
    for index, group in enumerate(memory.cache.groups):
        of_trees = [node.pages[index] for node in nodes if node.pages[index] >= 0]
        assert len(of_trees) == len(set(of_trees)) == memory.prefixes.n_pages[index]
        holders = np.bincount(
            np.concatenate([group.table[group.table >= 0], np.array(of_trees, np.int32)]),
            minlength=group.allocator.n_pages,
        )
        assert holders.tolist() == [group.allocator.n_holders(page) for page in range(group.allocator.n_pages)]
    for node in nodes:
        assert node.children or node.users or max(node.pages) >= 0
        assert sorted(node.children) == node.keys
        if None in memory.windows:
            assert node.pages[memory.windows.index(None)] >= 0


def below(node: Any) -> list[Any]:
    return [found for child in node.children.values() for found in (child, *below(child))]


# --- what is found ---

WINDOW = 64


@pytest.fixture
def memory() -> Memory:
    return Memory((None, WINDOW), n_slots=2, n_ctx=2000, chunk=100, spare=1000)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 400), more=st.integers(1, 100))
def test_a_sequence_is_continued_where_it_ended(n: int, more: int) -> None:
    memory = Memory((None, WINDOW), n_slots=2, n_ctx=2000, chunk=100, spare=1000)
    tokens = numbers(n, n + more)
    assert run(memory, tokens[:n]) == 0
    assert run(memory, tokens) == n


@settings(max_examples=60, deadline=None)
@given(
    n_prompt=st.integers(1, 300), back=st.integers(0, MARGIN), n_answer=st.integers(1, 400), n_next=st.integers(1, 50)
)
def test_a_turn_whose_answer_comes_back_without_its_reasoning_costs_its_own_tokens(
    n_prompt: int, back: int, n_answer: int, n_next: int
) -> None:
    """The next prompt equals the last one but for a few tokens at its end (`<think>`), then goes on differently."""
    memory = Memory((None, WINDOW), n_slots=2, n_ctx=2000, chunk=100, spare=1000)
    prompt = numbers(1, n_prompt)
    sequence = memory.begin(prompt)
    sequence.tokens = np.array(prompt + numbers(2, n_answer), np.int32)
    while sequence.n < n_prompt + n_answer:
        sequence.grow(100 if sequence.n < n_prompt else 1)
    sequence.end()
    same = max(0, n_prompt - back)
    assert run(memory, prompt[:same] + numbers(3, n_next)) == same


def test_the_same_prompt_again_computes_its_last_token(memory: Memory) -> None:
    for n in (1, 31, 32, 33, 64, 65, 200):
        prompt = numbers(n, n)
        run(memory, prompt)
        assert run(memory, prompt) == n - 1


def test_a_message_end_is_resumed_and_another_place_is_not(memory: Memory) -> None:
    tokens = [*numbers(1, 299), END, *numbers(2, 300)]
    run(memory, tokens)
    assert run(memory, [*tokens[:300], *numbers(3, 40)]) == 300
    assert run(memory, [*tokens[:450], *numbers(4, 40)]) == 352  # the end of the last page that is kept around it
    assert run(memory, [*tokens[:450], *numbers(5, 40)]) == 450  # where two have parted


def test_a_long_prompt_is_resumed_at_regular_places(memory: Memory) -> None:
    tokens = numbers(1, 1500)
    run(memory, tokens)
    assert run(memory, [*tokens[:1200], *numbers(2, 40)]) == 1024 + MARGIN


def test_window_pages_in_between_are_given_back(memory: Memory) -> None:
    run(memory, numbers(1, 1500))
    full, window = memory.prefixes.n_pages
    assert full == pages_for(1500)
    assert window < 0.3 * full


def test_without_a_window_every_place_is_resumed() -> None:
    memory = Memory((None,), n_slots=1, n_ctx=500, chunk=100, spare=100)
    tokens = numbers(1, 400)
    run(memory, tokens)
    for n in (399, 250, 64, 3):
        assert run(memory, [*tokens[:n], *numbers(n, 7)]) == n


def test_scopes_share_nothing(memory: Memory) -> None:
    tokens = numbers(1, 300)
    run(memory, tokens, "a")
    assert run(memory, tokens, "b") == 0
    assert run(memory, tokens, "a") == 299


def test_sequences_that_run_together_share_pages(memory: Memory) -> None:
    tokens = numbers(1, 200)
    first, second = memory.begin(tokens), memory.begin(tokens)
    for sequence in (first, second) * 2:
        sequence.grow(100)
    for sequence in (first, second):
        memory.prefixes.keep(sequence.path, sequence.slot, sequence.tokens, sequence.n)
    tables = memory.cache.groups[0].table
    assert tables[first.slot, :6].tolist() == tables[second.slot, :6].tolist()
    assert tables[first.slot, 6] != tables[second.slot, 6]  # not whole yet, so each writes its own


# --- what is given up ---


def test_the_longest_unused_goes_first() -> None:
    memory = Memory((None, WINDOW), n_slots=1, n_ctx=320, chunk=100, spare=10)
    first, second, third = (numbers(seed, 150) for seed in range(3))
    for tokens in (first, second, third):
        run(memory, tokens)
    assert run(memory, first) == 149
    root = next(iter(memory.prefixes._roots.values()))
    run(memory, numbers(4, 300))  # 10 of 20 pages; what is left fits two
    known = [memory.prefixes._find(root, np.array(tokens, np.int32)) for tokens in (first, second, third)]
    assert [n for _, _, n in known] == [150, 0, 150]


def test_nothing_is_kept_of_what_is_pushed_out() -> None:
    memory = Memory((None, WINDOW), n_slots=1, n_ctx=320, chunk=100, spare=0)
    for seed in range(50):
        run(memory, numbers(seed, 300))
        check_books(memory)
    assert len(below(next(iter(memory.prefixes._roots.values())))) <= 10


def test_what_runs_is_never_taken_away() -> None:
    memory = Memory((None, WINDOW), n_slots=2, n_ctx=320, chunk=100, spare=0)
    long = numbers(1, 320)
    held = memory.begin(long)
    while held.n < 320:
        held.grow(100)
        for seed in range(4):
            run(memory, numbers(seed, 320))
        held.look()


def test_scopes_that_hold_nothing_are_forgotten() -> None:
    memory = Memory((None, WINDOW), n_slots=1, n_ctx=64, chunk=64, spare=0)
    for seed in range(20):
        run(memory, numbers(seed, 60), str(seed))
    assert len(memory.prefixes._roots) <= 2


def test_first_pages() -> None:
    assert [first_page(p, None) for p in (0, 500)] == [0, 0]
    assert [first_page(p, 64) for p in (0, 63, 64, 94, 95, 96)] == [0, 0, 0, 0, 1, 1]

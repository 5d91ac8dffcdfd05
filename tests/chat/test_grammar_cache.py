"""What is kept is bounded, made once, and waited for by nobody else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier, Event

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stride.chat.grammar_cache import GrammarCache


@dataclass
class Thing:
    n_bytes: int


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 60))))
def test_what_was_asked_for_last_is_kept_within_the_bound(asked):
    cache = GrammarCache(100)
    kept: dict[int, Thing] = {}
    for key, n_bytes in asked:
        made = Thing(n_bytes)
        found = cache.get(key, lambda made=made: made)
        assert found is kept.get(key, made)
        kept[key] = kept.pop(key, made)
        while sum(thing.n_bytes for thing in kept.values()) > 100:
            del kept[next(iter(kept))]
        assert len(cache) == len(kept)
        assert cache.n_bytes == sum(thing.n_bytes for thing in kept.values()) <= 100


def test_what_is_larger_than_all_room_is_given_and_not_kept():
    cache = GrammarCache(100)
    assert cache.get("a", lambda: Thing(101)).n_bytes == 101
    assert (len(cache), cache.n_bytes) == (0, 0)


def test_it_is_made_once_for_all_who_ask_and_nobody_else_waits():
    cache, begun, may_end = GrammarCache(100), Event(), Event()

    def make() -> Thing:
        begun.set()
        assert may_end.wait(10)
        return Thing(1)

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(cache.get, "a", make)
        assert begun.wait(10)
        others = [pool.submit(cache.get, "a", lambda: Thing(2)) for _ in range(2)]
        assert cache.get("b", lambda: Thing(3)).n_bytes == 3
        may_end.set()
        assert {id(each.result()) for each in others} == {id(first.result())}


def test_an_error_is_told_to_all_and_not_kept():
    cache, both = GrammarCache(100), Barrier(2)

    def fail() -> Thing:
        raise ValueError("no")

    def ask() -> None:
        both.wait(10)
        cache.get("a", fail)

    with ThreadPoolExecutor(2) as pool:
        for each in [pool.submit(ask) for _ in range(2)]:
            with pytest.raises(ValueError, match="no"):
                each.result()
    assert cache.get("a", lambda: Thing(1)).n_bytes == 1

"""Equivalences: what counts as the wanted argument, and what does not."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stride.bench.graders.arguments import (
    assign,
    default,
    differences,
    each,
    names,
    place,
    record,
    same,
    text,
    value_of,
)

AUSTIN = place("Austin", others=["Paris"])
LINE = record({"article": same("A-1"), "quantity": same(2)})


@pytest.mark.parametrize(
    ("argument", "good", "bad"),
    [
        (same(21), [21, 21.0], [True, "21", 21.5, None, [21]]),
        (same(1), [1], [True, "1"]),
        (same(0.5), [0.5], [0.25, "0.5"]),
        (same(True), [True], [1, "true", False]),
        (same("heat"), ["heat"], ["HEAT", " heat", "", 3, None]),
        (text("Green  Eggs"), ["green eggs", "Green Eggs ", "GREEN\neggs"], ["eggs", "greeneggs", 3, None]),
        (text("Björn"), ["Bjorn", "björn"], ["Bjarn"]),
        (AUSTIN, ["Austin", "austin, TX", "Austin, Texas, USA", "the city of Austin"],
         ["Austintown", "Houston", "", 3, None, ["Austin"], "Austin and Paris"]),
        (place("Bogotá"), ["Bogota", "BOGOTÁ, Colombia"], ["Bogot"]),
        (value_of(12.675, 97.175), ["84.5*0.15", "84.50 * 1.15"], ["12.675", "84.5*0.16", 12.675, None, "84.5"]),
        (default(same(2)), [2], [3, None]),
        (LINE, [{"article": "A-1", "quantity": 2}, {"quantity": 2.0, "article": "A-1"}],
         [{}, {"article": "A-1"}, {"article": "A-1", "quantity": 3}, {"article": "A-1", "quantity": 2, "gift": True},
          [], "A-1", None]),
        (each(), [[]], [[1], None, {}]),
        (each(same(1), same(2)), [[1, 2], [2, 1]], [[1], [1, 1], [1, 2, 2], "12", {"1": 2}, None]),
    ],
)  # fmt: skip
def test_equivalences(argument, good, bad):
    assert [value for value in good if not argument.accepts(value)] == []
    assert [value for value in bad if argument.accepts(value)] == []


def test_a_list_takes_the_matching_that_works_where_a_greedy_one_fails():
    """The first item takes either value; only one of the two choices leaves the other item its own."""
    wide, narrow = place("Austin"), text("Austin, TX")
    for items in permutations([wide, narrow]):
        assert each(*items).accepts(["Austin", "Austin, TX"])
        assert each(*items).accepts(["Austin, TX", "Austin"])
        assert not each(*items).accepts(["Austin", "Austin"])


def test_differences_say_what_is_wrong():
    wanted = {"city": place("Oslo"), "nights": same(3), "guests": default(same(2))}
    assert differences({"city": "Oslo", "nights": 3}, wanted) == []
    assert differences({"city": "Oslo", "guests": 1, "pets": 0}, wanted) == [
        "nights is left out",
        "guests is 1, not 2 or nothing",
        "pets was not asked for",
    ]


def test_names_are_words_of_their_own():
    assert names("It is Au.", "au")
    assert not names("August", "Au")
    assert not names("18 legs", "8")


@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(st.integers(0, 9), min_size=n, max_size=n), max_size=4)))
def test_an_assignment_is_worth_most(worth):
    pairs = assign(worth)
    rows, columns = len(worth), len(worth[0]) if worth else 0
    assert len(pairs) == min(rows, columns)
    assert len({r for r, _ in pairs}) == len({c for _, c in pairs}) == len(pairs)
    if rows <= columns:
        options = [list(enumerate(chosen)) for chosen in permutations(range(columns), rows)]
    else:
        options = [[(r, c) for c, r in enumerate(chosen)] for chosen in permutations(range(rows), columns)]
    best = max((sum(worth[r][c] for r, c in option) for option in options), default=0)
    assert sum(worth[r][c] for r, c in pairs) == best

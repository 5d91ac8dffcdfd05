"""Draws follow from kind and seed alone, and seeds differ."""

from __future__ import annotations

from stride.bench.graders.arguments import fold
from stride.bench.suite.vocabulary import CITIES, PEOPLE, Draw


def test_draws_repeat():
    def drawn(kind: str, seed: int) -> list[object]:
        draw = Draw(kind, seed)
        return [draw.each(CITIES), draw.any(CITIES), draw.some(CITIES, 3), draw.number(1, 10**9), draw.code("A")]

    assert drawn("x", 1) == drawn("x", 1)
    assert drawn("x", 1)[3] not in (drawn("x", 2)[3], drawn("y", 1)[3])


def test_as_many_seeds_as_items_draw_all():
    assert {Draw("x", seed).each(CITIES) for seed in range(len(CITIES))} == set(CITIES)


def test_names_are_unlike_and_known_without_accents():
    for names in (CITIES, PEOPLE):
        assert len({fold(name) for name in names}) == len(names)
        assert all(fold(name).isascii() for name in names)
        assert not any(fold(a) in fold(b) for a in names for b in names if a != b)

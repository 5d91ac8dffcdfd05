"""Names and things that prompts are about, and how a seed draws them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

CITIES = (
    "Accra", "Auckland", "Bogotá", "Cairo", "Denver", "Hanoi", "Helsinki", "Kyoto", "Lima", "Lisbon", "Montevideo",
    "Nairobi", "Osaka", "Oslo", "Prague", "Reykjavík", "Tallinn", "Toronto", "Tunis", "Zürich",
)  # fmt: skip
PEOPLE = (
    "Amara Okafor", "Björn Lindqvist", "Carla Mendes", "Dmitri Volkov", "Elif Kaya", "Fatima Haddad", "Grace Kim",
    "Hiroshi Tanaka", "Ines Moreau", "Jonas Weber", "Priya Raman", "Samuel Adeyemi",
)  # fmt: skip
STREETS = ("Mill Lane", "Harbour Road", "Chestnut Street", "Station Road", "Garden Avenue", "Church Street")
LABELS = ("pasta", "laundry", "bread", "meditation", "tea", "green eggs", "sourdough", "parking")
ROOMS = ("living room", "bedroom", "kitchen", "bathroom")


class Draw:
    """Draws for one case. What it draws follows from kind and seed alone."""

    def __init__(self, kind: str, seed: int) -> None:
        self._kind = kind
        self._seed = seed
        self._random = random.Random(f"{kind}/{seed}")

    def each(self, items: Sequence[T]) -> T:
        """One of the items; neighbouring seeds draw different ones, and as many seeds as items draw all."""
        return random.Random(self._kind).sample(items, len(items))[self._seed % len(items)]

    def any(self, items: Sequence[T]) -> T:
        return self._random.choice(items)

    def some(self, items: Sequence[T], n: int) -> list[T]:
        """``n`` different ones in any order."""
        return self._random.sample(items, n)

    def number(self, low: int, high: int) -> int:
        """Both ends included."""
        return self._random.randint(low, high)

    def code(self, prefix: str) -> str:
        """An identifier that nobody can guess: "C-48213"."""
        return f"{prefix}-{self.number(10_000, 99_999)}"

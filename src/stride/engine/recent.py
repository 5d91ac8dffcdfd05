"""What something took lately, by its size."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from statistics import median_low

FORGOTTEN_AFTER = 256
"""Measurements of any size after which those of one size that came before are forgotten."""
_REMEMBERED = 5


class Recent:
    """Seconds by size: of each size the lower median of the last few, unless they are too old. What is larger takes no
    less: where it seems to, the smaller was slow by chance.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, deque[float]] = {}
        self._at: dict[int, int] = {}
        self._n = 0
        self._sizes: list[int] = []
        self._values: list[float] = []

    def add(self, size: int, seconds: float) -> None:
        """Note a measurement."""
        self._n += 1
        self._seconds.setdefault(size, deque(maxlen=_REMEMBERED)).append(seconds)
        self._at[size] = self._n
        for old in [size for size, at in self._at.items() if self._n - at > FORGOTTEN_AFTER]:
            del self._seconds[old], self._at[old]
        self._sizes = sorted(self._seconds)
        self._values = [median_low(self._seconds[size]) for size in self._sizes]
        for i in range(len(self._values) - 2, -1, -1):
            self._values[i] = min(self._values[i], self._values[i + 1])

    def __contains__(self, size: int) -> bool:
        return size in self._seconds

    def seconds(self, size: int, slope: float) -> float:
        """Seconds of a size: on the line between its neighbours; past the last of them, ``slope`` more for each."""
        sizes, values = self._sizes, self._values
        i = bisect_left(sizes, size)
        if i == len(sizes):
            return values[-1] + slope * (size - sizes[-1]) if sizes else slope * size
        if i == 0 or sizes[i] == size:
            return values[i]
        return values[i - 1] + (values[i] - values[i - 1]) * (size - sizes[i - 1]) / (sizes[i] - sizes[i - 1])

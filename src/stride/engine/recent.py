"""What something took lately, by its size."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque

FORGOTTEN_AFTER = 256
"""Measurements of any size after which those of one size that came before are forgotten."""
_REMEMBERED, _AT_FIRST, _CREDIBLE = 5, 3, 2
"""Of each size: measurements that are kept, that are made to begin with, and that are believed."""


class Recent:
    """Seconds by size: of each size the least of the last few, as what disturbs only adds, unless they are too old, or
    there is but one, as first times are slow. What is larger takes no less: where it seems to, the smaller was slow.
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
        self._sizes = sorted(size for size, found in self._seconds.items() if len(found) >= _CREDIBLE)
        self._values = [min(self._seconds[size]) for size in self._sizes]
        for i in range(len(self._values) - 2, -1, -1):
            self._values[i] = min(self._values[i], self._values[i + 1])

    def is_due(self, size: int, every: int) -> bool:
        """Whether a size that should be measured ``every`` so many measurements is to be measured now; at first, a few
        times."""
        return len(self._seconds.get(size, ())) < _AT_FIRST or self._n - self._at[size] >= every

    def seconds(self, size: int, slope: float) -> float:
        """Seconds of a size: on the line between its neighbours; past the last of them, ``slope`` more for each."""
        sizes, values = self._sizes, self._values
        i = bisect_left(sizes, size)
        if i == len(sizes):
            return values[-1] + slope * (size - sizes[-1]) if sizes else slope * size
        if i == 0 or sizes[i] == size:
            return values[i]
        return values[i - 1] + (values[i] - values[i - 1]) * (size - sizes[i - 1]) / (sizes[i] - sizes[i - 1])

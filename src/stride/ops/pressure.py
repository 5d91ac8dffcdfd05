"""Whether the machine is short of memory, while a cache of what lies on disk could do with less."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psutil

LOW_BYTES = 64 << 20
"""Less than this to be had, and memory is given back."""
CALM_BYTES = 512 << 20
"""More than this to be had, and some of what was given back is taken again."""
LOW_STALL, CALM_STALL = 0.05, 0.01
"""Shares of time in which every program waited for memory; the same for stalls."""
CALM_SECONDS = 10.0
"""How long there must have been no shortage before memory is taken again."""
SECONDS = 1.0
"""Between two looks."""
STALLS = Path("/proc/pressure/memory")


def available_bytes() -> int:
    """Memory that is free or can be freed."""
    return int(psutil.virtual_memory().available)


def stalled_seconds() -> float:
    """Time since the start of the machine in which every program waited for memory; 0 where the system does not say."""
    try:
        lines = STALLS.read_text().splitlines()
        full = next(line for line in lines if line.startswith("full"))
        return int(full.rpartition("total=")[2]) / 1e6
    except (OSError, StopIteration, ValueError):
        return 0.0


class Pressure:
    """Says now and then by how many bytes a cache should shrink or grow.

    Args:
        step: bytes that are given back or taken at a time, at least.
        available: bytes to be had.
        stalled: seconds lost so far.
    """

    def __init__(
        self,
        step: int,
        available: Callable[[], int] = available_bytes,
        stalled: Callable[[], float] = stalled_seconds,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._step = step
        self._available, self._stalled, self._clock = available, stalled, clock
        self._looked_at = self._short_at = clock()
        self._lost = stalled()

    def change(self) -> int:
        """Bytes to give back (below 0), or that may be taken if some were given back (above 0); 0 most of the time."""
        now = self._clock()
        if now - self._looked_at < SECONDS:
            return 0
        lost = self._stalled()
        stall = (lost - self._lost) / (now - self._looked_at)
        self._looked_at, self._lost = now, lost
        available = self._available()
        if available < LOW_BYTES or stall > LOW_STALL:
            self._short_at = now
            return min(-self._step, available - 2 * LOW_BYTES)
        if available > CALM_BYTES and stall < CALM_STALL and now - self._short_at > CALM_SECONDS:
            return min(self._step, available - CALM_BYTES)
        return 0

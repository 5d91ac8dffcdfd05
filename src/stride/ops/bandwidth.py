"""How fast this machine reads memory and multiplies integers: the limits of generation and of prompts, measured."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

N_BYTES = 256 << 20
"""More than any cache of a machine that one person owns."""
SECONDS = 0.3


def read_bandwidth() -> tuple[float, int]:
    """(bytes per second, threads), the best of some passes over a buffer; takes about half a second."""
    try:
        from stride import _cpu
        from stride.ops.cpu import default_threads
    except ImportError:  # the extension is not installed: numpy's sum is nearly as fast
        threads = os.cpu_count() or 1
        return _numpy_bandwidth(threads), threads
    threads = default_threads()
    return _cpu.read_bandwidth(N_BYTES, threads), threads


def _numpy_bandwidth(threads: int) -> float:
    pieces = np.array_split(np.ones(N_BYTES // 8, np.int64), 4 * threads)
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        end = time.perf_counter() + SECONDS
        while time.perf_counter() < end:
            start = time.perf_counter()
            sum(pool.map(np.sum, pieces))
            best = max(best, N_BYTES / (time.perf_counter() - start))
    return best


def integer_rate() -> float | None:
    """Multiply-adds of int8 per second that all threads do, at most; None where the extension is not installed."""
    try:
        from stride import _cpu
        from stride.ops.cpu import choose_isa, default_threads
    except ImportError:
        return None
    return _cpu.integer_peak(choose_isa(), default_threads())

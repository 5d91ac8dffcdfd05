"""How to read a model's file fast on this disk: past the system's cache or through it, in what pieces, by how many."""

from __future__ import annotations

import mmap
import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ALIGNMENT = 4096
"""Offsets, lengths and memory of reads past the cache are multiples of this."""
BLOCK_BYTES = (1 << 20, 2 << 20)
READERS = (4, 8)
SECONDS = 0.05
"""How long each way is tried."""
GAIN = 1.05
"""What a way must be faster than one before it in the list, which costs less memory and fewer threads."""


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """A way of reading, and how fast it was. ``direct``: past the system's cache."""

    direct: bool
    block_bytes: int
    n_readers: int
    bytes_per_second: float


def open_for_reading(path: Path, *, direct: bool) -> int:
    """A descriptor. With ``direct``, reads go past the system's cache.

    Raises:
        OSError: it cannot be opened, or not so.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC
    if direct and hasattr(os, "O_DIRECT"):
        return os.open(path, flags | os.O_DIRECT)
    file = os.open(path, flags)
    if direct:
        try:
            _without_cache(file)
        except OSError:
            os.close(file)
            raise
    return file


def _without_cache(file: int) -> None:
    """As `O_DIRECT`, for systems that say it otherwise. OSError: they do not say it at all."""
    import fcntl

    command = getattr(fcntl, "F_NOCACHE", None)
    if command is None:
        raise OSError("this system has no way to read past its cache")
    fcntl.fcntl(file, command, 1)


def probe(path: Path, first: int, n_bytes: int) -> DiskPlan:
    """The fastest way to read pieces of ``n_bytes`` of a file from byte ``first`` on; takes a quarter of a second.

    Past the cache where the system does that: what the cache held of a file that is larger than memory would be
    memory that experts need.

    Raises:
        OSError: the file cannot be read.
    """
    for direct in (True, False):
        try:
            file = open_for_reading(path, direct=direct)
        except OSError:
            if direct:
                continue
            raise
        try:
            return _fastest(file, direct, first, n_bytes)
        except OSError:
            if not direct:
                raise
        finally:
            os.close(file)
    raise AssertionError("one of both ways gives a plan or an error")


def _fastest(file: int, direct: bool, first: int, n_bytes: int) -> DiskPlan:
    best: DiskPlan | None = None
    for n_readers in READERS:
        for block_bytes in BLOCK_BYTES:
            rate = _rate(file, first, n_bytes, block_bytes, n_readers)
            if best is None or rate > best.bytes_per_second * GAIN:
                best = DiskPlan(direct, block_bytes, n_readers, rate)
    assert best is not None
    return best


def _rate(file: int, first: int, n_bytes: int, block_bytes: int, n_readers: int) -> float:
    """Bytes per second at places drawn by chance, aligned."""
    places = _places(first, n_bytes, block_bytes)
    lock = threading.Lock()
    start = time.perf_counter()

    def read(_: int) -> int:
        done = 0
        with mmap.mmap(-1, block_bytes) as memory:  # begins with a page
            view = memoryview(memory)
            try:
                while time.perf_counter() - start < SECONDS:
                    with lock:
                        place = next(places)
                    if not direct_read(file, view, place):
                        break
                    done += block_bytes
            finally:
                view.release()
        return done

    with ThreadPoolExecutor(n_readers) as pool:
        done = sum(pool.map(read, range(n_readers)))
    return max(done, 1) / (time.perf_counter() - start)


def direct_read(file: int, memory: memoryview, place: int) -> bool:
    """Fill memory from a place in the file; False: the file ended first."""
    return os.preadv(file, [memory], place) == len(memory)


def _places(first: int, n_bytes: int, block_bytes: int) -> Iterator[int]:
    draw = random.Random(0)
    first_block, last = -(-first // ALIGNMENT), max(first, first + n_bytes - block_bytes) // ALIGNMENT
    while True:
        yield draw.randint(first_block, max(first_block, last)) * ALIGNMENT

"""What a machine can do at most, in two seconds: read memory, multiply integers, read its disk."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stride.errors import StrideError
from stride.ops import disk
from stride.ops.bandwidth import integer_rate, read_bandwidth

SCRATCH_BYTES = 256 << 20
"""Of the file that is read where there is none yet."""
LEAST_FILE = 64 << 20
"""A shorter file says little of its disk, so that another is written for the purpose."""
REPEATS = 3
"""Of memory and disk, whose rates change from one moment to the next; the median is taken."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Rates per second, measured.

    Attributes:
        bandwidth: bytes of memory, read by all threads.
        products: multiply-adds of int8; None where the C++ extension is not installed.
        disk: bytes of a disk, read in pieces of a few MiB from anywhere.
        disk_is_direct: past the system's cache, so that it can only be the disk that answered.
        threads: what computes.
    """

    bandwidth: float
    products: float | None
    disk: float
    disk_is_direct: bool
    threads: int


def measure(place: Path) -> Machine:
    """Measure; ``place`` is a file on the disk in question, or a folder, in which one is written and removed.

    Raises:
        StrideError: the disk can be neither read nor written.
    """
    memory, disks = [], []
    try:
        with _something_to_read(place) as path:
            for _ in range(REPEATS):
                bandwidth, threads = read_bandwidth()
                memory.append(bandwidth)
                disks.append(disk.probe(path, 0, path.stat().st_size))
    except OSError as error:
        raise StrideError(f"the disk of {place} cannot be measured: {error.strerror or error}") from error
    rate = statistics.median(found.bytes_per_second for found in disks)
    is_direct = all(found.direct for found in disks)
    return Machine(statistics.median(memory), integer_rate(), rate, is_direct, threads)


@contextmanager
def _something_to_read(place: Path) -> Iterator[Path]:
    """The file itself where it is long enough, or a file of random bytes beside it, all of them on the disk."""
    if place.is_file() and place.stat().st_size >= LEAST_FILE:
        yield place
        return
    folder = place.parent if place.is_file() else place
    while not folder.exists():  # a cache that nothing was pulled into yet
        folder = folder.parent
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".stride-probe-") as file:
        for _ in range(0, SCRATCH_BYTES, 1 << 20):
            file.write(os.urandom(1 << 20))
        file.flush()
        os.fsync(file.fileno())
        yield Path(file.name)

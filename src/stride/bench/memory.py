"""Memory of a server's processes, sampled while it works."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import psutil

INTERVAL = 0.25
"""Seconds between samples of resident memory: one small read of the kernel's counters each."""
MAX_POINTS = 240


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a process and its children. PSS (Linux only) counts shared pages in part; USS leaves them out.

    ``ready_rss`` is from before the first request; the others are the largest that were seen. ``series`` is seconds
    and resident bytes, thinned to at most `MAX_POINTS`. ``cpu_percent`` is per core: 200 is two busy cores.
    """

    pid: int
    command: str
    ready_rss: int
    peak_rss: int
    peak_pss: int | None
    peak_uss: int | None
    cpu_percent: float
    system_bytes: int
    series: tuple[tuple[float, int], ...]

    @property
    def footprint(self) -> int:
        """The fairest single number there is: PSS, or resident memory where the system has no PSS."""
        return self.peak_pss or self.peak_rss

    @property
    def ps(self) -> str:
        """What ``ps aux`` would show at the peak."""
        share = 100 * self.peak_rss / self.system_bytes
        return f"PID: {self.pid}  CPU: {self.cpu_percent:.1f}%  MEM: {share:.1f}%  RSS: {self.peak_rss / 1e9:.2f}GB"


@dataclass(slots=True)
class MemorySampler:
    """Samples resident memory in a thread; `read_shared` adds what is too slow to read while a request is timed."""

    process: psutil.Process
    _series: list[tuple[float, int]] = field(default_factory=list)
    _pss: int = 0
    _uss: int = 0
    _cpu_percent: float = 0.0
    _tree: list[psutil.Process] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _started: float = 0.0

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        self._refresh()
        self._sample()
        self._thread = threading.Thread(target=self._loop, name="memory", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def read_shared(self) -> None:
        """Read PSS and USS, and look for new children. The kernel walks page tables for it, so not during a run."""
        self._refresh()
        pss = uss = 0
        for process in self._tree:
            try:
                full = process.memory_full_info()
            except psutil.Error:
                continue
            pss += getattr(full, "pss", 0)
            uss += getattr(full, "uss", 0)
        self._pss, self._uss = max(self._pss, pss), max(self._uss, uss)

    def result(self) -> Memory | None:
        """What was seen so far; None if the process was gone before the first sample."""
        if not self._series:
            return None
        step = -(-len(self._series) // MAX_POINTS)
        return Memory(
            pid=self.process.pid,
            command=self.process.name() if self.process.is_running() else "",
            ready_rss=self._series[0][1],
            peak_rss=max(rss for _, rss in self._series),
            peak_pss=self._pss or None,
            peak_uss=self._uss or None,
            cpu_percent=self._cpu_percent,
            system_bytes=psutil.virtual_memory().total,
            series=tuple(self._series[::step]),
        )

    def _loop(self) -> None:
        while not self._stop.wait(INTERVAL):
            self._sample()

    def _refresh(self) -> None:
        try:
            self._tree = [self.process, *self.process.children(recursive=True)]
        except psutil.Error:
            self._tree = []

    def _sample(self) -> None:
        resident = 0
        for process in self._tree:
            try:
                resident += process.memory_info().rss
            except psutil.Error:
                continue
        if not resident:
            return
        self._series.append((time.perf_counter() - self._started, resident))
        try:
            self._cpu_percent = max(self._cpu_percent, self.process.cpu_percent())
        except psutil.Error:
            return


def listener(port: int) -> psutil.Process | None:
    """The process that listens on a TCP port of this machine, where the system lets us see it."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return psutil.Process(connection.pid)
    except psutil.Error:
        return None
    return None

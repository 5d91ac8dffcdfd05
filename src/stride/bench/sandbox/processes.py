"""The processes of a sandbox as the machine sees them: found, measured and ended without asking them."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from stride.bench.sandbox.limits import SandboxError

DEADLINE = 10.0
"""Seconds for killed processes to be gone: longer only where the kernel itself waits for a device."""


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    parent: int
    session: int
    started: float
    """With ``pid``, tells it apart from a later process of the same number."""
    threads: int
    resident_bytes: int


@dataclass(frozen=True, slots=True)
class Group:
    """How all processes of a sandbox are found.

    ``leader``, from the process that was started: the first that belongs to it.
    ``members``, from the leader: all that have not ended.
    ``heir``, from the leader: the one to ask to end, which is the command or passes it on.
    """

    leader: Callable[[int], Process | None]
    members: Callable[[Process], list[Process]]
    heir: Callable[[Process], Process | None]


def end(leader: Process, members: Callable[[Process], list[Process]]) -> None:
    """Kill all ``members`` and wait until they are gone."""
    deadline = time.monotonic() + DEADLINE
    while found := members(leader):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader.pid, signal.SIGKILL)  # all at once, where they are a group: no fork gets in between
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise SandboxError(f"processes that cannot be killed: {', '.join(str(each.pid) for each in found)}")
        time.sleep(0.002)


def memory_bytes(processes: Iterable[Process], enough: int) -> int:
    """Resident memory of all; beyond ``enough``, and where the system can tell, shared pages are counted once."""
    processes = list(processes)
    resident = sum(process.resident_bytes for process in processes)
    if resident <= enough or sys.platform != "linux":
        return resident
    return sum(_proportional_bytes(process) for process in processes)


def threads_of_user() -> int:
    """All processes and threads of the user who asks, which is what the kernel's limit on them counts."""
    count = 0
    for process in psutil.process_iter(["uids", "num_threads"]):
        if process.info["uids"] and process.info["uids"].real == os.getuid():
            count += process.info["num_threads"] or 1
    return count


def find(pid: int) -> Process | None:
    return next((process for process in _scan() if process.pid == pid), None)


def child(parent: int) -> Process | None:
    return next((process for process in _scan() if process.parent == parent), None)


def descendants(leader: Process) -> list[Process]:
    """All that came from ``leader``, itself included."""
    children: dict[int, list[Process]] = {}
    found = []
    for process in _scan():
        children.setdefault(process.parent, []).append(process)
        if (process.pid, process.started) == (leader.pid, leader.started):
            found.append(process)
    for process in found:
        found += children.get(process.pid, [])
    return found


def session(leader: Process) -> list[Process]:
    """All of the session that ``leader`` began."""
    found = [process for process in _scan() if process.session == leader.pid]
    reused = any(process.pid == leader.pid and process.started != leader.started for process in found)
    return [] if reused else found


NAMESPACE = Group(leader=child, members=descendants, heir=lambda leader: child(leader.pid))
"""A process namespace, whose first is a child of what was started, and which nobody gets away from."""
SESSION = Group(leader=lambda pid: child(pid) or find(pid), members=session, heir=lambda leader: leader)
"""A session where nobody may begin another one; on Linux its first is a child of what was started, too."""


def _scan() -> list[Process]:
    """Every process that has not ended."""
    if sys.platform != "linux":
        return _scan_anywhere()
    return [process for name in os.listdir("/proc") if name.isdigit() and (process := _read(int(name)))]


def _read(pid: int) -> Process | None:
    """None once it has ended. See proc_pid_stat(5)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The program's name, which may hold anything, is in parentheses.
            state, parent, _, session, *rest = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    if state in (b"Z", b"X"):
        return None
    return Process(pid, int(parent), int(session), int(rest[15]), int(rest[13]), int(rest[17]) * _PAGE)


_PAGE = os.sysconf("SC_PAGE_SIZE")


def _scan_anywhere() -> list[Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError), process.oneshot():
            if process.status() != psutil.STATUS_ZOMBIE:
                parent, leader = process.ppid(), os.getsid(process.pid)
                try:
                    threads, resident = process.num_threads(), process.memory_info().rss
                except psutil.AccessDenied:  # other users' processes
                    threads, resident = 1, 0
                found.append(Process(process.pid, parent, leader, process.create_time(), threads, resident))
    return found


def _proportional_bytes(process: Process) -> int:
    try:
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_bytes().splitlines()
    except OSError:  # it is just ending, or may not be looked into
        now = _read(process.pid)
        return now.resident_bytes if now else 0
    sizes = (line.split() for line in lines)
    return sum(int(size[1]) for size in sizes if size[0] in (b"Pss:", b"SwapPss:")) * 1024

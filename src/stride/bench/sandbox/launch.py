"""What all sandboxes start alike: ``inside.py`` with its settings, and the list of what may be read."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Literal

from stride.bench.sandbox import inside
from stride.bench.sandbox.limits import Task

PROGRAMS = (
    *("/bin", "/lib", "/lib32", "/lib64", "/usr/bin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/nix/store"),
    *("/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo"),
)
"""What of a system is programs and libraries, where it exists."""
DEVICES = tuple(Path("/dev", name) for name in ("null", "full", "random", "urandom"))
"""Not ``zero``: mapped, it is memory that no process holds."""
PYTHON = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
SPARE = 16
"""Processes that the kernel allows beyond the limit, so that whoever watches sees it broken."""
MEMORY_OF_ONE = 4
"""Times the limit that a single process may ask for, so that one gone wild is stopped between two looks."""
FIRST_STRANGER = 2_000_000_000


def readable(task: Task) -> list[Path]:
    """Programs and libraries, Stride's Python, and what the task names; the outer before the inner."""
    paths = {Path(name) for name in PROGRAMS} | {Path(sys.base_prefix).resolve(), Path(inside.__file__)}
    return sorted(path for path in paths | set(task.readable) if os.path.lexists(path))


def stranger() -> int:
    """A user number that nobody has, for what this process runs."""
    return FIRST_STRANGER + os.getpid()


def command_line(
    task: Task,
    control: int,
    *,
    system_calls: Literal["namespaces", "shared"] | None,
    uid: int | None = None,
    threads_already: int | None = None,
    files: bool = False,
) -> list[str]:
    """``inside.py`` for ``task``: a filter of system calls, another user, Landlock for files.

    ``threads_already`` is how many the user who runs it has; None leaves the kernel's limit on processes out.
    """
    limits = task.limits
    resources = {
        "CORE": 1,  # 0 would still start the system's crash handler; 1 does not (see core(5))
        "NOFILE": 256,
        "FSIZE": limits.disk_bytes,
        "DATA": MEMORY_OF_ONE * limits.memory_bytes,
        "CPU": (int(limits.seconds) + 2) * (os.cpu_count() or 1),  # of each, should nobody be left who watches
    }
    if threads_already is not None:
        resources["NPROC"] = threads_already + limits.processes + SPARE
    settings = inside.Settings(
        control_fd=control,
        uid=uid,
        resources=resources,
        readable=[os.fspath(path) for path in readable(task)] if files else None,
        writable=[os.fspath(path) for path in (task.folder, *DEVICES)],
        supervised=system_calls != "namespaces",
        system_calls=system_calls,
    )
    return [os.fspath(PYTHON), "-I", "-S", inside.__file__, json.dumps(settings), *task.command]

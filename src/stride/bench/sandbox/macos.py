"""macOS: Seatbelt, by ``sandbox-exec``. Written from its documentation and profiles; not tried on a Mac yet.

No process may be started there: what has left its group could not be found again, as macOS has no namespaces.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from stride.bench.sandbox import launch, processes
from stride.bench.sandbox.limits import SandboxError, Task
from stride.bench.sandbox.sandbox import Sandbox

SYSTEM = (
    *("/System", "/usr/lib", "/usr/share", "/usr/bin", "/bin", "/Library/Apple", "/Library/Frameworks"),
    *("/private/var/db/dyld", "/private/var/db/timezone", "/private/etc/localtime", "/opt/homebrew", "/usr/local"),
)
DEVICES = ("/dev/null", "/dev/random", "/dev/urandom")


def _command_line(task: Task, control: int) -> list[str]:
    program = shutil.which("sandbox-exec")
    if program is None:
        raise SandboxError("not installed (part of macOS)")
    inner = launch.command_line(task, control, system_calls=None)
    return [program, "-p", profile(task.folder, launch.readable(task)), *inner]


def profile(folder: Path, readable: Iterable[Path]) -> str:
    """A Seatbelt profile (SBPL). Unix sockets are files there, and so they are served in ``folder`` only."""
    reads = " ".join(f"(subpath {_quoted(path)})" for path in (*map(Path, SYSTEM), *readable, folder))
    devices = " ".join(f"(literal {_quoted(Path(name))})" for name in DEVICES)
    writes = f"(subpath {_quoted(folder)})"
    return "\n".join(
        (
            "(version 1)",
            "(deny default)",
            "(deny process-fork)",
            "(allow process-exec)",
            "(allow signal (target self))",
            "(allow sysctl-read)",
            "(allow file-read-metadata)",
            f'(allow file-read* (literal "/") {reads} {devices})',
            f"(allow file-write* {writes} {devices})",
            "(allow system-socket (socket-domain AF_UNIX))",
            f"(allow network-bind (local unix-socket {writes}))",
            f"(allow network-inbound (local unix-socket {writes}))",
        )
    )


def _quoted(path: Path) -> str:
    text = os.fspath(path)
    if '"' in text or "\\" in text:
        raise SandboxError(f"a path that a Seatbelt profile cannot name: {text!r}")
    return f'"{text}"'


seatbelt = Sandbox(
    name="sandbox-exec",
    protections=(
        "network: none; sockets in the task's folder can be connected to, none to others (Seatbelt)",
        "files: only the task's folder can be written, only programs and libraries read (Seatbelt)",
        "processes: one only, no others can be started or signalled",
        "memory, disk, number of files: measured fifty times a second",
        "output, time: cut off from outside",
    ),
    command_line=_command_line,
    group=processes.SESSION,
)

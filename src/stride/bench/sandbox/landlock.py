"""Landlock and seccomp: for machines where no namespaces can be made, as in most containers. Needs Linux 6.2.

Processes stay among the machine's own, so that more is left to the filter of system calls, and to looking.
"""

from __future__ import annotations

import os
import sys

from stride.bench.sandbox import launch, processes
from stride.bench.sandbox.limits import SandboxError, Task
from stride.bench.sandbox.sandbox import Sandbox


def _command_line(task: Task, control: int) -> list[str]:
    if sys.platform != "linux":
        raise SandboxError("for Linux only")
    already = None if os.geteuid() == 0 else processes.threads_of_user()
    return launch.command_line(task, control, system_calls="shared", threads_already=already, files=True)


landlock = Sandbox(
    name="Landlock and seccomp",
    protections=(
        "network: no sockets but to be connected to by path; none can be connected to (seccomp)",
        "files: only the task's folder can be written, only programs and libraries read (Landlock); names, sizes and "
        "dates of other files can be seen by who knows where they are",
        "processes: no signals to others (seccomp), counted fifty times a second, none can leave its group, which is "
        "ended at once",
        "memory, disk, number of files: all processes together, measured fifty times a second; each one by the kernel",
        "output, time: cut off from outside",
        "kernel: seccomp filter, no privileges, no environment",
    ),
    command_line=_command_line,
    group=processes.SESSION,
)

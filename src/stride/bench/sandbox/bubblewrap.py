"""Bubblewrap: a view of the machine of its own, in which only the task's folder, programs and libraries exist."""

from __future__ import annotations

import os
import shutil

from stride.bench.sandbox import launch, processes
from stride.bench.sandbox.folder import hand_over
from stride.bench.sandbox.limits import SandboxError, Task
from stride.bench.sandbox.sandbox import Sandbox


def _command_line(task: Task, control: int) -> list[str]:
    program = shutil.which("bwrap")
    if program is None:
        raise SandboxError("not installed (apt, dnf, pacman: bubblewrap)")
    namespaces = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    uid = None
    if os.geteuid() == 0:
        # Root makes namespaces without one of users. What runs inside is a user whom nobody else is, because the
        # kernel counts no processes of root's.
        uid = launch.stranger()
        hand_over(task.folder, uid)
        namespaces += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        namespaces += ["--unshare-user"]
    files: list[str] = []
    readable = launch.readable(task)
    # Whatever leads to them, too: bubblewrap makes such folders its own user's.
    for path in sorted({parent for each in (*readable, task.folder) for parent in each.parents if parent.name}):
        files += ["--dir", os.fspath(path)]
    for path in readable:
        if path.is_symlink():
            files += ["--symlink", os.readlink(path), os.fspath(path)]
        else:
            files += ["--ro-bind", os.fspath(path), os.fspath(path)]
    for path in launch.DEVICES:
        files += ["--dev-bind", os.fspath(path), os.fspath(path)]
    folder = os.fspath(task.folder)
    files += ["--proc", "/proc", "--bind", folder, folder, "--chdir", folder, "--remount-ro", "/"]
    inner = launch.command_line(task, control, system_calls="namespaces", uid=uid, threads_already=0)
    return [program, *namespaces, "--die-with-parent", "--new-session", *files, "--", *inner]


bubblewrap = Sandbox(
    name="bubblewrap",
    protections=(
        "network: none, not even the machine's own (a network namespace; seccomp refuses to connect anywhere)",
        "files: only programs and libraries exist, read-only, besides the task's folder (a mount namespace)",
        "processes: a process namespace, counted by the kernel, ended all at once",
        "memory, disk, number of files: all processes together, measured fifty times a second; each one by the kernel",
        "output, time: cut off from outside",
        "kernel: seccomp filter, no privileges, no environment",
    ),
    command_line=_command_line,
    group=processes.NAMESPACE,
)

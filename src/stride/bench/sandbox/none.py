"""No sandbox, for who said that the code may do as it likes. Limits still end what merely goes wrong."""

from __future__ import annotations

from stride.bench.sandbox import launch, processes
from stride.bench.sandbox.limits import Task
from stride.bench.sandbox.sandbox import Sandbox


def _command_line(task: Task, control: int) -> list[str]:
    return launch.command_line(task, control, system_calls=None)


none = Sandbox(
    name="none",
    protections=(
        "network, files, other processes: NOT PROTECTED, the code ran with all that its user may do",
        "memory, processes, disk, output, time: measured from outside, for code that does not try to get away",
    ),
    command_line=_command_line,
    group=processes.SESSION,
)

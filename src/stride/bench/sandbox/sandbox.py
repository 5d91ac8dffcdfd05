"""What every sandbox can do. They differ in how a command is started, and in how its processes are found."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stride.bench.sandbox.limits import Ended, Limits, SandboxError, Task
from stride.bench.sandbox.processes import Group
from stride.bench.sandbox.running import CommandLine, Running

NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Sandbox:
    """``protections`` says, for the report, what is kept from what and how."""

    name: str
    protections: tuple[str, ...]
    command_line: CommandLine
    group: Group

    def run(
        self,
        command: Sequence[str],
        folder: Path,
        limits: Limits | None = None,
        readable: Sequence[Path] = (),
        environment: Mapping[str, str] = NOTHING,
    ) -> Ended:
        """Run ``command`` in ``folder``, the only place it may write to, until it ends or breaks a limit.

        ``readable`` is what it may read besides programs, libraries and Stride's own Python. Of the environment it
        gets ``environment``. Whatever it started has ended when this returns.

        :raises SandboxError: the sandbox does not start, or something else that the command did not do.
        """
        with self.start(command, folder, limits, readable, environment) as running:
            return running.wait()

    @contextlib.contextmanager
    def start(
        self,
        command: Sequence[str],
        folder: Path,
        limits: Limits | None = None,
        readable: Sequence[Path] = (),
        environment: Mapping[str, str] = NOTHING,
    ) -> Iterator[Running]:
        """As `run`, while the caller talks to it (`Running.address`). With the context ends all that it started.

        The command ends with the thread that started it.
        """
        if not command:
            raise SandboxError("no command")
        task = Task(
            command=tuple(command),
            folder=folder.resolve(strict=True),
            limits=limits or Limits(),
            readable=tuple(path.resolve(strict=True) for path in readable),
            environment=environment,
        )
        running = Running(task, self.command_line, self.group)
        try:
            yield running
        finally:
            running.end()

"""A command in its sandbox: started, watched from outside, ended with all that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from stride.bench.sandbox import folder as folders
from stride.bench.sandbox import processes
from stride.bench.sandbox.inside import READY
from stride.bench.sandbox.limits import Ended, Limit, NotServingError, SandboxError, Task

INTERVAL = 0.02
"""Seconds between looks at what the processes use."""
REST = 9
"""Times as long as a look takes the processor, until the next one: watching many processes must not slow them down."""
STARTING = 20.0
"""Seconds that the sandbox itself may take to start."""
GRACE = 2.0
"""Seconds that a server has between SIGTERM and its end."""

CommandLine = Callable[[Task, int], list[str]]
"""What to start for a task, given the descriptor that ``inside.py`` reports on."""


class Running:
    """A started command. A thread watches it; a broken limit, its own end or `end` leave nothing of it."""

    def __init__(self, task: Task, command_line: CommandLine, group: processes.Group) -> None:
        self._task, self._group = task, group
        self._output = bytearray()
        self._flooded = self._stopping = False
        self._wake = threading.Event()
        self._pinned: list[int] = []
        self._result: Ended | SandboxError | None = None
        self._free_before = folders.free_bytes(task.folder)
        control, inner = socket.socketpair()
        with control:
            with inner:
                self._process = subprocess.Popen(
                    command_line(task, inner.fileno()),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    cwd=task.folder,
                    env=_environment(task),
                    pass_fds=[inner.fileno()],
                    start_new_session=True,
                )
            self._leader = self._wait_until_ready(control)
            self._started = time.monotonic()
            control.sendall(READY)
        self._reader = threading.Thread(target=self._read, name="sandbox output", daemon=True)
        self._watcher = threading.Thread(target=self._watch, name="sandbox watch", daemon=True)
        self._reader.start()
        self._watcher.start()

    @property
    def ended(self) -> Ended | None:
        """Set when nothing of it is left."""
        return self._result if isinstance(self._result, Ended) else None

    @property
    def output(self) -> str:
        """What it has written until now."""
        return self._output.decode(errors="replace")

    def address(self, name: str, seconds: float = 10.0) -> str:
        """Wait until something listens on the Unix socket ``name`` in the folder; a path to it, good until the end.

        The path leads to that very socket, whatever the code may put in its place later.

        :raises NotServingError: the command has ended, nothing listens in time, or ``name`` is no socket.
        """
        if "/" in name:
            raise SandboxError(f"a socket's name has one part: {name!r}")
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError, BlockingIOError):
                return self._pin(self._task.folder / name)
            if self.ended is not None:
                raise NotServingError(
                    f"it ended before it listened: {self.ended.reason or f'status {self.ended.status}'}"
                )
            if time.monotonic() > deadline:
                raise NotServingError(f"nothing listens on {name} after {seconds:g} s")
            time.sleep(0.01)

    def wait(self) -> Ended:
        """Wait until it has ended, by itself or by a limit."""
        self._watcher.join()
        if isinstance(self._result, Ended):
            return self._result
        raise self._result or SandboxError("the sandbox was not watched to its end")

    def end(self) -> Ended:
        """SIGTERM to the command, and SIGKILL to all `GRACE` seconds later. Harmless where it has ended."""
        self._stopping = True
        self._wake.set()
        try:
            return self.wait()
        finally:
            while self._pinned:
                os.close(self._pinned.pop())

    # --- start ---

    def _wait_until_ready(self, control: socket.socket) -> processes.Process:
        control.settimeout(STARTING)
        ready = b""
        with contextlib.suppress(TimeoutError):
            ready = control.recv(len(READY))
        if ready == READY and (leader := self._group.leader(self._process.pid)):
            return leader
        self._process.kill()
        said = self._process.communicate(timeout=STARTING)[0].decode(errors="replace").strip()
        raise SandboxError(f"the sandbox does not start: {said[-500:] or 'it says nothing'}")

    def _pin(self, path: Path) -> str:
        where = os.fspath(path)
        if sys.platform == "linux":
            pinned = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            self._pinned.append(pinned)
            mode, where = os.fstat(pinned).st_mode, f"/proc/self/fd/{pinned}"
        else:
            mode = os.lstat(path).st_mode
        if not stat.S_ISSOCK(mode):
            raise NotServingError(f"{path.name} is not a socket")
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.setblocking(False)
                probe.connect(where)
        except OSError:
            if sys.platform == "linux":
                os.close(self._pinned.pop())
            raise
        return where

    # --- the two threads ---

    def _read(self) -> None:
        most = self._task.limits.output_bytes
        pipe = self._process.stdout
        assert pipe is not None
        with pipe:
            while chunk := os.read(pipe.fileno(), 1 << 16):
                self._output += chunk[: most - len(self._output)]
                if len(self._output) >= most:  # the writer waits from now on, until it is ended
                    self._flooded = True
                    self._wake.set()
                    return

    def _watch(self) -> None:
        try:
            limit = self._until_over()
            seconds = time.monotonic() - self._started
            killed = not self._has_ended()
            processes.end(self._leader, self._group.members)
            status = self._process.wait(STARTING)
            self._reader.join()
            limit = limit or ("output" if self._flooded else None) or self._broken_files([])
            self._result = Ended(
                status=None if killed else status if status >= 0 else 128 - status,
                output=self.output,
                seconds=seconds,
                limit=limit,
                reason=self._task.limits.broken(limit) if limit else "",
            )
        except SandboxError as error:
            self._result = error
        except Exception as error:  # whatever happens here, nobody must wait in vain
            self._result = SandboxError(f"the sandbox could not be watched: {error!r}")

    def _until_over(self) -> Limit | None:
        deadline = self._started + self._task.limits.seconds
        asked = False
        while not self._has_ended():
            began = time.thread_time()
            if limit := self._broken():
                return limit
            if self._stopping and not asked:
                asked = True
                deadline = min(deadline, time.monotonic() + GRACE)
                self._terminate()
            if time.monotonic() > deadline:
                return None if asked else "time"
            self._wake.wait(max(INTERVAL, REST * (time.thread_time() - began)))
            self._wake.clear()
        return None

    def _broken(self) -> Limit | None:
        limits = self._task.limits
        if self._flooded:
            return "output"
        members = self._group.members(self._leader)
        if sum(process.threads for process in members) > limits.processes:
            return "processes"
        if self._uses_too_much(members) and self._uses_too_much(self._group.members(self._leader)):
            return "memory"  # twice: of those who end during a look, the others' shares count more than once
        return self._broken_files(members)

    def _uses_too_much(self, members: list[processes.Process]) -> bool:
        most = self._task.limits.memory_bytes
        return processes.memory_bytes(members, most) > most

    def _broken_files(self, members: list[processes.Process]) -> Limit | None:
        return folders.broken(self._task.folder, self._task.limits, members, self._free_before)

    def _has_ended(self) -> bool:
        if sys.platform != "linux":
            return self._process.poll() is not None
        # Without taking leave of it: its number stays its own until all that belongs to it has ended.
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None

    def _terminate(self) -> None:
        if command := self._group.heir(self._leader):
            with contextlib.suppress(ProcessLookupError):
                os.kill(command.pid, signal.SIGTERM)


def _environment(task: Task) -> dict[str, str]:
    """All that the command hears of this machine's environment: nothing."""
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": os.fspath(task.folder),
        "TMPDIR": os.fspath(task.folder),
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        **task.environment,
    }

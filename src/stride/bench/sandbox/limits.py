"""What a command may use, what it may see, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from stride.errors import StrideError

Limit = Literal["memory", "processes", "output", "disk", "files", "time"]
MIB = 1 << 20


class SandboxError(StrideError):
    """There is no sandbox, or it did not do what it has to. Never the fault of the code inside."""


class FilesError(StrideError):
    """Files that cannot be written as they are named: names that lead out, or that cannot both be."""


class NotServingError(StrideError):
    """The code inside does not listen where it should."""


@dataclass(frozen=True, slots=True)
class Limits:
    """For all processes of a command together. The defaults are ample for a small web application."""

    memory_bytes: int = 512 * MIB
    processes: int = 64
    """Threads count as processes do, as the kernel counts them."""
    output_bytes: int = MIB
    disk_bytes: int = 64 * MIB
    disk_files: int = 1000
    seconds: float = 30.0

    def broken(self, limit: Limit) -> str:
        """In a sentence's words, what it means to have broken ``limit``."""
        return {
            "memory": f"more than {_size(self.memory_bytes)} of memory",
            "processes": f"more than {self.processes} processes and threads",
            "output": f"more than {_size(self.output_bytes)} of output",
            "disk": f"more than {_size(self.disk_bytes)} of files",
            "files": f"more than {self.disk_files} files, or some that cannot be looked at",
            "time": f"more than {self.seconds:g} s",
        }[limit]


@dataclass(frozen=True, slots=True)
class Task:
    """A command, the one folder it may write to (where it starts), and what it may read besides the system's own
    programs and libraries and Stride's Python. Paths are the same inside and outside, absolute and without links."""

    command: tuple[str, ...]
    folder: Path
    limits: Limits
    readable: tuple[Path, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended.

    ``status`` is what it said of itself (128 + n for signal n; None if it was stopped), which proves nothing: code can
    leave with 0 whenever it likes. ``limit`` and ``reason`` are what was seen from outside.
    """

    status: int | None
    output: str
    seconds: float
    limit: Limit | None = None
    reason: str = ""


def _size(count: int) -> str:
    return f"{count:,} bytes" if count % MIB else f"{count // MIB:,} MiB"

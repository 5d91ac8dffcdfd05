"""One open file: bounded reads that cannot crash, and a lazy, shared, read-only memory map. `Source` is what a model's
file is to its reader, wherever it lies."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Protocol

import numpy as np

from stride.errors import ModelFileError
from stride.gguf.arrays import Bytes


class Source(Protocol):
    """A file to read from, of a known size. ``path`` names it in errors."""

    @property
    def path(self) -> Path: ...

    @property
    def size(self) -> int: ...

    def close(self) -> None: ...

    def ahead(self, have: int, end: int) -> int:
        """Up to where to read, when the first ``have`` bytes are here and the first ``end`` are wanted."""

    def read(self, offset: int, n_bytes: int, tensor: str | None = None) -> Bytes:
        """A copy of some bytes: uint8 [n_bytes]."""

    def view(self, offset: int, n_bytes: int, tensor: str | None = None) -> Bytes:
        """Some bytes, read-only: uint8 [n_bytes]."""


class SourceFile:
    """A regular file, held open by descriptor. ``size`` is what it was when it was opened.

    Raises:
        ModelFileError: the path cannot be opened, or is no regular file (a folder, FIFO or device is never read).
    """

    FIRST_READ = 1 << 20

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise ModelFileError("this is not a regular file", path=path)
            # Should the path become a FIFO in between, a non-blocking open does not wait for its writer.
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            raise ModelFileError(f"cannot be opened: {_reason(error)}", path=path) from error
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise ModelFileError("this is not a regular file", path=path)
        self.size = status.st_size
        self._map: Bytes | None = None

    def close(self) -> None:
        """Close the descriptor. Views of the map that are still held stay valid."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1
        self._map = None

    def ahead(self, have: int, end: int) -> int:
        return max(end, 2 * have, self.FIRST_READ)

    def read(self, offset: int, n_bytes: int, tensor: str | None = None) -> Bytes:
        """A copy of some bytes: uint8 [n_bytes]. A file that has been cut short gives an error, never a crash.

        Raises:
            ModelFileError: the file ends before, or reading fails.
        """
        self._check_open(tensor)
        data = np.empty(n_bytes, np.uint8)
        done = 0
        while done < n_bytes:
            try:
                n_read = os.preadv(self._descriptor, [data[done:].data], offset + done)
            except OSError as error:
                reason = f"cannot be read: {_reason(error)}"
                raise ModelFileError(reason, path=self.path, tensor=tensor, offset=offset + done) from error
            if n_read == 0:
                reason = f"the file ends {n_bytes - done} bytes too early"
                raise ModelFileError(reason, path=self.path, tensor=tensor, offset=offset + done)
            done += n_read
        return data

    def view(self, offset: int, n_bytes: int, tensor: str | None = None) -> Bytes:
        """Some bytes of the memory map, read-only: uint8 [n_bytes].

        The file's size is checked at each call. If the file is cut short afterwards, touching the lost bytes ends
        the process (SIGBUS), so use `read` for files that others may change.

        Raises:
            ModelFileError: the file has become shorter since it was opened.
        """
        self._check_open(tensor)
        size = os.fstat(self._descriptor).st_size
        if size < self.size:
            reason = f"the file was cut from {self.size} to {size} bytes while it was open"
            raise ModelFileError(reason, path=self.path, tensor=tensor, offset=offset)
        if self._map is None:
            self._map = self._make_map()
        return self._map[offset : offset + n_bytes]

    def _make_map(self) -> Bytes:
        with open(self._descriptor, "rb", closefd=False) as file:
            return np.memmap(file, np.uint8, "r").view(np.ndarray)

    def _check_open(self, tensor: str | None) -> None:
        if self._descriptor < 0:
            raise ModelFileError("the file has been closed", path=self.path, tensor=tensor)


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)

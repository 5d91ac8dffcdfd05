"""The folder that code under test may write to, and how to look into it from outside without being led astray.

Whatever runs inside may leave links, pipes and devices there, ever deeper folders, and some without permissions.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from stride.bench.sandbox.limits import FilesError, Limit, Limits, SandboxError
from stride.bench.sandbox.processes import Process

DEEPEST = 64
RESERVE = 1 << 30
"""Bytes that stay free on the disk, whoever took the others: what hides from the count ends here."""


@contextlib.contextmanager
def workspace(files: Mapping[str, str] | None = None) -> Iterator[Path]:
    """A new, private folder with ``files`` (relative name → text) in it, removed with whatever is there at the end.

    :raises FilesError: a name leads out of it or is too long, two cannot both be, or a text is none; says which.
    """
    folder = Path(tempfile.mkdtemp(prefix="stride-")).resolve()
    try:
        for name, text in (files or {}).items():
            _write(folder, name, text)
        yield folder
    finally:
        remove(folder)


def read(folder: Path, name: str, most: int = 1 << 20) -> bytes:
    """At most ``most`` bytes of a regular file in ``folder``. No link is followed, nothing else opened.

    :raises OSError: there is no such file, a part of its name is a link, or it is something else.
    """
    *folders, last = _parts(name)
    with contextlib.ExitStack() as stack:
        here = _open(stack, os.fspath(folder), os.O_DIRECTORY, None)
        for part in folders:
            here = _open(stack, part, os.O_DIRECTORY, here)
        file = _open(stack, last, os.O_NONBLOCK, here)  # a pipe would wait for its other end
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(f"{name} is not a regular file")
        chunks = []
        while most > 0 and (chunk := os.read(file, most)):
            chunks.append(chunk)
            most -= len(chunk)
        return b"".join(chunks)


def remove(folder: Path) -> None:
    """Remove ``folder`` with all in it. Nothing may be running there any more."""
    with contextlib.suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():  # folders without permissions, or so deep that rmtree gives up
        subprocess.run(["chmod", "-R", "u+rwX", folder], check=False, capture_output=True)
        subprocess.run(["rm", "-rf", folder], check=True, capture_output=True)


def hand_over(folder: Path, uid: int) -> None:
    """Make all in ``folder`` belong to ``uid``, links themselves and not what they point to."""
    paths = [os.fspath(folder)]
    for path in paths:
        if os.lstat(path).st_uid != uid:
            os.lchown(path, uid, uid)
        if stat.S_ISDIR(os.lstat(path).st_mode):
            paths += [entry.path for entry in os.scandir(path)]


def broken(folder: Path, limits: Limits, processes: list[Process], free_before: int) -> Limit | None:
    """Which limit on files the ``processes`` that write to ``folder`` have broken."""
    size = count = 0
    paths = [(os.fspath(folder), 0)]
    for path, depth in paths:
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    count += 1
                    if count > limits.disk_files:
                        return "files"
                    with contextlib.suppress(FileNotFoundError):  # removed just now; the others are there
                        found = entry.stat(follow_symlinks=False)
                        size += found.st_blocks * 512
                        if stat.S_ISDIR(found.st_mode):
                            paths.append((entry.path, depth + 1))
        except FileNotFoundError:
            continue
        except OSError:  # no permission, or a path that is too long
            return "files"
        if depth > DEEPEST:
            return "files"
    size += _removed_bytes(processes)
    if size >= limits.disk_bytes or free_bytes(folder) < min(RESERVE, free_before // 2):
        return "disk"
    return None


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _removed_bytes(processes: list[Process]) -> int:
    """Of files that were removed but are still open, each counted once."""
    sizes = {}
    for process in processes:
        with contextlib.suppress(OSError), os.scandir(f"/proc/{process.pid}/fd") as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    found = entry.stat()
                    if stat.S_ISREG(found.st_mode) and found.st_nlink == 0:
                        sizes[found.st_dev, found.st_ino] = found.st_blocks * 512
    return sum(sizes.values())


def _parts(name: str) -> tuple[str, ...]:
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in name:
        raise SandboxError(f"{name!r} is not a name inside the folder")
    return path.parts


def _write(folder: Path, name: str, text: str) -> None:
    try:
        path = folder.joinpath(*_parts(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except (SandboxError, OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise FilesError(f"the file {name[:100]!r} cannot be written: {why}") from error


def _open(stack: contextlib.ExitStack, path: str, flags: int, folder: int | None) -> int:
    opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=folder)
    stack.callback(os.close, opened)
    return opened

"""Weights as the CPU backend lays them out, in a file beside the model: mapped at the next start, not packed again.

The file: 16 bytes of magic, two little-endian uint64 (where the index begins, how long it is), the weights, each at a
multiple of 2 MiB, and the index, JSON. A file of another version, or of a model that has changed, is not used.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from stride import _cpu
from stride.errors import StrideError
from stride.gguf import Tensor

SUFFIX = ".packed"
MAGIC = b"stride packed 1\n"
HEADER = struct.Struct("<16sQQ")
MAX_INDEX_BYTES = 64 << 20
ALIGNMENT = 2 << 20
"""Large enough for huge pages; a multiple of ``_cpu.map_alignment``."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A packed weight: its type (GGML's number), [matrices, rows, columns], and where it lies."""

    type: int
    shape: tuple[int, int, int]
    offset: int


class PackedFile:
    """The weights in a packed file, by the names of their tensors; the file stays open as long as this lives."""

    def __init__(self, path: Path, file: int, entries: dict[str, Entry]) -> None:
        self.path = path
        self._file = file
        self._entries = entries
        weakref.finalize(self, os.close, file)

    def map(self, name: str, type: int, shape: tuple[int, int, int]) -> _cpu.Weight | None:
        """The weight, or None where the file has none of that name, type and shape.

        Raises:
            OSError: the file cannot be mapped.
            ValueError: it ends too early.
        """
        offset = self.offset_of(name, type, shape)
        return None if offset is None else _cpu.map_weight(type, *shape, self._file, offset)

    def offset_of(self, name: str, type: int, shape: tuple[int, int, int]) -> int | None:
        """Where the weight lies in the file, or None where it has none of that name, type and shape."""
        entry = self._entries.get(name)
        return None if entry is None or (entry.type, entry.shape) != (type, shape) else entry.offset


def path_of(model: Sequence[Path]) -> Path:
    """Where the packed copy of a model lies whose parts these are: beside the first."""
    return model[0].with_name(model[0].name + SUFFIX)


def find(model: Sequence[Path]) -> tuple[PackedFile | None, str | None]:
    """The packed copy of a model, and why one that is there is not used."""
    path = path_of(model)
    try:
        with open(path, "rb") as file:
            index = _read_index(file)
            if index["layout"] != _cpu.layout_version:
                return None, f"{path} is of another version of Stride and not used: `stride pack` writes it anew"
            if index["model"] != _fingerprint(model):
                return (
                    None,
                    f"{path} is of another file than {model[0].name} and not used: `stride pack` writes it anew",
                )
            entries = {name: _entry(one) for name, one in index["weights"].items()}
            return PackedFile(path, os.dup(file.fileno()), entries), None
    except FileNotFoundError:
        return None, None
    except OSError as error:
        return None, f"{path} cannot be read and is not used: {error.strerror or error}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return None, f"{path} is damaged and not used ({error}): `stride pack` writes it anew"


def write(
    model: Sequence[Path],
    tensors: Sequence[Tensor],
    pack: Callable[[Tensor], _cpu.Weight],
    n_bytes: int,
    progress: Callable[[int], None],
) -> Path:
    """Write the packed copy of a model, whole or not at all.

    Args:
        model: the model's parts.
        tensors: those to pack.
        pack: reads a tensor into the backend's layout.
        n_bytes: what the packed weights come to, for the check of the free space.
        progress: called with the bytes of weights written so far.

    Raises:
        StrideError: there is no room, or the file cannot be written.
    """
    path = path_of(model)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        free = shutil.disk_usage(path.parent).free
        needed = n_bytes + (len(tensors) + 1) * ALIGNMENT  # with what lies between the weights, and the index
        if needed > free:
            raise StrideError(
                f"{path} needs {needed / 2**30:.1f} GiB, but {free / 2**30:.1f} GiB are free in {path.parent}"
            )
        try:
            with open(partial, "wb") as file:
                _write(file, model, tensors, pack, progress)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise StrideError(f"{path} cannot be written: {error.strerror or error}") from error
    return path


def _write(
    file: BinaryIO,
    model: Sequence[Path],
    tensors: Sequence[Tensor],
    pack: Callable[[Tensor], _cpu.Weight],
    progress: Callable[[int], None],
) -> None:
    entries: dict[str, Entry] = {}
    n_written = 0
    fingerprint = _fingerprint(model)
    file.seek(HEADER.size)
    for tensor in tensors:
        file.seek(-file.tell() % ALIGNMENT, os.SEEK_CUR)
        weight = pack(tensor)
        count = weight.shape[0] if len(weight.shape) == 3 else 1
        rows, columns = weight.shape[-2:]
        entries[tensor.name] = Entry(weight.type, (count, rows, columns), file.tell())
        file.write(weight.data.data)
        n_written += weight.n_bytes
        progress(n_written)
    if _fingerprint(model) != fingerprint:
        raise StrideError(f"{model[0]} changed while it was packed: nothing is kept of it")
    start = file.tell()
    index = {
        "layout": _cpu.layout_version,
        "model": fingerprint,
        "weights": {name: asdict(entry) for name, entry in entries.items()},
    }
    file.write(json.dumps(index).encode())
    end = file.tell()
    file.seek(0)
    file.write(HEADER.pack(MAGIC, start, end - start))
    file.flush()
    os.fsync(file.fileno())


def _read_index(file: BinaryIO) -> dict[str, Any]:
    """Raises ValueError for anything but a packed file's index."""
    header = file.read(HEADER.size)
    if len(header) < HEADER.size:
        raise ValueError("it is too short")
    magic, start, length = HEADER.unpack(header)
    if magic != MAGIC:
        raise ValueError("it does not begin as such a file does")
    if start + length != os.fstat(file.fileno()).st_size:
        raise ValueError("it ends too early or too late")
    if length > MAX_INDEX_BYTES:
        raise ValueError(f"its index has {length} bytes")
    file.seek(start)
    index = json.loads(file.read(length))
    if not isinstance(index, dict):
        raise ValueError("its index is none")
    return index


def _entry(value: Any) -> Entry:
    """Raises ValueError, KeyError or TypeError for anything but an entry of the index."""
    kind, offset, (count, rows, columns) = value["type"], value["offset"], value["shape"]
    for number in (kind, offset, count, rows, columns):
        if type(number) is not int:  # neither a bool nor a float
            raise ValueError(f"{number!r} is no integer")
        if not 0 <= number < 2**63:
            raise ValueError(f"{number} is out of range")
    return Entry(kind, (count, rows, columns), offset)


def _fingerprint(model: Sequence[Path]) -> list[list[str | int]]:
    """What changes where a part of the model does: names, sizes and times."""
    status = [(path.name, path.stat()) for path in model]
    return [[name, one.st_size, one.st_mtime_ns] for name, one in status]

"""Write GGUF files: one, or the parts of a split model. Final names appear only once all data is written."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from stride.gguf.arrays import Bytes
from stride.gguf.header import ALIGNMENT, ARRAY, DEFAULT_ALIGNMENT, MAGIC, MAX_DIMENSIONS, SCALARS, STRING
from stride.gguf.quant_type import QuantType
from stride.gguf.quants import PLAIN
from stride.gguf.splits import part_name

Writable: TypeAlias = (
    bool
    | int
    | float
    | str
    | np.generic
    | npt.NDArray[Any]
    | Sequence[bool]
    | Sequence[int]
    | Sequence[float]
    | Sequence[str]
)
"""A value to write. Python integers become u32 where they fit, else i32, u64 or i64; Python floats f32; numpy keeps
its own type."""

TensorData: TypeAlias = npt.NDArray[Any] | tuple[Bytes, QuantType]
"""Numbers as they are, or blocks: uint8 [..., row bytes] and their type."""

VERSION = 3


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    data: npt.NDArray[Any]
    type: QuantType
    shape: tuple[int, ...]


def write_gguf(
    path: str | Path,
    metadata: Mapping[str, Writable],
    tensors: Iterable[tuple[str, TensorData]],
    *,
    split_max_tensors: int | None = None,
) -> tuple[Path, ...]:
    """Write a model; gives the files written, in order.

    With ``split_max_tensors``, parts of at most that many tensors are written beside ``path``, named
    ``STEM-00001-of-0000N.gguf``; the metadata goes into the first (``split.*`` keys are dropped
    and made anew). Data is written tensor by tensor, so arrays may
    be memory maps.

    Raises:
        ValueError: names that are empty or come twice, shapes or values that GGUF cannot hold.
        OSError: writing failed; no file has appeared or changed then.
    """
    path = Path(path)
    metadata = {key: value for key, value in metadata.items() if not key.startswith("split.")}
    entries = [_entry(name, data) for name, data in tensors]
    if len({entry.name for entry in entries}) < len(entries):
        raise ValueError("a tensor's name comes twice")
    alignment = metadata.get(ALIGNMENT, DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int | np.uint32) or alignment <= 0 or alignment & (alignment - 1):
        raise ValueError(f"{ALIGNMENT} is {alignment!r}, but must be a power of two")
    if split_max_tensors is None:
        files = [(path, dict(metadata), entries)]
    else:
        groups = [entries[i : i + split_max_tensors] for i in range(0, len(entries), split_max_tensors)] or [[]]
        files = [
            (path.with_name(part_name(path.stem, index, len(groups))), part_metadata, group)
            for index, group in enumerate(groups)
            for part_metadata in [
                _split_metadata(metadata if index == 0 else {}, index, len(groups), len(entries), alignment)
            ]
        ]
    with ExitStack() as unfinished:
        written = []
        for final, pairs, group in files:
            temporary = final.with_name(f".{final.name}.{os.getpid()}.partial")
            unfinished.callback(temporary.unlink, missing_ok=True)
            with temporary.open("wb") as file:
                _write_file(file, pairs, group, int(alignment))
            written.append((temporary, final))
        for temporary, final in written:
            temporary.replace(final)
    return tuple(final for _, final in written)


def _split_metadata(
    metadata: Mapping[str, Writable], index: int, n_parts: int, n_tensors: int, alignment: int | np.uint32
) -> dict[str, Writable]:
    return {
        **metadata,
        **({ALIGNMENT: np.uint32(alignment)} if alignment != DEFAULT_ALIGNMENT else {}),
        "split.no": np.uint16(index),
        "split.count": np.uint16(n_parts),
        "split.tensors.count": np.int32(n_tensors),
    }


def _entry(name: str, data: TensorData) -> _Entry:
    if isinstance(data, tuple):
        blocks, kind = data
        if blocks.dtype != np.uint8 or blocks.ndim == 0 or blocks.shape[-1] % kind.block_bytes:
            raise ValueError(f"tensor {name}: {blocks.dtype} {list(blocks.shape)} are no rows of {kind.label} blocks")
        array, shape = blocks, (*blocks.shape[:-1], blocks.shape[-1] // kind.block_bytes * kind.block_size)
    else:
        array, shape = data, data.shape
        kinds = [kind for kind, dtype in PLAIN.items() if dtype == data.dtype]
        if not kinds:
            raise ValueError(f"tensor {name}: GGUF has no type for {data.dtype}")
        kind = kinds[0]
    if not name or not 1 <= len(shape) <= MAX_DIMENSIONS or 0 in shape:
        raise ValueError(f"tensor {name!r} of shape {list(shape)} cannot be written")
    return _Entry(name, array, kind, shape)


def _write_file(file: BinaryIO, metadata: Mapping[str, Writable], entries: Sequence[_Entry], alignment: int) -> None:
    file.write(MAGIC + struct.pack("<IQQ", VERSION, len(entries), len(metadata)))
    for key, value in metadata.items():
        if not key:
            raise ValueError("a key is empty")
        file.write(_string(key) + b"".join(_value(key, value)))
    offset = 0
    for entry in entries:
        dimensions = struct.pack(f"<{len(entry.shape)}Q", *reversed(entry.shape))
        file.write(_string(entry.name) + struct.pack("<I", len(entry.shape)) + dimensions)
        file.write(struct.pack("<IQ", entry.type, offset))
        n_bytes = math.prod(entry.shape[:-1]) * entry.type.row_bytes(entry.shape[-1])
        offset += -(-n_bytes // alignment) * alignment
    _pad(file, alignment)
    for entry in entries:
        np.ascontiguousarray(entry.data).tofile(file)
        _pad(file, alignment)
    file.flush()
    os.fsync(file.fileno())


def _pad(file: BinaryIO, alignment: int) -> None:
    file.write(bytes(-file.tell() % alignment))


def _string(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(raw)) + raw


def _value(key: str, value: Writable) -> Iterator[bytes]:
    """Type and value; for an array ARRAY, its item type, its length and its items."""
    if isinstance(value, str):
        yield struct.pack("<I", STRING) + _string(value)
        return
    if isinstance(value, Sequence) and value and all(isinstance(item, str) for item in value):
        yield struct.pack("<IIQ", ARRAY, STRING, len(value))
        yield from map(_string, map(str, value))
        return
    array = _typed(value)
    numbers = [number for number, dtype in SCALARS.items() if dtype == array.dtype]
    if not numbers or array.ndim > 1:
        raise ValueError(f"{key!r} cannot be written: {value!r}")
    is_scalar = array.ndim == 0
    yield struct.pack("<I", numbers[0]) if is_scalar else struct.pack("<IIQ", ARRAY, numbers[0], len(array))
    yield array.tobytes()


def _typed(value: object) -> npt.NDArray[Any]:
    """A number or numbers as numpy, plain Python ones in the smallest of GGUF's customary types."""
    array = np.asarray(value)
    if isinstance(value, np.ndarray | np.generic) or array.dtype.kind not in "iuf":
        return array
    if array.dtype.kind == "f":
        return array.astype("<f4")
    low, high = array.min(initial=0), array.max(initial=0)
    for code in ("<u4", "<i4", "<u8", "<i8"):
        limits = np.iinfo(code)
        if limits.min <= low and high <= limits.max:
            return array.astype(code)
    return array

"""The head of one GGUF file: key-value pairs and tensor entries, read strictly and before anything is allocated.

Layout (little-endian): magic, version u32, tensor count u64, pair count u64; pairs of key, type u32, value; tensors of
name, dimension count u32, dimensions u64 (row length first), type u32, offset u64 (from the start of the data, which
begins at the next multiple of the alignment). A string is a length u64 and its bytes; an array an item type u32, a
count u64 and its items.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from stride.errors import ModelFileError
from stride.gguf.metadata import Value
from stride.gguf.quant_type import QuantType
from stride.gguf.source import Source

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4
MAX_COUNT = 1 << 22
"""Most pairs, tensors and strings in all; several times what the largest vocabularies in use come to."""
MAX_HEAD = 128 << 20
"""Most bytes before the tensor data; several times the largest heads in use."""

ALIGNMENT = "general.alignment"
U32, BOOL, STRING, ARRAY = 4, 7, 8, 9
SCALARS = {
    number: np.dtype(code)
    for number, code in {
        0: "u1", 1: "i1", 2: "<u2", 3: "<i2", U32: "<u4", 5: "<i4", 6: "<f4", BOOL: "?",
        10: "<u8", 11: "<i8", 12: "<f8",
    }.items()
}  # fmt: skip
"""GGUF's value types that are numbers; 8 is a string, 9 an array."""

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
SMALLEST_PAIR = 8 + 1 + 4 + 1
SMALLEST_TENSOR = 8 + 1 + 4 + 8 + 4 + 8


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor as its file declares it; ``shape`` has rows first, ``offset`` is absolute."""

    name: str
    shape: tuple[int, ...]
    type: QuantType
    offset: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """One file's pairs and tensors, checked: every tensor lies within the file, aligned, and apart from the others."""

    metadata: dict[str, Value]
    tensors: dict[str, TensorEntry]


def read_header(file: Source) -> Header:
    """Parse and check the head of a file; tensor data is not touched. Bytes after the last tensor are allowed.

    Raises:
        ModelFileError: names the file, the offset, and the key or tensor where there is one.
    """
    cursor = Cursor(file)
    n_tensors, n_pairs = _read_counts(cursor)
    metadata: dict[str, Value] = {}
    for _ in range(n_pairs):
        start = cursor.position
        key = cursor.name("a key")
        if key in metadata:
            raise cursor.error(f"the key {key!r} comes twice", start)
        metadata[key] = cursor.value(key)
    alignment = metadata.get(ALIGNMENT, DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise ModelFileError(f"{ALIGNMENT} is {alignment!r}, but must be a power of two", path=file.path)
    entries: dict[str, tuple[int, tuple[int, ...], QuantType, int]] = {}
    for _ in range(n_tensors):
        start = cursor.position
        name = cursor.name("a tensor's name")
        if name in entries:
            raise cursor.error("the tensor comes twice", start, name)
        entries[name] = (start, *_read_entry(cursor, name))
    data_start = -(-cursor.position // alignment) * alignment
    tensors = {name: _place(cursor, name, data_start, alignment, *entry) for name, entry in entries.items()}
    _check_overlaps(file, tensors)
    return Header(metadata, tensors)


class Cursor:
    """Reads a file's head front to back through a buffer that grows only as far as the head goes."""

    def __init__(self, file: Source) -> None:
        self.file = file
        self.position = 0
        self._buffer = b""
        self._n_objects = 0

    def error(self, reason: str, offset: int | None = None, tensor: str | None = None) -> ModelFileError:
        at = self.position if offset is None else offset
        return ModelFileError(reason, path=self.file.path, tensor=tensor, offset=at)

    def u32(self, what: str) -> int:
        return int(_U32.unpack_from(*self._take(4, what))[0])

    def u64(self, what: str) -> int:
        return int(_U64.unpack_from(*self._take(8, what))[0])

    def count(self, what: str, smallest: int) -> int:
        """How many of something follow; refused where the rest of the file cannot hold that many."""
        start = self.position
        count = self.u64(f"the number of {what}")
        rest = self.file.size - self.position
        if count * smallest > rest:
            raise self.error(f"{count} {what} cannot fit the {rest} bytes that follow", start)
        return count

    def objects(self, what: str, smallest: int) -> int:
        """A count of things that each take time and memory, so that there is a limit to them all together."""
        start = self.position
        count = self.count(what, smallest)
        self._n_objects += count
        if self._n_objects > MAX_COUNT:
            raise self.error(f"{count} {what} are too many: Stride reads {MAX_COUNT} pairs, tensors and strings", start)
        return count

    def name(self, what: str) -> str:
        """A string that is valid UTF-8, not empty, and cannot steer the terminal that it may be printed on."""
        start = self.position
        raw = self.string_bytes(what)
        if not raw:
            raise self.error(f"{what} is empty", start)
        name = self._decode(raw, what, start)
        if not name.isprintable():
            raise self.error(f"{what}, {name!r}, holds characters that cannot be shown", start)
        return name

    def string_bytes(self, what: str) -> bytes:
        start = self.position
        length = self.u64(f"the length of {what}")
        rest = self.file.size - self.position
        if length > rest:
            raise self.error(f"{what} of {length} bytes goes past the end of the file", start)
        buffer, at = self._take(length, what)
        return buffer[at : at + length]

    def value(self, key: str) -> Value:
        """A pair's value, with its type before it."""
        what = f"the value of {key!r}"
        start = self.position
        kind = self.u32(what)
        if key == ALIGNMENT and kind != U32:
            raise self.error(f"{key} has the type {kind}, but must have {U32} (u32)", start)
        if kind == STRING:
            start = self.position
            return self._decode(self.string_bytes(what), what, start)
        if kind == ARRAY:
            return self._array(what)
        if kind not in SCALARS:
            raise self.error(f"{what} has the unknown type {kind}", start)
        scalar: Value = self._numbers(SCALARS[kind], 1, what)[0].item()
        return scalar

    def _array(self, what: str) -> Value:
        start = self.position
        kind = self.u32(what)
        if kind == ARRAY:
            raise self.error(f"{what} is an array of arrays", start)
        if kind == STRING:
            return self._strings(self.objects(f"strings in {what}", 8), what)
        if kind not in SCALARS:
            raise self.error(f"{what} is an array of the unknown type {kind}", start)
        dtype = SCALARS[kind]
        return self._numbers(dtype, self.count(f"entries in {what}", dtype.itemsize), what)

    def _numbers(self, dtype: np.dtype[Any], count: int, what: str) -> npt.NDArray[Any]:
        start = self.position
        buffer, at = self._take(count * dtype.itemsize, what)
        if dtype.kind == "b" and np.frombuffer(buffer, np.uint8, count, at).max(initial=0) > 1:
            raise self.error(f"{what} holds a truth value that is neither 0 nor 1", start)
        numbers = np.frombuffer(buffer, dtype, count, at).copy()
        numbers.setflags(write=False)
        return numbers

    def _strings(self, count: int, what: str) -> list[str]:
        """A tight loop: vocabularies have hundreds of thousands of tokens."""
        strings = []
        buffer, position, size = self._buffer, self.position, self.file.size
        unpack = _U64.unpack_from
        for index in range(count):
            start = position
            position += 8
            if position > len(buffer):
                buffer = self._fill(position, what, start)
            end = position + unpack(buffer, start)[0]
            if end > len(buffer):
                if end > size:
                    raise self.error(f"string {index} of {what} goes past the end of the file", start)
                buffer = self._fill(end, what, start)
            strings.append(buffer[position:end].decode("utf-8", "surrogateescape"))
            position = end
        self.position = position
        return strings

    def _decode(self, raw: bytes, what: str, start: int) -> str:
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not valid UTF-8", start) from error

    def _take(self, n_bytes: int, what: str) -> tuple[bytes, int]:
        """Move past some bytes; gives a buffer that holds them, and where in it they begin."""
        start, end = self.position, self.position + n_bytes
        if end > len(self._buffer):
            self._fill(end, what, start)
        self.position = end
        return self._buffer, start

    def _fill(self, end: int, what: str, start: int) -> bytes:
        """Read on until the buffer holds the file's first ``end`` bytes."""
        if end > self.file.size:
            raise self.error(f"the file ends within {what}", start)
        if end > MAX_HEAD:
            raise self.error(f"{what} goes beyond the {MAX_HEAD} bytes that a file's head may have", start)
        have = len(self._buffer)
        target = min(self.file.size, MAX_HEAD, self.file.ahead(have, end))
        self._buffer += self.file.read(have, target - have).tobytes()
        return self._buffer


def _read_counts(cursor: Cursor) -> tuple[int, int]:
    """Magic, version, (tensors, pairs)."""
    if cursor.file.size == 0:
        raise cursor.error("the file is empty")
    if cursor.file.size < 4:
        raise cursor.error("the file is too short for a GGUF file")
    magic = cursor.u32("the magic number").to_bytes(4, "little")
    if magic == MAGIC[::-1]:
        raise cursor.error("the file is big-endian; Stride reads little-endian GGUF", 0)
    if magic != MAGIC:
        raise cursor.error(f"this is no GGUF file: it begins with {magic!r}", 0)
    version = cursor.u32("the version")
    if version & 0xFFFF == 0 and version:
        raise cursor.error("the file is big-endian; Stride reads little-endian GGUF", 4)
    if version not in VERSIONS:
        raise cursor.error(f"GGUF version {version} is unknown; Stride reads versions 2 and 3", 4)
    n_tensors = cursor.objects("tensors", SMALLEST_TENSOR)
    return n_tensors, cursor.objects("key-value pairs", SMALLEST_PAIR)


def _read_entry(cursor: Cursor, name: str) -> tuple[tuple[int, ...], QuantType, int]:
    """What follows a tensor's name: shape, type, offset within the data."""
    start = cursor.position
    what = f"the entry of tensor {name}"
    n_dimensions = cursor.u32(what)
    if not 1 <= n_dimensions <= MAX_DIMENSIONS:
        raise cursor.error(f"{n_dimensions} dimensions, but must have 1 to {MAX_DIMENSIONS}", start, name)
    shape = tuple(reversed([cursor.u64(what) for _ in range(n_dimensions)]))
    if not all(0 < size < 1 << 63 for size in shape):
        signed = [size - (size >> 63 << 64) for size in shape]
        raise cursor.error(f"the shape {signed} has a dimension that is not above zero", start, name)
    start_of_type = cursor.position
    number = cursor.u32(what)
    try:
        kind = QuantType(number)
    except ValueError:
        raise cursor.error(f"unknown tensor type {number}", start_of_type, name) from None
    if math.prod(shape) * kind.block_bytes >= 1 << 63:
        raise cursor.error(f"the shape {list(shape)} is too large to address", start, name)
    if shape[-1] % kind.block_size:
        reason = f"rows of {shape[-1]} are no multiple of {kind.label}'s block of {kind.block_size}"
        raise cursor.error(reason, start, name)
    return shape, kind, cursor.u64(what)


def _place(
    cursor: Cursor,
    name: str,
    data_start: int,
    alignment: int,
    start: int,
    shape: tuple[int, ...],
    kind: QuantType,
    relative: int,
) -> TensorEntry:
    """Where a tensor's bytes are, which must be inside the file."""
    if relative % alignment:
        raise cursor.error(f"the data offset {relative} is no multiple of the alignment {alignment}", start, name)
    n_bytes = math.prod(shape[:-1]) * kind.row_bytes(shape[-1])
    offset = data_start + relative
    missing = offset + n_bytes - cursor.file.size
    if missing > 0:
        reason = f"its {n_bytes} bytes of data end {missing} bytes past the end of the file ({cursor.file.size} bytes)"
        raise cursor.error(reason, offset, name)
    return TensorEntry(name, shape, kind, offset, n_bytes)


def _check_overlaps(file: Source, tensors: dict[str, TensorEntry]) -> None:
    ordered = sorted(tensors.values(), key=lambda tensor: tensor.offset)
    for before, after in pairwise(ordered):
        if before.offset + before.n_bytes > after.offset:
            reason = f"its data overlaps that of tensor {before.name}"
            raise ModelFileError(reason, path=file.path, tensor=after.name, offset=after.offset)

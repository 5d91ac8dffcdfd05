"""Routings on record: which experts each layer chose for each token, step by step.

The file, little-endian: magic, version u32, then the model (`Shape`): layers u32, experts u32, top_k u32, the name's
length u32 and the name; then records of layer u32, tokens u32 and u16 ids
[tokens, top_k]; then an end: layer 0xFFFFFFFF, the number of records u32, and the CRC-32 of all before it. What is not
whole is refused: a trace that lacks its end would be taken for another workload.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from stride.errors import StrideError

MAGIC = b"STRIDEXP"
VERSION = 1
MOST_EXPERTS = 1 << 16
BUFFER_BYTES = 1 << 20
"""Written to the file at once."""

_HEAD = struct.Struct("<8sI")
_SHAPE = struct.Struct("<IIII")
_RECORD = struct.Struct("<II")
_END = struct.Struct("<III")
_END_LAYER = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Shape:
    """The model that routes, as far as its quantisations have it in common. ``n_layers`` are those with experts."""

    name: str
    n_layers: int
    n_experts: int
    top_k: int

    @property
    def n_keys(self) -> int:
        """Routed experts in all."""
        return self.n_layers * self.n_experts

    def check(self) -> None:
        """ValueError: numbers that no model has."""
        if not (0 < self.n_layers < _END_LAYER and 0 < self.top_k <= self.n_experts <= MOST_EXPERTS):
            raise ValueError(
                f"no model has {self.n_layers} layers of {self.n_experts} experts, of which {self.top_k} are used"
            )


@dataclass(frozen=True, slots=True)
class Record:
    """One layer of one step: int ids [tokens, top_k] of the experts chosen, tokens in order."""

    layer: int
    ids: npt.NDArray[np.uint16]


@dataclass(slots=True)
class Trace:
    """Routings of a model. A step's records are its layers, in order."""

    shape: Shape
    records: list[Record] = field(default_factory=list)

    def steps(self) -> Iterator[list[Record]]:
        """The records of one step after the other."""
        step: list[Record] = []
        for record in self.records:
            if step and record.layer <= step[-1].layer:
                yield step
                step = []
            step.append(record)
        if step:
            yield step


class Recorder:
    """Writes a trace while a model runs. `record` takes a few microseconds; `close` makes the file whole.

    Raises:
        StrideError: the file cannot be written.
    """

    def __init__(self, path: Path, shape: Shape) -> None:
        shape.check()
        self.path = path
        self.shape = shape
        self._n_records = 0
        self._checksum = 0
        name = shape.name.encode("utf-8", "replace")
        self._buffer = bytearray(_HEAD.pack(MAGIC, VERSION))
        self._buffer += _SHAPE.pack(shape.n_layers, shape.n_experts, shape.top_k, len(name)) + name
        try:
            self._file = path.open("wb")
        except OSError as error:
            raise StrideError(f"{path} cannot be written: {error.strerror}") from error

    def record(self, layer: int, ids: npt.NDArray[np.integer]) -> None:
        """What a layer (counted from 0 among those with experts) chose in this step: ids [tokens, top_k]."""
        if len(ids) == 0:
            return
        self._buffer += _RECORD.pack(layer, len(ids))
        self._buffer += ids.astype("<u2").tobytes()
        self._n_records += 1
        if len(self._buffer) >= BUFFER_BYTES:
            self._write()

    def close(self) -> None:
        """Write the end."""
        self._write()
        end = _RECORD.pack(_END_LAYER, self._n_records)
        self._buffer += _END.pack(_END_LAYER, self._n_records, zlib.crc32(end, self._checksum))
        self._write()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:  # a file without an end, which is refused
            self._file.close()

    def _write(self) -> None:
        self._checksum = zlib.crc32(self._buffer, self._checksum)
        try:
            self._file.write(self._buffer)
            self._file.flush()
        except OSError as error:
            raise StrideError(f"{self.path} cannot be written: {error.strerror}") from error
        self._buffer.clear()


def read_trace(path: Path) -> Trace:
    """A trace's file.

    Raises:
        StrideError: it cannot be read, or is no whole trace of a version that this program knows.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StrideError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return _parse(data)
    except (ValueError, struct.error) as error:
        raise StrideError(f"{path} is no routing trace: {error}") from error


def _parse(data: bytes) -> Trace:
    """ValueError or struct.error: says what is wrong."""
    magic, version = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise ValueError(f"it begins with {magic!r}")
    if version != VERSION:
        raise ValueError(f"its version is {version}; this program reads version {VERSION}")
    at = _HEAD.size
    n_layers, n_experts, top_k, n_name = _SHAPE.unpack_from(data, at)
    at += _SHAPE.size
    if len(data) < at + n_name + _END.size:
        raise ValueError("it ends within its head")
    shape = Shape(data[at : at + n_name].decode("utf-8"), n_layers, n_experts, top_k)
    shape.check()
    at += n_name
    end_layer, n_records, checksum = _END.unpack_from(data, len(data) - _END.size)
    if end_layer != _END_LAYER:
        raise ValueError("it has no end: what recorded it did not finish")
    if zlib.crc32(data[:-4]) != checksum:
        raise ValueError("its bytes are not those that were recorded")
    trace, end = Trace(shape), len(data) - _END.size
    while at < end:
        layer, n_tokens = _RECORD.unpack_from(data, at)
        start, at = at + _RECORD.size, at + _RECORD.size + 2 * n_tokens * top_k
        if layer >= n_layers or n_tokens == 0 or at > end:
            raise ValueError(f"the record at byte {start - _RECORD.size} is of layer {layer} and {n_tokens} tokens")
        ids = np.frombuffer(data, "<u2", n_tokens * top_k, start).reshape(n_tokens, top_k)
        if int(ids.max()) >= n_experts:
            raise ValueError(f"the record at byte {start - _RECORD.size} has expert {ids.max()} of {n_experts}")
        trace.records.append(Record(layer, ids))
    if len(trace.records) != n_records:
        raise ValueError(f"it holds {len(trace.records)} records, not {n_records}")
    return trace

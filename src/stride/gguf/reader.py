"""Open a model: one file, or all parts of a split one, as a single set of metadata and tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType

from stride.gguf.arrays import Bytes, Floats
from stride.gguf.metadata import Metadata
from stride.gguf.quant_type import QuantType
from stride.gguf.quants import dequantize
from stride.gguf.source import Source
from stride.gguf.splits import Part, find_parts, in_order, read_part


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor in its file. ``shape`` has rows first: the last entry is the row length. ``offset`` is absolute."""

    name: str
    shape: tuple[int, ...]
    type: QuantType
    path: Path
    offset: int
    n_bytes: int
    _file: Source = field(repr=False, compare=False)

    @property
    def n_values(self) -> int:
        return math.prod(self.shape)

    @property
    def row_bytes(self) -> int:
        return self.type.row_bytes(self.shape[-1])

    @property
    def data(self) -> Bytes:
        """The blocks where they lie in the mapped file, read-only: uint8 [*shape[:-1], row bytes].

        Raises:
            ModelFileError: the file has become shorter. If that happens while the view is in use, the process
                ends (SIGBUS); `read` is safe from it.
        """
        return self._file.view(self.offset, self.n_bytes, self.name).reshape(*self.shape[:-1], self.row_bytes)

    def read(self, start: int = 0, stop: int | None = None) -> Bytes:
        """A copy of rows ``start:stop``, all leading dimensions counted as one: uint8 [rows, row bytes].

        Raises:
            ModelFileError: the file ends too early or cannot be read.
        """
        n_rows = math.prod(self.shape[:-1])
        first, last, _ = slice(start, stop).indices(n_rows)
        n_rows = max(0, last - first)
        data = self._file.read(self.offset + first * self.row_bytes, n_rows * self.row_bytes, self.name)
        return data.reshape(n_rows, self.row_bytes)

    def dequantize(self) -> Floats:
        """All values: float32 of ``shape``.

        Raises:
            ModelFileError: the file ends too early or cannot be read.
            UnsupportedError: a type that Stride does not read.
        """
        return dequantize(self.read(), self.type).reshape(self.shape)


class GGUFFile:
    """An open model. ``metadata`` is the first part's; ``tensors`` are those of all parts, in file order."""

    def __init__(self, parts: tuple[Part, ...]) -> None:
        self._parts = parts
        self.metadata = Metadata(parts[0].header.metadata, parts[0].path)
        self.tensors: Mapping[str, Tensor] = MappingProxyType(
            {
                entry.name: Tensor(
                    entry.name, entry.shape, entry.type, part.path, entry.offset, entry.n_bytes, part.file
                )
                for part in parts
                for entry in part.header.tensors.values()
            }
        )

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, in the order of their parts."""
        return tuple(part.path for part in self._parts)

    @property
    def n_bytes(self) -> int:
        """Size of all files."""
        return sum(part.file.size for part in self._parts)

    def close(self) -> None:
        """Close the files. Arrays that were taken from tensors stay valid."""
        for part in self._parts:
            part.file.close()

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_gguf(path: str | Path) -> GGUFFile:
    """Open a file, any part of a split model, or a folder that holds one model; only the heads are read.

    Parts are put in the order of their metadata, whatever their names. Image encoders (``mmproj*``) in a folder are
    passed over.

    Raises:
        ModelFileError: names file, tensor and offset of what is wrong.
    """
    return GGUFFile(find_parts(Path(path)))


def open_sources(files: Sequence[Source]) -> GGUFFile:
    """A model from all its parts, wherever they lie; only their heads are read.

    Raises:
        ModelFileError: see `open_gguf`.
    """
    return GGUFFile(in_order([read_part(file) for file in files]))

"""Find and check the parts of a split model.

A part says which it is in its metadata: ``split.no`` (from 0) of ``split.count``, and how many tensors the parts
have in all (``split.tensors.count``). Names end in ``-00001-of-00004.gguf``, counted from 1.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stride.errors import ModelFileError
from stride.gguf.header import Header, read_header
from stride.gguf.metadata import Metadata, Value
from stride.gguf.source import Source, SourceFile

PART_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE | re.DOTALL)


def part_name(stem: str, index: int, count: int) -> str:
    """The name of part ``index`` (from 0)."""
    return f"{stem}-{index + 1:05d}-of-{count:05d}.gguf"


@dataclass(frozen=True, slots=True)
class Part:
    """One open file of a model, and what its metadata says of the split."""

    file: Source
    header: Header
    index: int
    count: int
    n_tensors_in_all: int | None

    @property
    def path(self) -> Path:
        return self.file.path


def find_parts(path: Path) -> tuple[Part, ...]:
    """All parts of the model at a path, open, in order.

    Raises:
        ModelFileError: a file that is broken, or parts that are missing, double, or of different models.
    """
    with ExitStack() as opened:
        found = _folder_parts(path, opened) if _is_folder(path) else _file_parts(path, opened)
        parts = in_order(found)
        opened.pop_all()
    return parts


def in_order(parts: list[Part]) -> tuple[Part, ...]:
    """All parts of one model, in order.

    Raises:
        ModelFileError: some are missing, double, or of different models.
    """
    _check(parts)
    return tuple(sorted(parts, key=lambda part: part.index))


def _open_part(path: Path, opened: ExitStack) -> Part:
    file = SourceFile(path)
    opened.callback(file.close)
    return read_part(file)


def read_part(file: Source) -> Part:
    """Read an open file's head, and nothing else of it.

    Raises:
        ModelFileError: the head is broken.
    """
    header, path = read_header(file), file.path
    metadata = Metadata(header.metadata, path)
    count = metadata.integer("split.count", default=1)
    if count <= 1:
        return Part(file, header, 0, 1, None)
    index = metadata.integer("split.no")
    if not 0 <= index < count:
        raise ModelFileError(f"it says that it is part {index + 1} of {count}", path=path)
    return Part(file, header, index, count, metadata.integer("split.tensors.count"))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # link loops and odd names: opening the file says what is wrong
        return False


def _file_parts(path: Path, opened: ExitStack) -> list[Part]:
    given = _open_part(path, opened)
    if given.count == 1:
        return [given]
    if PART_NAME.fullmatch(path.name):
        names = _named_alike(path)
        return [given, *(_open_part(other, opened) for other in names if other.name != path.name)]
    # The name does not say which files belong together, so their metadata must.
    others = (_open_part(other, opened) for other in _models(path.parent) if other.name != path.name)
    return [given, *(part for part in others if _same_split(part, given))]


def _folder_parts(folder: Path, opened: ExitStack) -> list[Part]:
    paths = _models(folder)
    if not paths:
        raise ModelFileError("the folder holds no .gguf file", path=folder)
    parts = [_open_part(path, opened) for path in paths]
    models: dict[tuple[object, ...], list[Part]] = {}
    for part in parts:
        named = PART_NAME.fullmatch(part.path.name)
        if part.count == 1:
            model: tuple[object, ...] = (part.path.name,)
        elif named:
            model = (named["stem"], named["count"])
        else:
            model = (part.count, part.n_tensors_in_all)
        models.setdefault(model, []).append(part)
    if len(models) > 1:
        names = ", ".join(model[0].path.name for model in models.values())
        raise ModelFileError(f"the folder holds {len(models)} models, name one of them: {names}", path=folder)
    return parts


def _models(folder: Path) -> list[Path]:
    """The .gguf files of a folder, by name, without image encoders."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise ModelFileError(f"the folder cannot be read: {error.strerror}", path=folder) from error
    return [p for p in paths if p.suffix.lower() == ".gguf" and not p.name.lower().startswith("mmproj")]


def _named_alike(path: Path) -> list[Path]:
    """The parts whose names differ from this one only in their number."""
    named = PART_NAME.fullmatch(path.name)
    assert named is not None
    names = {part_name(named["stem"], index, int(named["count"])).lower() for index in range(int(named["count"]))}
    return [other for other in _models(path.parent) if other.name.lower() in names]


def _same_split(part: Part, other: Part) -> bool:
    return (part.count, part.n_tensors_in_all) == (other.count, other.n_tensors_in_all)


def _check(parts: list[Part]) -> None:
    """The parts are those of one model, each once."""
    first = min(parts, key=lambda part: part.index)
    by_index: dict[int, Part] = {}
    owners: dict[str, Part] = {}
    for part in parts:
        if part.count != first.count:
            reason = f"it is one of {part.count} parts, but {first.path.name} is one of {first.count}"
            raise ModelFileError(reason, path=part.path)
        if part.index in by_index:
            reason = f"it is part {part.index + 1} of {part.count}, and so is {by_index[part.index].path.name}"
            raise ModelFileError(reason, path=part.path)
        by_index[part.index] = part
    for index in range(first.count):
        if index not in by_index:
            raise ModelFileError(
                f"part {index + 1} of {first.count} is missing{_expected(first, index)}", path=first.path
            )
    for part in sorted(parts, key=lambda part: part.index):
        if part is not first:  # NaN differs even from itself
            _check_same_model(part, first)
        for entry in part.header.tensors.values():
            if entry.name in owners:
                reason = f"the tensor is also in {owners[entry.name].path.name}"
                raise ModelFileError(reason, path=part.path, tensor=entry.name, offset=entry.offset)
            owners[entry.name] = part
    if first.n_tensors_in_all not in (None, len(owners)):
        reason = f"the parts hold {len(owners)} tensors, but split.tensors.count is {first.n_tensors_in_all}"
        raise ModelFileError(reason, path=first.path)


def _expected(first: Part, index: int) -> str:
    named = PART_NAME.fullmatch(first.path.name)
    return f" (expected {part_name(named['stem'], index, first.count)})" if named else ""


def _check_same_model(part: Part, first: Part) -> None:
    """What two parts both say of the model must agree; later parts need not say anything."""
    if part.n_tensors_in_all != first.n_tensors_in_all:
        reason = (
            f"it belongs to a model of {part.n_tensors_in_all} tensors, "
            f"but {first.path.name} to one of {first.n_tensors_in_all}"
        )
        raise ModelFileError(reason, path=part.path)
    theirs = first.header.metadata
    for key, value in part.header.metadata.items():
        if key not in ("split.no", "general.alignment") and key in theirs and not _equal(value, theirs[key]):
            reason = f"its {key!r} differs from that of {first.path.name}: they are parts of different models"
            raise ModelFileError(reason, path=part.path)


def _equal(a: Value, b: Value) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.array_equal(a, b)
    return a == b

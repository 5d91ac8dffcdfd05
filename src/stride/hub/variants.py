"""Which model files belong together: the parts of a split file, and a repository's several quantisations."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from stride.errors import StrideError

_PART = re.compile(r"-\d{5}-of-\d{5}$")
_QUANTISATION = re.compile(
    r"(?:^|[-._/])((?:UD-)?(?:I?Q\d[A-Z0-9_]*|TQ\d_\d|MXFP4[A-Z0-9_]*|BF16|F16|F32))$", re.IGNORECASE
)
_NOT_MODELS = re.compile(r"mmproj|imatrix", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Variant:
    """One model of a repository: ``stem`` is its path without part number and suffix, ``paths`` its parts in order."""

    stem: str
    paths: tuple[str, ...]
    n_bytes: int

    @property
    def tag(self) -> str:
        """Short name: the quantisation that ends the file's name, else the whole stem."""
        match = _QUANTISATION.search(self.stem)
        return match[1] if match else PurePosixPath(self.stem).name

    def matches(self, tag: str) -> bool:
        return tag.casefold() in (self.tag.casefold(), self.stem.casefold(), PurePosixPath(self.stem).name.casefold())


def variants(files: Iterable[tuple[str, int]]) -> list[Variant]:
    """The models among (path, size) pairs, smallest first. Vision projectors and importance matrices are none."""
    groups: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for path, size in files:
        if path.endswith(".gguf") and not _NOT_MODELS.search(path):
            groups[_PART.sub("", path.removesuffix(".gguf"))].append((path, size))
    found = [
        Variant(stem, tuple(sorted(path for path, _ in parts)), sum(size for _, size in parts))
        for stem, parts in groups.items()
    ]
    return sorted(found, key=lambda variant: (variant.n_bytes, variant.stem))


def choose(found: list[Variant], repo: str, tag: str | None) -> Variant:
    """The variant that ``tag`` names, or the only one there is.

    Raises:
        StrideError: none, or several; lists the choices with their sizes.
    """
    matching = [variant for variant in found if tag is None or variant.matches(tag)]
    if len(matching) == 1:
        return matching[0]
    if not found:
        raise StrideError(f"{repo} holds no GGUF model")
    listing = "\n".join(f"  {repo}:{variant.tag:<12} {gib(variant.n_bytes):>12}" for variant in matching or found)
    problem = f"has no {tag!r}" if not matching else f"holds {len(matching)} models" + (f" named {tag!r}" * bool(tag))
    raise StrideError(f"{repo} {problem}; choose one:\n{listing}")


def gib(n_bytes: int) -> str:
    """A size for people, in binary units."""
    value, unit = float(n_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.2f} {unit}" if unit != "B" else f"{n_bytes} B"

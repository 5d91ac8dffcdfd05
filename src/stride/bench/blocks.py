"""The report's parts as plain data, written once and rendered twice: as HTML and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph; inline Markdown."""

    markdown: str


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list; inline Markdown."""

    items: Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    """Cells of inline Markdown; the first column names its row."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart: its file's name without ending, SVG, what it shows in words, and a caption."""

    name: str
    svg: str
    alt: str
    caption: str


@dataclass(frozen=True, slots=True)
class Listing:
    """Verbatim text; folded away behind its summary unless ``open``."""

    summary: str
    text: str
    language: str = ""
    open: bool = False


@dataclass(frozen=True, slots=True)
class Folded:
    """Blocks behind a summary: for those who want every run."""

    summary: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Section:
    """A heading of level 2 or 3 and what stands under it."""

    title: str
    blocks: Sequence[Block]
    level: int = 2

    @property
    def anchor(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


Block = Text | Bullets | Table | Figure | Listing | Folded


def plain(text: object) -> str:
    """Text from outside as inline Markdown that shows exactly that text, on one line."""
    return re.sub(r"([\\`*_\[\]<>|&~])", r"\\\1", " ".join(str(text).split()))


def clipped(text: str, longest: int) -> str:
    """At most so many characters, and how many are left out; report.json has them all."""
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text) - longest:,} more characters)"


def code(text: object) -> str:
    """Inline code that holds the text as it is."""
    shown = " ".join(str(text).split())
    ticks = "`" * (max((len(run) for run in re.findall(r"`+", shown)), default=0) + 1)
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{ticks}{pad}{shown}{pad}{ticks}"


def fence(text: str) -> str:
    """A fence longer than any run of backticks in the text."""
    return "`" * max(3, max((len(run) for run in re.findall(r"`+", text)), default=0) + 1)

"""The text a parser reads: it may end anywhere for now, and parsers wait for more by yielding None."""

from __future__ import annotations

from collections.abc import Collection, Generator
from typing import TypeAlias, TypeVar

from stride.types import Delta

T = TypeVar("T")
Wait: TypeAlias = Generator[None, None, T]
"""Looks ahead: yields None whenever more text is needed to decide, and returns what it decided."""
Parse: TypeAlias = Generator[Delta | None, None, T]
"""Yields what it has parsed, and None whenever more text is needed."""


class Source:
    """Text that arrives in pieces. Offsets count from the first character that has not been taken.

    Every question is answered from the text alone, never from where it was cut; so a stream parses like the whole.
    """

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._closed = False

    def append(self, text: str) -> None:
        self._text = self._text[self._at :] + text
        self._at = 0

    def close(self) -> None:
        """No more text will come."""
        self._closed = True

    def __len__(self) -> int:
        """How many characters are there to take now."""
        return len(self._text) - self._at

    def peek(self, n: int) -> str:
        return self._text[self._at : self._at + n]

    def take(self, n: int) -> str:
        taken = self._text[self._at : self._at + n]
        self._at += n
        return taken

    def take_until(self, chars: Collection[str]) -> str:
        """Take what has arrived, up to the first of ``chars``."""
        found = [at for char in chars if (at := self._text.find(char, self._at)) >= 0]
        return self.take(min(found, default=len(self._text)) - self._at)

    def ended(self, offset: int = 0) -> Wait[bool]:
        """Whether the text ends at ``offset``."""
        while len(self) <= offset and not self._closed:
            yield None
        return len(self) <= offset

    def char(self, offset: int) -> Wait[str]:
        """The character at ``offset``, "" at the end."""
        at_end = yield from self.ended(offset)
        return "" if at_end else self._text[self._at + offset]

    def literal(self, offset: int, options: Collection[str]) -> Wait[str | None]:
        """Which of ``options`` stands at ``offset``, the longest of several; None if none."""
        longest = max(map(len, options), default=0)
        while True:
            text = self._text[self._at + offset : self._at + offset + longest]
            undecided = not self._closed and any(len(o) > len(text) and o.startswith(text) for o in options)
            if not undecided:
                return max((o for o in options if text.startswith(o)), key=len, default=None)
            yield None

    def skip_space(self, offset: int) -> Wait[int]:
        """The offset of the next character that is not white space, or of the end."""
        while (yield from self.char(offset)).isspace():
            offset += 1
        return offset

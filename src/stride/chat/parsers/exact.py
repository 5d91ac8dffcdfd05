"""Calls that a grammar has kept to their canonical form: read as they come, and by nothing else."""

from __future__ import annotations

from stride.chat.parsers.format import Calls, Outcome, ToolFormat
from stride.chat.parsers.source import Parse, Source


def parse_exact(source: Source, calls: Calls, tool_format: ToolFormat) -> Parse[Outcome]:
    """Parse a call that begins with its whole canonical opening; anything else is text."""
    openings = {
        shape.before + name + shape.after: (shape, name) for shape in tool_format.shapes for name in calls.names
    }
    opening = yield from source.literal(0, openings)
    if opening is None:
        return Outcome.TEXT
    shape, name = openings[opening]
    if shape.arguments == "xml":
        assert tool_format.call is not None
        return (yield from tool_format.call(source, calls))
    while opening is not None:
        source.take(len(opening))
        yield calls.start(name)
        yield from _arguments(source, calls)
        others = {shape.more + other + shape.after: other for other in calls.names} if shape.more else {}
        opening = yield from source.literal(0, others)
        name = others.get(opening or "", name)
    if (yield from source.literal(0, (shape.closing,))) is None:
        return Outcome.OPEN
    source.take(len(shape.closing))
    if (separator := (yield from source.literal(0, tool_format.separators_between))) is not None:
        source.take(len(separator))
    return Outcome.CLOSED


def _arguments(source: Source, calls: Calls) -> Parse[None]:
    json = PartialJson()
    while not json.complete and not (yield from source.ended()):
        yield calls.arguments(json.push(source))
    yield calls.arguments(json.closing())


class PartialJson:
    """One JSON object in pieces, each of which can be followed by what closes it.

    What cannot (half an escape, a number that may go on, a key without its value) is held back.
    """

    def __init__(self) -> None:
        self.complete = False
        self._closers: list[str] = []
        self._held = ""
        self._empty = True
        self._in_string = self._in_scalar = self._is_key = False
        self._escape = ""

    def push(self, source: Source) -> str:
        """Take what there is of the object; gives what is certain."""
        text = source.peek(len(source))
        certain: list[str] = []
        taken = 0
        for char in text:
            taken += 1
            self._held += char
            if self._can_end_after(char):
                certain.append(self._held)
                self._held = ""
            if self.complete:
                break
        source.take(taken)
        self._empty = self._empty and not certain
        return "".join(certain)

    def closing(self) -> str:
        """What makes valid JSON of the pieces given so far."""
        if self._empty:
            return "{}"
        quote = '"' if self._in_string and not self._is_key else ""
        return quote + "".join(reversed(self._closers))

    def _can_end_after(self, char: str) -> bool:
        if self._in_string:
            return self._in_string_after(char)
        if char in "{[":
            self._closers.append("}" if char == "{" else "]")
            self._is_key = char == "{"
            return True
        if char in "}]":
            self._closers.pop()
            self.complete = not self._closers
            self._in_scalar = self._is_key = False
            return True
        if char == '"':
            self._in_string = True
            return not self._is_key
        if char in ",:":
            self._in_scalar = False
            self._is_key = char == "," and self._closers[-1] == "}"
            return False
        if char in " \t\r\n":
            ended, self._in_scalar = self._in_scalar, False
            return ended
        self._in_scalar = True
        return False

    def _in_string_after(self, char: str) -> bool:
        if self._escape or char == "\\":
            self._escape += char
            if _is_whole(self._escape):
                self._escape = ""
        elif char == '"':
            self._in_string = False
        return not self._is_key and not self._escape


def _is_whole(escape: str) -> bool:
    r"""Whether an escape is complete: ``\n``, ``\u00e9``, or both halves of a surrogate pair."""
    if not escape.startswith("\\u"):
        return len(escape) == 2
    first_half = escape[2:4].lower() in ("d8", "d9", "da", "db")
    return len(escape) == (12 if first_half else 6)

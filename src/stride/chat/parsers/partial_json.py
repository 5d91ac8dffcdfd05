"""JSON as it streams: what of it is certain wherever it may end."""

from __future__ import annotations


class PartialJson:
    """One JSON value in pieces, each of which can be followed by what closes it.

    What cannot (half an escape, a number that may go on, a key without its value) is held back. ``complete``: an
    array or object has ended; where a number or a word ends, only what follows tells.
    """

    def __init__(self) -> None:
        self.complete = False
        self._closers: list[str] = []
        self._held = ""
        self._empty = True
        self._in_string = self._in_scalar = self._is_key = False
        self._escape = ""

    def push(self, text: str) -> tuple[str, int]:
        """What is certain now, and how many characters of ``text`` belong to the value."""
        certain: list[str] = []
        n_taken = 0
        for char in text:
            if self.complete:
                break
            n_taken += 1
            self._held += char
            if self._can_end_after(char):
                certain.append(self._held)
                self._held = ""
        self._empty = self._empty and not certain
        return "".join(certain), n_taken

    def rest(self) -> str:
        """What was held back of a value that is whole."""
        held, self._held = self._held, ""
        return held

    def closing(self) -> str | None:
        """What makes valid JSON of the pieces given so far; None if there are none."""
        quote = '"' if self._in_string and not self._is_key else ""
        return None if self._empty else quote + "".join(reversed(self._closers))

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

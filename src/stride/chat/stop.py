"""Stop strings: found wherever the stream is cut, and never shown."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Watches one stream for the first stop string that completes (of those completing together, the longest).

    One Knuth-Morris-Pratt automaton per stop string: linear time, and no more is held back than may still become
    a stop string.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = sorted(filter(None, stops), key=len, reverse=True)
        self._fallbacks = [_fallbacks(stop) for stop in self._stops]
        self._matched = [0] * len(self._stops)  # how many characters of each stop string the stream ends with
        self._held = ""
        self.n_held = 0  # characters that have not been shown; they never are after a hit
        self.found: str | None = None  # the stop string that completed

    def push(self, text: str) -> tuple[str, bool]:
        """The text that may be shown now, and whether a stop string has been found; after a hit, nothing is shown."""
        if self.found is not None:
            self.n_held += len(text)
            return "", True
        pending = self._held + text
        for end, char in enumerate(text, start=len(self._held) + 1):
            for i, (stop, fallbacks) in enumerate(zip(self._stops, self._fallbacks, strict=True)):
                length = self._matched[i]
                while length and stop[length] != char:
                    length = fallbacks[length - 1]
                if stop[length] == char:
                    length += 1
                if length == len(stop):
                    self.found, self._held = stop, ""
                    self.n_held = len(pending) - (end - length)
                    return pending[: end - length], True
                self._matched[i] = length
        shown = len(pending) - max(self._matched, default=0)
        self._held = pending[shown:]
        self.n_held = len(self._held)
        return pending[:shown], False

    def flush(self) -> str:
        """What was held back, where the stream ends or is interrupted without a hit."""
        held, self._held = self._held, ""
        self._matched = [0] * len(self._stops)
        self.n_held -= len(held)
        return held


def _fallbacks(stop: str) -> list[int]:
    """For each prefix of ``stop``, the length of its longest proper prefix that is also its suffix."""
    lengths = [0] * len(stop)
    length = 0
    for i in range(1, len(stop)):
        while length and stop[i] != stop[length]:
            length = lengths[length - 1]
        if stop[i] == stop[length]:
            length += 1
        lengths[i] = length
    return lengths

"""Tokens of prompts for a step in which other sequences decode: measured, so that those keep half their pace."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from statistics import median

SLOWDOWN = 1.8
"""Times a step with prompts is to take what it takes without: twice at most, and steps differ."""
ALONE_EVERY = 32
"""Steps with prompts after which one goes without, to measure that again."""
_REMEMBERED = 5
_GROWTH, _SHRINKAGE = 1.25, 0.5
"""By how much the tokens of two steps differ at most: a step that was slow by chance must not bring a slower one."""


class Pace:
    """Learns from the steps that were run. ``chunk``: tokens of a step at most.

    The time of a step without prompts is the median of the last few of as many tokens, drafts among them. That of the
    prompts' tokens, which is neither proportional to their number nor steady, sets their number in the next step: as
    many as would have fitted.
    """

    def __init__(self, chunk: int) -> None:
        self._chunk = chunk
        self._alone: dict[int, deque[float]] = {}
        self._fitting = 1.0  # tokens of prompts, by the last step that had some
        self._since_alone = 0

    def n_prompt_tokens(self, n_decoding: int) -> int:
        """Tokens of prompts for the next step, beside ``n_decoding`` others; 0 where those go alone, to be measured."""
        if n_decoding == 0:
            return self._chunk
        if self._seconds_alone(n_decoding) is None or self._since_alone >= ALONE_EVERY:
            return 0
        return max(1, min(self._chunk - n_decoding, int(self._fitting)))

    def ran(self, n_decoding: int, n_prompt_tokens: int, seconds: float) -> None:
        """Note what a step took."""
        if n_decoding == 0:
            return
        if n_prompt_tokens == 0:
            self._alone.setdefault(n_decoding, deque(maxlen=_REMEMBERED)).append(seconds)
            self._since_alone = 0
            return
        self._since_alone += 1
        alone = self._seconds_alone(n_decoding)
        if alone is None:
            return
        spent, allowed = max(seconds - alone, 1e-9), (SLOWDOWN - 1) * alone
        change = min(_GROWTH, max(_SHRINKAGE, allowed / spent))
        if n_prompt_tokens >= int(self._fitting):
            self._fitting = max(self._fitting, n_prompt_tokens) * change
        elif change < 1:  # even fewer did not fit; that they did says nothing about more
            self._fitting = n_prompt_tokens * change
        self._fitting = min(float(self._chunk), max(1.0, self._fitting))

    def _seconds_alone(self, n_decoding: int) -> float | None:
        """What a step of so many tokens takes, or of the next fewer that was measured: not more, at any rate."""
        known = sorted(self._alone)
        at = bisect_right(known, n_decoding)
        return median(self._alone[known[at - 1]]) if at else None

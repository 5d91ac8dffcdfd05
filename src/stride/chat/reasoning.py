"""How long a model may think: a budget of tokens, after which its thought is closed for it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from stride.chat.parsers.format import ToolFormat
from stride.chat.tokenizer import Tokenizer
from stride.types import LogitsMask, TokenSet, Tool

EFFORT_BUDGETS: Mapping[str, int | None] = {
    "none": 0,
    "minimal": 512,
    "low": 2048,
    "medium": 8192,
    "high": None,
    "xhigh": None,
    "max": None,
}
"""Tokens of reasoning by effort, where the chat template does not know efforts."""
_TAIL = 512  # characters that are searched for tags; longer than any of them


def effort_variables(effort: str | None) -> dict[str, str | bool]:
    """What the chat template hears of the effort: its name, and the switch that many templates have."""
    if effort is None:
        return {}
    return {"reasoning_effort": effort, **({"enable_thinking": False} if effort == "none" else {})}


class ThoughtBudget:
    """A `LogitsMask` around another, or around none: counts the tokens of the thought, then forces its end.

    The end is forced between characters, and never inside a call that the model makes before the end of its thought.
    """

    def __init__(
        self,
        inner: LogitsMask | None,
        budget: int,
        tokenizer: Tokenizer,
        tool_format: ToolFormat,
        tools: Sequence[Tool],
        in_reasoning: bool,
    ) -> None:
        """The format must know reasoning."""
        assert tool_format.reasoning is not None
        self._begin, self._end = tool_format.reasoning
        self._inner = inner
        self._left = budget
        self._tokenizer = tokenizer
        self._thinking = in_reasoning
        self._undecided = not in_reasoning  # the model may yet open a thought
        self._forced = tokenizer.encode(f"\n{self._end}\n", special=True, continues=True)
        self._n_forced = 0
        shapes = [shape for shape in tool_format.shapes if shape.trigger]
        openings = [re.escape(shape.before + tool.name + shape.after) for shape in shapes for tool in tools]
        closings = [re.escape(shape.closing) for shape in shapes if shape.closing]
        self._call_begins = re.compile("|".join(openings) if tools else "(?!)")
        self._call_ends = re.compile("|".join(closings) if closings else "(?!)")
        self._in_call = False
        self._text = b""

    def allowed(self) -> TokenSet:
        allowed = TokenSet(np.empty(0, np.intp), excluded=True) if self._inner is None else self._inner.allowed()
        if self._thinking and self._left <= 0 and not self._in_call:
            token_id = self._forced[self._n_forced]
            if self._n_forced or (self._between_characters() and token_id in allowed):
                return TokenSet(np.array([token_id], np.intp))
        return allowed

    def accept(self, token_id: int) -> None:
        if self._inner is not None:
            self._inner.accept(token_id)
        if not (self._thinking or self._undecided):
            return
        forced = self._thinking and self._left <= 0 and not self._in_call and token_id == self._forced[self._n_forced]
        self._left -= self._thinking
        self._text = (self._text + self._tokenizer.token_bytes(token_id))[-_TAIL:]
        if forced:
            self._n_forced += 1
            self._thinking = self._n_forced < len(self._forced)
        else:
            self._follow(self._text.decode(errors="replace"))

    def _follow(self, text: str) -> None:
        if self._undecided:
            start = text.lstrip()
            self._thinking = start.startswith(self._begin)
            self._undecided = not self._thinking and self._begin.startswith(start)
            self._text = b"" if self._thinking else self._text
        elif self._in_call:
            if self._call_ends.search(text):
                self._in_call, self._text = False, b""
        elif self._call_begins.search(text):
            self._in_call, self._text = True, b""
        elif self._end in text:
            self._thinking = False

    def _between_characters(self) -> bool:
        try:
            self._text[-3:].decode()
        except UnicodeDecodeError as error:
            return error.reason != "unexpected end of data"
        return True

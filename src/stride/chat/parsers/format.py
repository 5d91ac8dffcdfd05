"""What a tool-call format is made of, and the calls that one answer makes."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

from stride.chat.parsers.source import Parse, Source
from stride.types import JsonSchema, Tool, ToolCallDelta, ToolCallStart

THINK = ("<think>", "</think>")
_ALPHANUMERIC = string.ascii_letters + string.digits


def _random_id(length: int) -> str:
    return "".join(secrets.choice(_ALPHANUMERIC) for _ in range(length))


def long_call_id() -> str:
    """An id like OpenAI's."""
    return "call_" + _random_id(24)


def short_call_id() -> str:
    """Nine characters: Mistral's templates refuse others."""
    return _random_id(9)


class Outcome(Enum):
    """What stood at a marker."""

    TEXT = auto()  # no call; nothing was taken
    CLOSED = auto()  # a call
    OPEN = auto()  # a call that was not closed; its closing tags may follow later and are not text


class Calls:
    """Numbers the calls of one answer and knows the tools that may be called."""

    def __init__(self, tools: Sequence[Tool], new_id: Callable[[], str]) -> None:
        self._tools: Mapping[str, Tool] = {tool.name: tool for tool in tools}
        self._new_id = new_id
        self.count = 0
        self.exact = False  # a grammar keeps the text to what it allows: tags mean what they mean there
        self.known_only = False  # where a call is unlikely (inside reasoning), only known names make one

    @property
    def names(self) -> Collection[str]:
        """The tools that may be called."""
        return self._tools.keys()

    def accepts(self, name: str) -> bool:
        return name in self._tools or not self.known_only

    def knows(self, name: str) -> bool:
        return name in self._tools

    def parameters(self, name: str) -> JsonSchema:
        """The JSON schema of the tool's arguments; {} for an unknown tool."""
        return self._tools[name].parameters if name in self._tools else {}

    def start(self, name: str) -> ToolCallStart:
        self.count += 1
        return ToolCallStart(self.count - 1, self._new_id(), name)

    def arguments(self, text: str) -> ToolCallDelta:
        """A piece of the arguments of the call that started last."""
        return ToolCallDelta(self.count - 1, text)


@dataclass(frozen=True, slots=True)
class CallShape:
    """How a call is written when it is written as the template teaches: the form that grammars allow.

    ``before`` NAME ``after`` ARGUMENTS ``closing``. Text that reaches ``trigger``, with which ``before`` begins, must
    go on with a call. ``more``: what may stand in place of ``closing`` to begin another call.
    """

    before: str
    after: str
    closing: str
    trigger: str
    arguments: Literal["json", "xml"] = "json"
    more: str = ""


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How a model writes tool calls and reasoning.

    ``markers`` may begin a call anywhere, ``first_markers`` only before any other text. ``call`` parses what stands
    at a marker. ``separators`` stand inside calls; ``closers`` are the tags that a malformed call may leave behind.
    ``shapes``: the canonical forms of a call; where there are none, calls cannot be constrained.
    ``separators_between``: what may stand between two of them.
    ``reasoning``: the tags around it.
    """

    name: str
    markers: tuple[str, ...] = ()
    first_markers: tuple[str, ...] = ()
    closers: tuple[str, ...] = ()
    call: Callable[[Source, Calls], Parse[Outcome]] | None = None
    separators: tuple[str, ...] = ()
    shapes: tuple[CallShape, ...] = ()
    separators_between: tuple[str, ...] = ("\n", "")
    reasoning: tuple[str, str] | None = None
    new_id: Callable[[], str] = long_call_id

    @property
    def shown_tokens(self) -> tuple[str, ...]:
        """Special tokens that the parser must see: give them to ``Tokenizer.detokenizer(keep=...)``."""
        return (*self.markers, *self.separators, *self.closers, *(self.reasoning or ()))

    def starts_in_reasoning(self, prompt: str) -> bool:
        """Whether an answer to this rendered prompt begins inside reasoning."""
        return self.reasoning is not None and prompt.rstrip().endswith(self.reasoning[0])

"""What every generator makes: a conversation, its tools, and what kind of text it is."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from stride.types import Message, Tool, ToolCall

Split = Literal["train", "test"]
T = TypeVar("T")
HELD_OUT = 8
"""One name or value in so many is for tests alone."""


@dataclass(frozen=True)
class Conversation:
    """Messages, the tools on offer, and the kind of text, by which losses are told."""

    kind: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()


def split_of(text: str) -> Split:
    """Whether a name or a value belongs to the training text or to the tests: it never is in both."""
    return "train" if zlib.crc32(text.casefold().encode()) % HELD_OUT else "test"


class Source:
    """Random choices for one side of the split."""

    def __init__(self, rng: random.Random, split: Split) -> None:
        self.rng, self.split = rng, split

    def own(self, make: Callable[[], str]) -> str:
        """What ``make`` gives, once it belongs to this side of the split."""
        while split_of(text := make()) != self.split:
            pass
        return text

    def wording(self, train: Sequence[str], test: Sequence[str]) -> str:
        """One of several ways to say something; those of the tests are never trained."""
        return self.rng.choice(train if self.split == "train" else test)

    def choice(self, values: Sequence[T]) -> T:
        return self.rng.choice(values)

    def sample(self, values: Sequence[T], n: int) -> list[T]:
        return self.rng.sample(values, n)

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def between(self, low: int, high: int) -> int:
        return self.rng.randint(low, high)


def answered(kind: str, question: str, reasoning: str, answer: str) -> Conversation:
    return Conversation(kind, (Message("user", question), Message("assistant", answer, reasoning=reasoning)))


def tool_call(name: str, arguments: dict[str, object]) -> ToolCall:
    text = json.dumps(arguments, ensure_ascii=False)
    return ToolCall(f"call_{zlib.crc32((name + text).encode()):08x}", name, text)


def capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def listed(parts: Sequence[str]) -> str:
    """a, b and c"""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]

"""The texts that the demo model learns from, and those that it is tested on: they have nothing in common."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from stride.bench.tasks import POST_TASKS, TOOLS

sys.path.insert(0, str(Path(__file__).parents[1] / "demo"))

from texts import FIRST_MIX, MIX, conversations
from texts.conversation import Conversation, split_of

N = 1500


def stream(split: Any) -> list[Conversation]:
    return [c for mix in (MIX, FIRST_MIX) for c in islice(conversations("test of the texts", split, mix), N)]


@pytest.fixture(scope="module")
def trained() -> list[Conversation]:
    return stream("train")


@pytest.fixture(scope="module")
def tested() -> list[Conversation]:
    return stream("test")


def tool_names(conversations: list[Conversation]) -> Iterator[str]:
    return (tool.name for conversation in conversations for tool in conversation.tools)


def parameter_names(conversations: list[Conversation]) -> Iterator[str]:
    for conversation in conversations:
        for tool in conversation.tools:
            yield from tool.parameters["properties"]


def values(conversations: list[Conversation]) -> Iterator[str]:
    """Of calls; not true and false."""
    for conversation in conversations:
        for message in conversation.messages:
            for call in message.tool_calls:
                for value in json.loads(call.arguments).values():
                    for one in value if isinstance(value, list) else [value]:
                        if not isinstance(one, bool):
                            yield str(one)


def requests(conversations: list[Conversation]) -> Iterator[str]:
    return (m.content or "" for c in conversations for m in c.messages if m.role == "user")


@pytest.mark.parametrize("of", [tool_names, parameter_names, values, requests])
def test_what_is_tested_was_never_trained(trained: list[Conversation], tested: list[Conversation], of: Any) -> None:
    seen, new = ({text.casefold() for text in of(side)} for side in (trained, tested))
    assert len(seen) > 500
    assert len(new) > 500
    assert not seen & new


def test_names_and_values_are_held_out_by_construction(trained: list[Conversation]) -> None:
    assert {split_of(name) for name in (*tool_names(trained), *parameter_names(trained))} == {"train"}


def test_the_posts_own_prompts_and_tools_are_not_trained(trained: list[Conversation]) -> None:
    asked = set(requests(trained))
    assert not asked & {task.prompt for task in POST_TASKS}
    assert not {tool["function"]["name"] for tool in TOOLS} & set(tool_names(trained))
    programs = " ".join(m.content or "" for c in trained if c.kind == "programs" for m in c.messages).casefold()
    assert not any(word in programs.split() for word in ("todo", "todos", "task", "tasks"))


def test_the_same_seed_gives_the_same_text() -> None:
    first, second = (list(islice(conversations(3), 50)) for _ in range(2))
    assert first == second

"""Conversations made from small tables and fixed seeds: what the tokenizer and the model learn from."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping

from texts import calls, knowledge, programs
from texts.conversation import Conversation, Source, Split

Maker = Callable[[Source], Conversation]

MIX: Mapping[Maker, float] = {
    calls.tools: 50,
    programs.program: 8,
    knowledge.greeting: 4,
    knowledge.capital: 8,
    knowledge.country_of: 2,
    knowledge.fact: 4,
    knowledge.arithmetic: 8,
    knowledge.units: 2,
    knowledge.explanation: 14,
    knowledge.function: 6,
    knowledge.story: 2,
    knowledge.as_json: 4,
    knowledge.recall: 6,
    knowledge.repeat: 6,
}
"""How often each kind of text comes."""
FIRST_MIX: Mapping[Maker, float] = {
    **MIX,
    knowledge.recall: 60,
    knowledge.repeat: 60,
    programs.program: 2,
    calls.tools: 20,
}
"""To begin with: short texts that only copying can predict."""


def conversations(seed: int | str, split: Split = "train", mix: Mapping[Maker, float] = MIX) -> Iterator[Conversation]:
    """An endless stream; the same seed gives the same conversations."""
    source = Source(random.Random(seed), split)
    makers, weights = list(mix), list(mix.values())
    while True:
        (maker,) = source.rng.choices(makers, weights)
        yield with_system(source, maker(source))


def with_system(source: Source, conversation: Conversation) -> Conversation:
    """A system prompt before some of those that have none."""
    messages = conversation.messages
    if messages[0].role == "system" or conversation.tools:
        return conversation
    return Conversation(conversation.kind, (*calls.system(source), *messages), conversation.tools)


KINDS = ("tools", "programs", "chat", "facts", "sums", "explain", "functions", "story", "json", "copy")
"""All kinds of text."""

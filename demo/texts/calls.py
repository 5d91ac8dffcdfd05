"""Conversations with tools: one call, several at once, none, their results in the answer; several turns each."""

from __future__ import annotations

import json

from stride.types import Message, Tool
from texts import families, words
from texts.conversation import Conversation, Source, capitalised, tool_call
from texts.knowledge import small_talk
from texts.tools import Offer, Wish, made_up, wish


class Kit:
    """The tools of one conversation, in random order, and wishes for them."""

    def __init__(self, source: Source, n_tools: int) -> None:
        self.source = source
        self._entries: list[families.Family | Offer] = []
        names: set[str] = set()
        natural = source.choice([0.3, 0.6, 1.0])
        while len(self._entries) < n_tools:
            entry = families.drawn(source) if source.chance(natural) else made_up(source)
            offer = entry.offer if isinstance(entry, families.Family) else entry
            if offer.name not in names and not any(self._offer(e).topic == offer.topic for e in self._entries):
                names.add(offer.name)
                self._entries.append(entry)

    @staticmethod
    def _offer(entry: families.Family | Offer) -> Offer:
        return entry.offer if isinstance(entry, families.Family) else entry

    @property
    def tools(self) -> tuple[Tool, ...]:
        return tuple(self._offer(entry).tool() for entry in self._entries)

    def wishes(self, n: int) -> list[Wish]:
        """Of different tools, or, now and then, of one."""
        if n > 1 and (len(self._entries) < n or self.source.chance(0.2)):
            chosen = [self.source.choice(self._entries)] * n
        else:
            chosen = self.source.sample(self._entries, n)
        return [e.wish() if isinstance(e, families.Family) else wish(self.source, e) for e in chosen]


def request(source: Source, wishes: list[Wish]) -> str:
    """All wishes in one message."""
    texts = [one.text for one in wishes]
    joint = source.choice([" and ", " and ", ", and ", " and also ", ". Also ", ", then ", "; "])
    text = joint.join([", ".join(texts[:-1]), texts[-1]]) if len(texts) > 1 else texts[0]
    return families.sentence(source, text)


def thought(wishes: list[Wish]) -> str:
    """What the model thinks before it calls: what is wanted, and that it takes so many calls."""
    count = {1: "One call", 2: "Two calls", 3: "Three calls"}[len(wishes)]
    return f"{count}: " + "; ".join(one.gist for one in wishes) + "."


def result(source: Source, one: Wish) -> tuple[str, str]:
    """What the tool gives, and how the answer says it."""
    gist, topic = capitalised(one.gist), one.offer.topic
    if source.chance(0.12):
        reason = source.choice(["not found", "timed out", "access denied", "service unavailable", "invalid value"])
        return json.dumps({"error": reason}), f"{gist}: that failed, {reason}."
    if topic == "arithmetic":
        number = f"{families.evaluated(one.arguments):.8g}"
        return number if source.chance(0.5) else json.dumps({"result": number}), f"{gist}: {number}."
    if one.gist.startswith("the ") and source.chance(0.6):
        value = source.choice([f"{source.between(-9, 40)} degrees", f"{source.between(1, 999)}", *LEVELS])
        text = source.choice([value, json.dumps({"value": value}), json.dumps({topic.replace(" ", "_"): value})])
        return text, f"{gist} is {value}."
    if topic.split()[0] in DOING or source.chance(0.3):
        status = source.choice(["ok", "done", "created", "sent", "confirmed", "started"])
        number = words.identifier(source)
        return json.dumps({"status": status, "id": number}), f"{gist}: {status}, the id is {number}."
    if source.chance(0.3):
        text = f"{words.word(source)} {words.word(source)}" if source.chance(0.5) else words.word(source)
        return text, f"{gist}: {text}."
    pairs: dict[str, str | int] = {}
    for _ in range(source.choice([1, 2, 2, 3])):
        value = source.choice([words.word(source), source.between(0, 999), words.place(source), source.choice(LEVELS)])
        pairs[source.choice([words.pseudo_word(source), *words.NOUNS, *KEYS])] = value
    said = ", ".join(f"{name} {value}" for name, value in pairs.items())
    return json.dumps(pairs), f"{gist}: {said}."


LEVELS = ("low", "high", "mild", "heavy", "light", "good", "poor", "moderate", "sunny", "cloudy", "rainy", "strong")
KEYS = ("temperature", "sky", "level", "status", "unit", "total", "wind", "state", "title", "rate", "time", "city")
DOING = ("send", "add", "book", "set", "play")


def turn(source: Source, kit: Kit, wishes: list[Wish], finished: bool) -> list[Message]:
    """A request and the calls; if ``finished``, the results and the answer too."""
    calls = [tool_call(one.offer.name, dict(one.arguments)) for one in wishes]
    messages = [
        Message("user", request(source, wishes)),
        Message("assistant", None, reasoning=thought(wishes), tool_calls=tuple(calls)),
    ]
    if finished:
        results, answers = zip(*(result(source, one) for one in wishes), strict=True)
        for call, text in zip(calls, results, strict=True):
            messages.append(Message("tool", text, tool_call_id=call.id, name=call.name))
        reasoning = "I have the result." if len(wishes) == 1 else "I have the results."
        messages.append(Message("assistant", " ".join(answers), reasoning=reasoning))
    return messages


def system(source: Source) -> list[Message]:
    kind = source.rng.random()
    if kind < 0.4:
        return []
    if kind < 0.7:
        letters = "".join(source.choice("0123456789abcdef") for _ in range(source.choice([4, 6, 8, 12, 16])))
        name = source.choice(["Run", "Session", "Request", "Trial", "Id"])
        return [Message("system", f"{name} {letters}.")]
    return [Message("system", source.choice(SYSTEMS))]


SYSTEMS = (
    "You are a helpful assistant.",
    "You are a helpful assistant. Answer briefly.",
    "Use the tools where they help.",
    "You can call functions. Call them when the user needs them.",
    "Be short and exact.",
)


def tools(source: Source) -> Conversation:
    """Several turns with the same tools. Some end with the call, so that more of them fit: schemas are long."""
    n_tools = source.choice([1, 2, 2, 2, 3, 3, 4])
    kit = Kit(source, n_tools)
    messages = system(source)
    n_turns = source.between(1, 6 if n_tools <= 2 else 5 if n_tools == 3 else 3)
    for _ in range(n_turns):
        kind = source.rng.random()
        if kind < 0.12:
            messages += small_talk(source, with_tools=True)
            continue
        n = 1 if kind < 0.55 else 2 if kind < 0.92 else 3
        messages += turn(source, kit, kit.wishes(n), finished=source.chance(0.35))
    return Conversation("tools", tuple(messages), kit.tools)

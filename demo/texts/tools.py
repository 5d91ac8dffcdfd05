"""Tools that no one has seen before, and calls of them: names, schemas, a request in words, the arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from stride.types import Tool
from texts import words
from texts.conversation import Source, capitalised, listed, split_of

Value = str | int | float | bool | list[str]


@dataclass(frozen=True)
class Parameter:
    """``say`` puts a value into the words of a request; ``draw`` makes (the value, how it is written there)."""

    name: str
    schema: dict[str, Any]
    draw: Callable[[], tuple[Value, str]]
    say: Callable[[str], str]
    required: bool = True


@dataclass(frozen=True)
class Offer:
    """A tool, what one says to have it called, and what it may answer."""

    name: str
    description: str
    parameters: tuple[Parameter, ...]
    asks: tuple[str, ...]
    topic: str
    results: tuple[str, ...] = field(default=())

    def tool(self) -> Tool:
        properties = {parameter.name: parameter.schema for parameter in self.parameters}
        schema: dict[str, Any] = {"type": "object", "properties": properties}
        if required := [parameter.name for parameter in self.parameters if parameter.required]:
            schema["required"] = required
        return Tool(self.name, self.description, schema)


@dataclass(frozen=True)
class Wish:
    """Something a user asks of a tool, and the call that does it. ``gist`` is the wish in a few words."""

    offer: Offer
    text: str
    arguments: dict[str, Value]
    gist: str


def spelled(source: Source, parts: list[str], style: str) -> str:
    """Words as one name: snake_case, camelCase, dotted, kebab-case or PascalCase."""
    match style:
        case "camel":
            return parts[0] + "".join(part.capitalize() for part in parts[1:])
        case "pascal":
            return "".join(part.capitalize() for part in parts)
        case "dotted":
            return f"{parts[-1]}.{'_'.join(parts[:-1])}"
        case "kebab":
            return "-".join(parts)
        case "plain":
            return "".join(parts)
    return "_".join(parts)


STYLES = ("snake",) * 8 + ("camel", "camel", "dotted", "kebab", "pascal", "plain")


def _drawn(make: Callable[[Source], str], source: Source) -> Callable[[], tuple[Value, str]]:
    def draw() -> tuple[Value, str]:
        text = make(source)
        return text, text

    return draw


def _quoted(make: Callable[[Source], str], source: Source) -> Callable[[], tuple[Value, str]]:
    def draw() -> tuple[Value, str]:
        text = make(source)
        return text, f'"{text}"'

    return draw


def _number(make: Callable[[Source], str], source: Source) -> Callable[[], tuple[Value, str]]:
    def draw() -> tuple[Value, str]:
        text = make(source)
        return (float(text) if "." in text else int(text)), text

    return draw


KINDS: dict[str, tuple[Callable[[Source], str], tuple[str, ...], tuple[str, ...]]] = {
    "place": (words.place, ("city", "location", "place", "town", "destination", "area"), ("in {}", "in {}", "for {}")),
    "person": (words.person, ("name", "person", "customer", "guest", "recipient", "owner"), ("for {}", "for {}")),
    "phrase": (words.phrase, ("query", "title", "subject", "keyword", "topic", "text"), ("about {}", "on {}")),
    "identifier": (words.identifier, ("id", "code", "reference", "key", "number"), ("{}", "with the id {}")),
    "date": (words.date, ("date", "day", "due", "deadline"), ("on {}", "for {}")),
    "clock": (words.clock, ("time", "hour", "start"), ("at {}",)),
    "mail": (words.mail, ("email", "address", "contact"), ("to {}",)),
    "path": (words.path, ("path", "file", "filename"), ("from {}", "in {}")),
}
"""Kind of string → its values, names of such parameters, and how one says them."""


def parameter_name(source: Source, bases: tuple[str, ...], style: str, taken: set[str], is_clear: bool = False) -> str:
    """``is_clear``: the name says what kind of value it is, for a request may not say the name."""

    def make() -> str:
        base = source.choice(bases)
        kind = source.rng.random() * (0.7 if is_clear else 1)
        if kind < 0.3:
            parts = [base]
        elif kind < 0.7:
            parts = [source.choice([*words.QUALIFIERS, *words.NOUNS]), base]
        elif kind < 0.8:
            parts = [words.pseudo_word(source), base]
        elif kind < 0.9:
            parts = [source.choice(words.NOUNS), source.choice(words.NOUNS)]
        else:
            parts = [words.pseudo_word(source)]
        name = spelled(source, parts, style)
        return name if name not in taken else f"{words.pseudo_word(source, 1)}_{base}"

    name = source.own(make)
    taken.add(name)
    return name


def spoken(name: str) -> str:
    """A name as one would say it: first_day and firstDay are "first day"."""
    letters = "".join(f" {c.lower()}" if c.isupper() else c for c in name)
    return " ".join(letters.replace("_", " ").replace("-", " ").replace(".", " ").split())


def parameter(source: Source, taken: set[str], style: str, required: bool) -> Parameter:
    """One of any type. What has no word of its own in a request is called by its name there."""
    kind = source.choice(
        words.listed(
            "place person phrase phrase identifier date clock mail path integer integer integer number number boolean "
            "enum enum array"
        )
    )
    if kind in KINDS:
        make, bases, says = KINDS[kind]
        # Two values of one kind would be told apart by nothing if their names were not said.
        is_clear = kind not in taken and source.chance(0.6)
        taken.add(kind)
        name = parameter_name(source, bases, style, taken, is_clear)
        say = source.choice(says) if is_clear else source.choice(NAMED).replace("NAME", spoken(name))
        draw = _quoted(make, source) if kind == "phrase" and source.chance(0.4) else _drawn(make, source)
        schema: dict[str, Any] = {"type": "string"}
    elif kind in ("integer", "number"):
        bases = ("count", "limit", "amount", "size", "quantity", "pages", "days", "price", "weight", "length", "age")
        name = parameter_name(source, bases, style, taken)
        make = words.integer if kind == "integer" or source.chance(0.3) else words.decimal
        say, draw = source.choice(NAMED).replace("NAME", spoken(name)), _number(make, source)
        schema = {"type": kind}
    elif kind == "boolean":
        name = parameter_name(source, ("active", "urgent", "public", "verbose", "notify", "recursive"), style, taken)
        yes, no = source.choice([("with {}", "without {}"), ("with {} on", "with {} off")])

        def draw() -> tuple[Value, str]:
            value = source.chance(0.5)
            return value, (yes if value else no).replace("{}", spoken(name))

        say, schema = "{}", {"type": "boolean"}
    elif kind == "enum":
        name = parameter_name(source, ("mode", "unit", "format", "level", "status", "color", "priority"), style, taken)
        options = list(dict.fromkeys(words.label(source) for _ in range(source.between(2, 4))))

        def draw() -> tuple[Value, str]:
            value = source.choice(options)
            return value, value

        say = source.choice([*NAMED, "NAME {}", "in {} NAME"]).replace("NAME", spoken(name))
        schema = {"type": "string", "enum": options}
    else:
        name = parameter_name(source, ("tags", "names", "items", "labels", "ids"), style, taken)

        def draw() -> tuple[Value, str]:
            values = [words.label(source) for _ in range(source.between(1, 3))]
            return values, listed(values)

        say = source.choice(NAMED).replace("NAME", spoken(name))
        schema = {"type": "array", "items": {"type": "string"}}
    if source.chance(0.5):
        schema["description"] = _described(source, name, kind)
    return Parameter(name, schema, draw, lambda text: say.replace("{}", text), required)


NAMED = ("with NAME {}", "NAME {}", "with NAME {}", "NAME = {}", "and NAME {}", "using {} as NAME", "NAME: {}")


def _described(source: Source, name: str, kind: str) -> str:
    said = spoken(name)
    forms = [f"The {said}", f"The {said}.", capitalised(said), f"{capitalised(said)} to use", f"Which {said}."]
    extra = {
        "place": ["Name of the place", "City, and country if needed.", "The city"],
        "date": ["YYYY-MM-DD", f"The {said}, such as 2030-01-31"],
        "clock": [f"The {said}, HH:MM"],
        "phrase": ["What to look for", "Free text."],
        "boolean": [f"Whether it is {said}", f"If true, {said}"],
        "integer": [f"How many {said}", "A whole number"],
        "enum": [f"One of the {said} values"],
    }
    return source.choice([*forms, *extra.get(kind, ())])


def made_up(source: Source) -> Offer:
    """A tool by a verb and a noun, either of which may be no word at all."""
    style = source.choice(STYLES)
    verb = source.choice(words.VERBS) if source.chance(0.85) else words.pseudo_word(source)
    noun = source.choice(words.NOUNS) if source.chance(0.7) else words.pseudo_word(source, 2)
    qualifier = [source.choice(words.ADJECTIVES)] if source.chance(0.25) else []
    parts = [verb, *qualifier, noun]
    name = spelled(source, parts, style)
    if {split_of(name), split_of(" ".join(parts))} != {source.split}:
        return made_up(source)
    topic = " ".join([*qualifier, noun])
    taken: set[str] = set()
    # A request without values could be one that was trained: the tests have none.
    n = source.choice([0 if source.split == "train" else 1, 1, 1, 1, 2, 2, 2, 3, 3, 4])
    parameter_style = style if style in ("snake", "camel") else "snake"
    parameters = [parameter(source, taken, parameter_style, i == 0 or source.chance(0.75)) for i in range(n)]
    article = "an" if topic[0] in "aeiou" else "a"
    asks = (
        f"{verb} the {topic}",
        f"{verb} {article} {topic}",
        f"{verb} {topic}",
        f"please {verb} the {topic}",
        f"I want to {verb} {article} {topic}",
        f"can you {verb} the {topic}",
        f"I need to {verb} the {topic}",
    )
    description = source.choice(
        [
            f"{capitalised(verb)} {article} {topic}",
            f"{capitalised(verb)} {article} {topic}.",
            f"{capitalised(verb)}s the {topic}.",
            f"Use this to {verb} {article} {topic}.",
            f"{capitalised(verb)} one {topic} and tell how it went.",
            "",
        ]
    )
    return Offer(name, description, tuple(parameters), asks, topic)


def wish(source: Source, offer: Offer) -> Wish:
    """A request to call a tool: all that is required is said, and sometimes more."""
    arguments: dict[str, Value] = {}
    said: list[str] = []
    for one in offer.parameters:
        if one.required or source.chance(0.5):
            arguments[one.name], text = one.draw()
            said.append(one.say(text))
    ask = source.choice(offer.asks)
    order = list(said)
    if len(order) > 1 and source.chance(0.3):
        source.rng.shuffle(order)
    text = " ".join([ask, *_joined(source, order)])
    gist = ask.removeprefix("please ").removeprefix("can you ").removeprefix("I want to ").removeprefix("I need to ")
    return Wish(offer, text, arguments, gist)


def _joined(source: Source, said: list[str]) -> list[str]:
    if len(said) > 1 and source.chance(0.5):
        return [", ".join(said)]
    if len(said) > 1 and source.chance(0.5):
        last = said[-1] if said[-1].startswith("and ") else f"and {said[-1]}"
        return [*said[:-1], last]
    return said

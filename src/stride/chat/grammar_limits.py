"""What clients' expressions, grammars and schemas may ask of the compiler.

llguidance bounds most of its work. It does not bound how deep it recurses, and a stack that overflows ends the whole
process; nor what a step costs in a long expression. What goes beyond that is refused before it is compiled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MAX_EXPRESSION = 10_000
"""Characters of a regular expression: time to compile can grow with their square, up to a quarter of a second."""
MAX_GRAMMAR = 100_000
"""Characters of a grammar: half a second."""
MAX_PARTS = 1000
"""Rules, groups, sets and repetitions of a grammar, each a level where they stand within one another. Chains of 2000
can need more than 8 MiB of stack, which threads have."""
MAX_LEVELS = 500
"""Schemas within one another, with all that is referred to added up, as a chain of references is followed one within
another. Of 1200 the stack can be too small."""
MAX_OPTIONAL = 1000
"""Properties of an object that may be left out: among so many, with 128,256 tokens, a mask takes up to 40 ms."""
MAX_PROPERTIES = 2000
"""Properties of an object: time to compile grows with their square, to a fifth of a second."""
MAX_LISTED = 1 << 63
"""From here on, a listed number becomes another one where its type is said to be integer."""
MAX_REPETITION = 65_535
_COUNT = re.compile(r"\{\s*(\d*)\s*,?\s*(\d*)\s*\}")
_REPEATED_ANCHOR = re.compile(r"(?<![\\\[])[\^$][*+?{]")
_REFERENCE = re.compile(r""""(?:\\.|[^"\\\n])*"|/(?![/*])(?:\\.|[^/\\\n])+/|(?://|\#)[^\n]*|(?P<reference>@[\w-]*)""")
"""In Lark, a reference to another grammar, and before it what could hold the same characters."""
_PART = re.compile(r"[\n(\[{?*+]|\$ref|\\u")  # the last one: a JSON schema inside can spell a reference with it


def check_expression(expression: str) -> None:
    """Refuse a regular expression that costs too much, or repeats what matches no text.

    Raises:
        ValueError: says why.
    """
    if len(expression) > MAX_EXPRESSION:
        raise ValueError(f"an expression has {len(expression)} characters, but may have {MAX_EXPRESSION}")
    _check_repetitions(expression)
    if _REPEATED_ANCHOR.search(expression):
        raise ValueError("it repeats an anchor, which matches no text")


def check_grammar(text: str) -> None:
    """Refuse a grammar, in GBNF or Lark, that costs too much.

    Raises:
        ValueError: says why.
    """
    if len(text) > MAX_GRAMMAR:
        raise ValueError(f"it has {len(text)} characters, but may have {MAX_GRAMMAR}")
    _check_repetitions(text)
    parts = sum(1 for _ in _PART.finditer(text))
    if parts > MAX_PARTS:
        raise ValueError(f"it has {parts} rules, groups, sets and repetitions, but may have {MAX_PARTS}")


def check_lark(text: str) -> None:
    """Refuse what only grammars of ours may do: refer to other grammars.

    Raises:
        ValueError: names the reference.
    """
    for found in _REFERENCE.finditer(text):
        if found["reference"]:
            raise ValueError(f"it refers to another grammar, {found['reference']}")


def check_schema(schema: Mapping[str, Any]) -> None:
    """Refuse a JSON schema that costs too much, or has a definition that is nothing but itself.

    Raises:
        ValueError: says why.
        RecursionError: the schema is nested too deeply.
    """
    definitions = {
        f"#/{key}/{name}": value
        for key in ("$defs", "definitions")
        if isinstance(schema.get(key), Mapping)
        for name, value in schema[key].items()
    }
    _check_cycles(definitions)
    references: set[str] = set()
    whole = _levels(schema, references)
    levels = whole + sum(_levels(definitions[name], set()) if name in definitions else whole for name in references)
    if levels > MAX_LEVELS:
        raise ValueError(f"it is {levels} schemas deep with all that it refers to, but may be {MAX_LEVELS}")


def _check_repetitions(text: str) -> None:
    for counts in _COUNT.findall(text):
        if any(len(count) > 5 or int(count or 0) > MAX_REPETITION for count in counts):
            raise ValueError(f"it repeats more than {MAX_REPETITION} times")


def _check_cycles(definitions: Mapping[str, Any]) -> None:
    """Definitions that refer to themselves and to nothing else fit no value."""
    ended: set[str] = set()
    for name in definitions:
        path: set[str] = set()
        at: object = name
        while isinstance(at, str) and at not in ended and isinstance(value := definitions.get(at), Mapping):
            if at in path:
                raise ValueError(f"{at} refers to itself")
            path.add(at)
            at = value.get("$ref")
        ended |= path


def _levels(schema: object, references: set[str]) -> int:
    """Schemas within one another. Adds the references that there are, and checks expressions and objects."""
    if isinstance(schema, list | tuple):
        return max((_levels(item, references) for item in schema), default=0)
    if not isinstance(schema, Mapping):
        return 0
    if isinstance(reference := schema.get("$ref"), str):
        references.add(reference)
    if isinstance(pattern := schema.get("pattern"), str):
        check_expression(pattern)
    enum = schema.get("enum")
    for value in (schema.get("const"), *(enum if isinstance(enum, list | tuple) else ())):
        if isinstance(value, int | float) and abs(value) >= MAX_LISTED:
            raise ValueError(f"it lists {value!r}, which has more than 64 bits")
    properties, required = schema.get("properties"), schema.get("required")
    if isinstance(properties, Mapping):
        if len(properties) > MAX_PROPERTIES:
            raise ValueError(f"an object has {len(properties)} properties, but may have {MAX_PROPERTIES}")
        n_optional = len(properties) - (len(required) if isinstance(required, list | tuple) else 0)
        if n_optional > MAX_OPTIONAL:
            raise ValueError(f"{n_optional} properties of an object may be left out, but at most {MAX_OPTIONAL} can be")
    deepest = (_levels(value, references) - (name == "properties") for name, value in schema.items())
    return 1 + max(deepest, default=0)

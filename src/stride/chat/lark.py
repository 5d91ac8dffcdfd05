"""Writing grammars in llguidance's Lark: literals, expressions, JSON schemas, numbered rules."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import llguidance

from stride.chat.grammar_limits import check_expression, check_schema

ANY = "(?s:.*)"
_SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$/]")
_CONTROL = re.compile(r"[\0-\x1f]")
_DATA = frozenset({"const", "enum", "default", "examples"})  # hold values, not schemas
_WORDS = frozenset({"title", "description", "$comment"})
_KNOWN_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", "unknown"}
)


class Lark:
    """A grammar being written: rules by name, each body written once."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}  # body → name
        self._lines: list[str] = []

    def rule(self, body: str, *, lazy: bool = False, name: str | None = None) -> str:
        """The name of a rule with this body. ``lazy``: it ends at the first place where it can."""
        return self._define(body, name or f"r{len(self._names)}", "[lazy]" if lazy else "")

    def terminal(self, body: str) -> str:
        """The name of a terminal: one lexeme, made of expressions, ``&`` and ``~``."""
        return self._define(body, f"T{len(self._names)}", "")

    def _define(self, body: str, name: str, attribute: str) -> str:
        key = f"{attribute}{name[0].isupper()} {body}"
        if key not in self._names:
            self._names[key] = name
            self._lines.append(f"{name}{attribute}: {body}")
        return self._names[key]

    def __str__(self) -> str:
        return "\n".join(["%llguidance {}", *self._lines, ""])


def literal(text: str) -> str:
    """Exactly this text; nothing for the empty one."""
    return json.dumps(text, ensure_ascii=False) if text else ""


def regex(expression: str) -> str:
    """An expression written in a program; whoever else's goes through `foreign_regex`."""
    return f"/{expression}/"


def foreign_regex(expression: str) -> str:
    """An expression of a client's.

    Raises:
        ValueError: it asks for too much.
    """
    check_expression(expression)
    return f"/{llguidance.regex_to_lark(expression, use_ascii='')}/"


def escaped(text: str) -> str:
    """An expression that matches exactly this text."""
    return _CONTROL.sub(lambda char: f"\\x{ord(char[0]):02x}", _SPECIAL.sub(r"\\\g<0>", text))


def any_of(*bodies: str) -> str:
    """One of several.

    Raises:
        ValueError: there are none.
    """
    if not bodies:
        raise ValueError("nothing fits it")
    return f"({' | '.join(bodies)})"


def json_value(schema: Mapping[str, Any] | bool, space: str) -> str:
    """JSON text that fits a schema. ``space``: the expression of white space between its parts.

    Options inside the schema itself are not the client's to set.

    Raises:
        ValueError: it asks for too much, or has a definition that is nothing but itself.
        RecursionError: the schema is nested too deeply.
    """
    members = {True: {}, False: {"enum": []}}[schema] if isinstance(schema, bool) else schema
    check_schema(members)
    options = {"whitespace_pattern": space}
    return f"%json {json.dumps({**_essential(members), 'x-guidance': options})}"


def _essential(schema: Any) -> Any:
    """The schema without what only describes: words, and formats like ``int32``, which mean nothing to JSON schema."""
    if isinstance(schema, Mapping):
        return {
            key: value if key in _DATA else _essential(value)
            for key, value in schema.items()
            if not (isinstance(value, str) and (key in _WORDS or (key == "format" and value not in _KNOWN_FORMATS)))
        }
    if isinstance(schema, list | tuple):
        return [_essential(item) for item in schema]
    return schema

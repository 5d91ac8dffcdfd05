"""Calls written as JSON objects: finding where one ends, and reading its name and arguments without losing digits."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from stride.chat.parsers.arguments import is_json
from stride.chat.parsers.format import Calls
from stride.chat.parsers.source import Parse, Source, Wait

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_CONTROL = re.compile("[\0-\x1f]")
_ARGUMENT_KEYS = ("arguments", "parameters")


def object_end(source: Source, offset: int) -> Wait[int | None]:
    """The offset after the JSON object or array at ``offset``; None if the text ends within it."""
    depth = 0
    in_string = False
    while (char := (yield from source.char(offset))) != "":
        offset += 1
        if in_string:
            if char == "\\":
                offset += 1
            in_string = char != '"'
        elif char == '"':
            in_string = True
        elif char in "{[":
            depth += 1
        elif char in "}]":
            depth -= 1
            if depth <= 0:
                return offset
    return None


def json_call(source: Source, calls: Calls, offset: int, known_only: bool = False) -> Parse[int | None]:
    """Parse the call object at ``offset``. Yields the call and returns the offset after it; None if it is no call.

    ``known_only``: an object that names no known tool is just JSON.
    """
    if (yield from source.literal(offset, ("{",))) is None:
        return None
    end = yield from object_end(source, offset)
    if end is None:
        return None
    call = read_call(source.peek(end)[offset:])
    if call is None or not (calls.knows(call[0]) if known_only else calls.accepts(call[0])):
        return None
    name, arguments = call
    yield calls.start(name)
    yield calls.arguments(arguments)
    return end


def read_call(text: str) -> tuple[str, str] | None:
    """The name and the JSON text of the arguments of ``{"name": …, "arguments": {…}}``; None if it is not that."""
    members = split_object(_STRING.sub(_escape_control, text))
    if members is None:
        return None
    if "function" in members and "name" not in members:
        function = members["function"]
        members = {**members, "name": function} if function.startswith('"') else split_object(function) or {}
    name = members.get("name", "")
    arguments = next((members[key] for key in _ARGUMENT_KEYS if key in members), "{}")
    if arguments.startswith('"'):
        arguments = json.loads(arguments)  # an object inside a string
    if len(name) < 3 or not name.startswith('"') or not arguments.startswith("{") or not is_json(arguments):
        return None
    return json.loads(name), arguments


def split_object(text: str) -> Mapping[str, str] | None:
    """The members of a JSON object, each value as the text that it was written as; None if it is no such object."""
    if not text.startswith("{") or not is_json(text):
        return None
    decoder = json.JSONDecoder(parse_int=str, parse_float=str)
    members: dict[str, str] = {}
    at = 1
    while True:
        at = _skip(text, at, " \t\r\n,")
        if text[at] == "}":
            return members
        key, at = decoder.raw_decode(text, at)
        at = _skip(text, at, " \t\r\n:")
        _, end = decoder.raw_decode(text, at)
        members[key] = text[at:end]
        at = end


def _skip(text: str, at: int, chars: str) -> int:
    while text[at] in chars:
        at += 1
    return at


def _escape_control(string: re.Match[str]) -> str:
    """Models write raw newlines into strings, which JSON forbids."""
    return _CONTROL.sub(lambda char: json.dumps(char[0])[1:-1], string[0])

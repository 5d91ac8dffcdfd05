"""Values of tool arguments: from the text a model wrote to JSON text, as the tool's JSON schema says.

Numbers are copied as text and never pass through float or a fixed-width integer, so they keep all their digits.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any, Protocol

from stride.types import JsonSchema

_ANY = frozenset({"string", "integer", "number", "boolean", "null", "array", "object"})
_INTEGER = re.compile(r"([+-]?)0*(\d+)(?:\.0*)?")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_WORDS = {"boolean": {"true": "true", "false": "false"}, "null": {"null": "null", "none": "null"}}


def escape(text: str) -> str:
    """``text`` as the inside of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def json_types(schema: object, root: JsonSchema, depth: int = 0) -> frozenset[str]:
    """The JSON types that ``schema`` admits; all of them where it does not say.

    Follows anyOf, oneOf, allOf, enum, const and references into ``root``, to a bounded depth.
    """
    if not isinstance(schema, Mapping) or depth > 16:
        return _ANY
    declared = schema.get("type")
    if isinstance(declared, str):
        return frozenset({declared}) & _ANY or _ANY
    if isinstance(declared, list):
        return frozenset(item for item in declared if isinstance(item, str)) & _ANY or _ANY
    if "const" in schema:
        return frozenset({_type_of(schema["const"])})
    if isinstance(schema.get("enum"), list):
        return frozenset(map(_type_of, schema["enum"])) or _ANY
    for name in ("anyOf", "oneOf"):
        if isinstance(schema.get(name), list):
            return frozenset().union(*(json_types(option, root, depth + 1) for option in schema[name])) or _ANY
    if isinstance(schema.get("allOf"), list):
        return _ANY.intersection(*(json_types(part, root, depth + 1) for part in schema["allOf"])) or _ANY
    if isinstance(schema.get("$ref"), str) and schema["$ref"].startswith("#/"):
        return json_types(_resolve(schema["$ref"], root), root, depth + 1)
    return _ANY


def to_json(text: str, types: frozenset[str]) -> str:
    """JSON text of the value that ``text`` spells, of one of ``types`` if it can be; otherwise it stays a string."""
    stripped = text.strip()
    if "integer" in types and (found := _INTEGER.fullmatch(stripped)):
        sign, digits = found.groups()
        return digits if sign != "-" or digits == "0" else f"-{digits}"
    if "number" in types and _NUMBER.fullmatch(stripped):
        return stripped
    for name, words in _WORDS.items():
        if name in types and stripped.lower() in words:
            return words[stripped.lower()]
    opening = {"[": "array", "{": "object"}.get(stripped[:1])
    if opening in types and (container := _container(stripped)):
        return container
    if "string" in types and types != _ANY:
        return json.dumps(text, ensure_ascii=False)
    if types == _ANY and stripped[:1] == '"' and is_json(stripped):
        return stripped
    return json.dumps(text, ensure_ascii=False)


def is_json(text: str) -> bool:
    try:
        json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


class ValueEncoder(Protocol):
    """Turns the pieces of one value into pieces of JSON text."""

    def push(self, text: str) -> str: ...

    def finish(self) -> str: ...


class StringEncoder:
    """Escapes each piece as it comes."""

    def __init__(self) -> None:
        self._opened = False

    def push(self, text: str) -> str:
        quote = "" if self._opened else '"'
        self._opened = True
        return quote + escape(text)

    def finish(self) -> str:
        return '"' if self._opened else '""'


class TypedEncoder:
    """Waits for the whole value."""

    def __init__(self, types: frozenset[str]) -> None:
        self._types = types
        self._pieces: list[str] = []

    def push(self, text: str) -> str:
        self._pieces.append(text)
        return ""

    def finish(self) -> str:
        return to_json("".join(self._pieces), self._types)


def value_encoder(schema: object, root: JsonSchema) -> ValueEncoder:
    types = json_types(schema, root)
    return StringEncoder() if types == {"string"} else TypedEncoder(types)


def _container(text: str) -> str | None:
    """JSON text of an array or object written as JSON or as a Python literal."""
    if is_json(text):
        return text
    try:
        return json.dumps(ast.literal_eval(text), ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _type_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def _resolve(reference: str, root: JsonSchema) -> object:
    target: object = root
    for part in reference[2:].split("/"):
        if not isinstance(target, Mapping):
            return None
        target = target.get(part.replace("~1", "/").replace("~0", "~"))
    return target

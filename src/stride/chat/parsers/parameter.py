"""What a parameter's text means where calls write strings as they are: decided once, for the grammar and the parser.

A schema is read as the strings that it admits and the types of the other values. Where it admits both, text that
looks like one of the others is that, and no string; only strings that are listed come before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from stride.types import JsonSchema

NUMBERS = frozenset({"integer", "number"})
CONTAINERS = {"[": "array", "{": "object"}
WORDS = {"null": "null|none", "true": "true", "false": "false"}
"""Values that are one word, and how models spell it, in any case."""
OTHERS = frozenset(WORDS) | NUMBERS | frozenset(CONTAINERS.values())
"""Values that are no strings. "number" stands for those that are no integers."""
INTEGER = r"-?(?:0|[1-9][0-9]*)"
NUMBER = INTEGER + r"(?:\.[0-9]+)?(?:[eE][+\-]?[0-9]+)?"
_TYPES: Mapping[str, frozenset[str]] = {
    "boolean": frozenset({"true", "false"}),
    "number": NUMBERS,
    "string": frozenset(),
    **{name: frozenset({name}) for name in ("null", "integer", "array", "object")},
}
_BOUNDS = {
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), NUMBERS),
    **dict.fromkeys(
        (
            "items",
            "prefixItems",
            "additionalItems",
            "unevaluatedItems",
            "minItems",
            "maxItems",
            "uniqueItems",
            "contains",
        ),
        frozenset({"array"}),
    ),
    **dict.fromkeys(
        (
            *("properties", "required", "additionalProperties", "patternProperties", "propertyNames", "dependencies"),
            *("minProperties", "maxProperties", "dependentRequired", "dependentSchemas", "unevaluatedProperties"),
        ),
        frozenset({"object"}),
    ),
}
_UNREAD = ("not", "if", "$dynamicRef", "$recursiveRef")
"""Constraints on any value, strings among them, that are not understood. Words unknown here only describe."""
OBJECT_CONSTRAINTS = frozenset(
    {
        *("anyOf", "oneOf", "allOf", "enum", "const", *_UNREAD),
        *(keyword for keyword, bounded in _BOUNDS.items() if bounded == {"object"}),
    }
)
_MAX_ALTERNATIVES = 10_000


@dataclass(frozen=True, slots=True)
class Strings:
    """Strings that meet all of these conditions. Of listed ones the others have been checked."""

    choices: tuple[str, ...] | None = None
    patterns: tuple[str, ...] = ()
    shortest: int = 0
    longest: int | None = None

    def __and__(self, other: Strings) -> Strings:
        patterns = tuple(dict.fromkeys((*self.patterns, *other.patterns)))
        shortest = max(self.shortest, other.shortest)
        longest = min((n for n in (self.longest, other.longest) if n is not None), default=None)
        first, second = sorted((self.choices, other.choices), key=lambda choices: choices is None)
        if first is None:
            return Strings(None, patterns, shortest, longest)
        fit = [
            choice
            for choice in first
            if (second is None or choice in second)
            and shortest <= len(choice) <= (len(choice) if longest is None else longest)
            and all(re.search(pattern, choice) for pattern in patterns)
        ]
        return Strings(tuple(fit))


@dataclass(frozen=True, slots=True)
class Parameter:
    """What a parameter may be: strings of any of these kinds, or other values.

    ``bounded``: of which of the others not every one fits.
    """

    strings: tuple[Strings, ...]
    others: frozenset[str]
    bounded: frozenset[str]

    @property
    def listed(self) -> frozenset[str]:
        """The strings that are listed."""
        return frozenset(choice for kind in self.strings for choice in kind.choices or ())

    @property
    def lists_all(self) -> bool:
        """Whether all of its strings are listed."""
        return all(kind.choices is not None for kind in self.strings)

    @property
    def is_free(self) -> bool:
        """Whether any text fits, whatever it is read as."""
        return self.strings == (_ANY_STRING,) and not self.bounded

    def __and__(self, other: Parameter) -> Parameter:
        others = self.others & other.others
        strings = [one & two for one in self.strings for two in other.strings]
        return Parameter(_distinct(strings), others, (self.bounded | other.bounded) & others)


_ANY_STRING = Strings()
ANYTHING = Parameter((_ANY_STRING,), OTHERS, frozenset())
_NOTHING = Parameter((), frozenset(), frozenset())


def read_parameter(arguments: JsonSchema, key: str) -> Parameter:
    """What the parameter may be; ``arguments``: as from `object_schema`.

    Raises:
        ValueError: its schema is none, admits nothing, or constrains strings in a way that is not understood.
    """
    found = _Schemas(arguments).read(parameter_schema(arguments, key))
    if not found.strings and not found.others:
        raise ValueError("nothing fits it")
    return found


def parameter_schema(arguments: JsonSchema, key: str) -> Any:
    """The schema of a parameter, declared or not."""
    properties = arguments["properties"]
    return properties[key] if key in properties else arguments.get("additionalProperties", True)


def object_schema(parameters: JsonSchema) -> dict[str, Any]:
    """A tool's schema as that of an object: its own reference followed, and closed where it names what it has.

    Raises:
        ValueError: it is no object's.
    """
    schema = dict(parameters)
    followed: set[str] = set()
    while isinstance(reference := schema.pop("$ref", None), str):
        target = resolve(reference, parameters)
        if reference in followed or not isinstance(target, Mapping):
            raise ValueError(f"{reference} leads to no schema")
        followed.add(reference)
        if both := sorted(target.keys() & schema.keys() & (OBJECT_CONSTRAINTS | {"type"})):
            raise ValueError(f"{both[0]} beside a reference to a schema that has it too")
        schema = {**target, **schema}
    if schema.setdefault("type", "object") != "object":
        raise ValueError(f"its parameters are of type {schema['type']!r} instead of object")
    if "properties" in schema or not parameters:
        schema.setdefault("additionalProperties", False)
    if not isinstance(schema.setdefault("properties", {}), Mapping):
        raise ValueError("properties must be an object")
    return schema


def resolve(reference: str, root: JsonSchema) -> object:
    """What a reference like ``#/$defs/Name`` stands for; None if it leads nowhere, or out of the document."""
    if reference == "#":
        return root
    if not reference.startswith("#/"):
        return None
    target: object = root
    for part in reference[2:].split("/"):
        if not isinstance(target, Mapping):
            return None
        target = target.get(part.replace("~1", "/").replace("~0", "~"))
    return target


class _Schemas:
    """Reads schemas; each reference is read once."""

    def __init__(self, root: JsonSchema) -> None:
        self._root = root
        self._referred: dict[str, Parameter | None] = {}  # None while it is being read

    def read(self, schema: object) -> Parameter:
        if isinstance(schema, bool):
            return ANYTHING if schema else _NOTHING
        if not isinstance(schema, Mapping):
            raise ValueError(f"{schema!r} is no schema")
        parts = [_of_types(schema), _of_bounds(schema)]
        if "const" in schema:
            parts.append(_of_values([schema["const"]]))
        if "enum" in schema:
            parts.append(_of_values(_listed(schema, "enum")))
        if "$ref" in schema:
            parts.append(self._read_reference(schema["$ref"]))
        if "allOf" in schema:
            parts += map(self.read, _listed(schema, "allOf"))
        if "anyOf" in schema:
            parts.append(_union([self.read(option) for option in _listed(schema, "anyOf")]))
        if "oneOf" in schema:
            parts.append(_exclusive_union([self.read(option) for option in _listed(schema, "oneOf")]))
        found = reduce(Parameter.__and__, parts)
        for keyword in _UNREAD:
            if found.strings and keyword in schema:
                raise ValueError(f"{keyword} on what may be a string")
        return found

    def _read_reference(self, reference: object) -> Parameter:
        if not isinstance(reference, str):
            raise ValueError(f"$ref is {reference!r}")
        if reference not in self._referred:
            self._referred[reference] = None
            target = resolve(reference, self._root)
            if target is None:
                raise ValueError(f"{reference} leads to no schema")
            self._referred[reference] = self.read(target)
        found = self._referred[reference]
        if found is None:
            raise ValueError(f"{reference} refers to itself")
        return found


def _of_types(schema: Mapping[str, Any]) -> Parameter:
    declared = schema.get("type", tuple(_TYPES))
    names = [declared] if isinstance(declared, str) else declared
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name in _TYPES for name in names):
        raise ValueError(f"the type {declared!r}")
    others = frozenset[str]().union(*(_TYPES[name] for name in names))
    return Parameter((_ANY_STRING,) if "string" in names else (), others, frozenset())


def _of_bounds(schema: Mapping[str, Any]) -> Parameter:
    """What constrains one type only, whatever the type is."""
    for keyword in ("minLength", "maxLength"):
        if type(schema.get(keyword, 0)) is not int:
            raise ValueError(f"{keyword} is {schema[keyword]!r}")
    if not isinstance(schema.get("pattern", ""), str):
        raise ValueError(f"pattern is {schema['pattern']!r}")
    patterns = (schema["pattern"],) if "pattern" in schema else ()
    strings = Strings(None, patterns, max(schema.get("minLength", 0), 0), schema.get("maxLength"))
    bounded = frozenset[str]().union(*(_BOUNDS.get(keyword, ()) for keyword in schema))
    return Parameter((strings,), OTHERS, OTHERS if any(word in schema for word in _UNREAD) else bounded)


def _of_values(values: Sequence[object]) -> Parameter:
    strings = tuple(value for value in values if isinstance(value, str))
    others = frozenset[str]().union(*map(_kinds_of, values))
    return Parameter(_distinct([Strings(strings)]), others, others - WORDS.keys())


def _kinds_of(value: object) -> frozenset[str]:
    """How a value may look: 5 may be written as 5.0."""
    match value:
        case None:
            return frozenset({"null"})
        case bool():
            return frozenset({"true" if value else "false"})
        case int() | float():
            return NUMBERS
        case str():
            return frozenset()
        case list() | tuple():
            return frozenset({"array"})
        case _:
            return frozenset({"object"})


def _union(options: Sequence[Parameter]) -> Parameter:
    strings = _distinct([each for option in options for each in option.strings])
    others = frozenset[str]().union(*(option.others for option in options))
    return Parameter(strings, others, frozenset[str]().union(*(option.bounded for option in options)))


def _exclusive_union(options: Sequence[Parameter]) -> Parameter:
    """What fits exactly one: of what several admit, strings are refused, words do not fit, all else is bounded."""
    with_strings = [option for option in options if option.strings]
    listed = [choice for option in with_strings for choice in option.listed]
    if len(with_strings) > 1 and not (
        all(option.lists_all for option in with_strings) and len(set(listed)) == len(listed)
    ):
        raise ValueError("oneOf with several alternatives for a string")
    union = _union(options)
    shared = frozenset(kind for kind in union.others if sum(kind in option.others for option in options) > 1)
    return Parameter(union.strings, union.others - (shared & WORDS.keys()), (union.bounded | shared) - WORDS.keys())


def _listed(schema: Mapping[str, Any], keyword: str) -> Sequence[Any]:
    values = schema[keyword]
    if not isinstance(values, list | tuple) or not values:
        raise ValueError(f"{keyword} must be a list that holds something")
    return values


def _distinct(strings: Sequence[Strings]) -> tuple[Strings, ...]:
    """Without what cannot be, and what another one holds already."""
    if _ANY_STRING in strings:
        return (_ANY_STRING,)
    kinds = tuple(
        each
        for each in dict.fromkeys(strings)
        if each.choices != () and (each.longest is None or each.shortest <= each.longest)
    )
    if len(kinds) > _MAX_ALTERNATIVES:
        raise ValueError(f"more than {_MAX_ALTERNATIVES} alternatives for a string")
    return kinds

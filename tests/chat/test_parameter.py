"""What parameters may be, by their schemas."""

from __future__ import annotations

import pytest

from stride.chat.parsers.parameter import ANYTHING, OTHERS, Parameter, Strings, object_schema, read_parameter

NUMBERS = frozenset({"integer", "number"})
NONE: frozenset[str] = frozenset()


def read(schema):
    return read_parameter(object_schema({"properties": {"p": schema}, "$defs": {"Color": {"enum": ["red"]}}}), "p")


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({}, ANYTHING),
        (True, ANYTHING),
        ({"description": "x", "example": 1, "x-order": 2, "nullable": True}, ANYTHING),
        ({"type": "string", "format": "date", "minimum": 3}, Parameter((Strings(),), NONE, NONE)),
        ({"type": "integer", "minimum": 3}, Parameter((), frozenset({"integer"}), frozenset({"integer"}))),
        ({"type": ["string", "null"], "maxLength": 3}, Parameter((Strings(longest=3),), frozenset({"null"}), NONE)),
        ({"type": ["number", "boolean"]}, Parameter((), NUMBERS | {"true", "false"}, NONE)),
        ({"enum": ["a", None, True]}, Parameter((Strings(("a",)),), frozenset({"null", "true"}), NONE)),
        ({"enum": ["a", 5]}, Parameter((Strings(("a",)),), NUMBERS, NUMBERS)),
        ({"const": 5, "type": "integer"}, Parameter((), frozenset({"integer"}), frozenset({"integer"}))),
        ({"enum": ["a", "bb", "b"], "pattern": "b", "maxLength": 1}, read({"const": "b"})),
        ({"anyOf": [{"$ref": "#/$defs/Color"}, {"type": "null"}]}, read({"enum": ["red", None]})),
        ({"allOf": [{"$ref": "#/$defs/Color"}], "description": "x"}, read({"const": "red"})),
        ({"type": "string", "anyOf": [{"format": "date"}, {"format": "time"}]}, read({"type": "string"})),
        ({"anyOf": [{"type": "string"}, {"enum": ["a"]}]}, read({"type": "string"})),
        ({"allOf": [{"minLength": 2}, {"type": "string", "minLength": 3}]}, read({"type": "string", "minLength": 3})),
        ({"oneOf": [{"const": "a"}, {"const": "b"}]}, Parameter((Strings(("a",)), Strings(("b",))), NONE, NONE)),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, Parameter((), NUMBERS, frozenset({"integer"}))),
        ({"oneOf": [{"type": "boolean"}, {"enum": [True, None]}]}, Parameter((), frozenset({"false", "null"}), NONE)),
        ({"type": "object", "if": {}}, Parameter((), frozenset({"object"}), frozenset({"object"}))),
        ({"type": "array", "items": {"type": "string"}}, Parameter((), frozenset({"array"}), frozenset({"array"}))),
    ],
)
def test_schemas(schema, expected):
    assert read(schema) == expected


@pytest.mark.parametrize(
    "schema",
    [
        False,
        None,
        {"type": "text"},
        {"type": 5},
        {"type": "string", "enum": [5]},
        {"enum": []},
        {"anyOf": {}},
        {"maxLength": "3"},
        {"pattern": 3},
        {"type": "string", "minLength": 3, "maxLength": 2},
        {"type": "string", "not": {"const": ""}},
        {"if": {"type": "string"}, "then": {"const": "a"}},
        {"oneOf": [{"type": "string"}, {"enum": ["a"]}]},
        {"$ref": "#/$defs/Missing"},
        {"$ref": "https://example.com/schema"},
        {"$ref": "#/properties/p"},
        {"anyOf": [{"$ref": "#/properties/p"}, {"type": "null"}]},
    ],
)
def test_what_is_not_understood_is_refused(schema):
    with pytest.raises(ValueError, match=r"\w"):
        read(schema)


def test_undeclared_parameters_are_what_additional_properties_say():
    assert read_parameter(object_schema({"additionalProperties": {"type": "null"}}), "p").others == {"null"}
    assert read_parameter(object_schema({"type": "object"}), "p") == ANYTHING
    for closed in ({}, {"type": "object", "properties": {}}, {"properties": {"q": {}}}):
        with pytest.raises(ValueError, match="nothing fits"):
            read_parameter(object_schema(closed), "p")


def test_an_object_may_be_referred_to():
    schema = {"$ref": "#/$defs/T", "$defs": {"T": {"properties": {"p": {"type": "string"}}}}, "title": "x"}
    assert read_parameter(object_schema(schema), "p") == read({"type": "string"})
    for bad in ({"$ref": "#/$defs/T", "$defs": {"T": {"$ref": "#/$defs/T"}}}, {**schema, "properties": {}}):
        with pytest.raises(ValueError, match=r"reference|leads"):
            object_schema(bad)


def test_many_alternatives_are_read_in_time():
    nested = {"type": "string"}
    definitions = {"D0": nested}
    for i in range(1, 60):
        definitions[f"D{i}"] = {"anyOf": [{"$ref": f"#/$defs/D{i - 1}"}, {"$ref": f"#/$defs/D{i - 1}"}]}
    schema = object_schema({"properties": {"p": {"$ref": "#/$defs/D59"}}, "$defs": definitions})
    assert read_parameter(schema, "p") == read(nested)
    assert read({"anyOf": [{"const": f"v{i}"} for i in range(3000)]}).others < OTHERS

"""Which objects are closed to what they do not declare."""

from __future__ import annotations

import copy

import pytest

from stride.chat.constraints import read_constraints
from stride.chat.json_schemas import closed

POINT = {"type": "object", "properties": {"x": {"type": "number"}}}
CLOSED = {**POINT, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (POINT, CLOSED),
        ({"properties": {"p": POINT}}, {"properties": {"p": CLOSED}, "additionalProperties": False}),
        ({"type": "array", "items": POINT}, {"type": "array", "items": CLOSED}),
        ({"anyOf": [POINT, {"type": "null"}]}, {"anyOf": [CLOSED, {"type": "null"}]}),
        ({"$ref": "#/$defs/p", "$defs": {"p": POINT}}, {"$ref": "#/$defs/p", "$defs": {"p": CLOSED}}),
        ({"allOf": [POINT]}, {"allOf": [CLOSED]}),
        (
            {"properties": {"properties": {"type": "string"}, "anyOf": POINT}},
            {"properties": {"properties": {"type": "string"}, "anyOf": CLOSED}, "additionalProperties": False},
        ),
    ],
)
def test_what_declares_properties_has_no_others(schema, expected):
    before = copy.deepcopy(schema)
    assert closed(schema) == expected
    assert schema == before


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object"},
        {"type": "object", "properties": {}},
        {**POINT, "additionalProperties": True},
        {**POINT, "additionalProperties": {"type": "string"}},
        {"enum": [POINT], "default": POINT},
        {"allOf": [POINT, {"$ref": "#/$defs/p"}], "$defs": {"p": POINT}},
        {**POINT, "anyOf": [{"properties": {"y": {}}}, {"properties": {"z": {}}}]},
        {**POINT, "$ref": "#/$defs/p", "$defs": {"p": POINT}},
    ],
)
def test_what_says_so_or_is_spread_stays_as_it_is(schema):
    assert closed(schema) == schema


@pytest.mark.parametrize(
    "fields",
    [
        {"json_schema": POINT},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": POINT}}},
    ],
)
def test_formats_are_closed(fields):
    text = read_constraints(fields).text
    assert text is not None
    assert '"additionalProperties": false' in text.source

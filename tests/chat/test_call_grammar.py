"""Calls in XML: a value that the grammar allows is read as one that fits its schema."""

from __future__ import annotations

import itertools
import json

import jsonschema
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stride.chat.answer_grammar import answer_grammar
from stride.chat.constraints import Constraints
from stride.chat.parsers import HERMES, LLAMA3, STEP_XML
from stride.chat.stream import StreamParser, collect
from stride.errors import RequestError
from stride.types import Tool

DEFINITIONS = {
    "Color": {"type": "string", "enum": ["red", "1"]},
    "Json": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"$ref": "#/$defs/Json"}}]},
}
TEXTS = (
    *("red", "1", "007", "-3", "12.5", "1e3", "1000000000000000000", "null", "None", "true", "False", "", "a b", "é"),
    *("[1]", '["a"]', "[x", "[]", "{}", '{"a": 1}', "{'b': 1}", '"q"', "purple", "ab", "a\nb", "</parameter>"),
    *(" 1", "-"),
)  # fmt: skip


def call(value: str, name: str = "p") -> str:
    return f"<tool_call>\n<function=f>\n<parameter={name}>\n{value}\n</parameter>\n</function>\n</tool_call>"


def tool(schema, **members):
    parameters = {"type": "object", "properties": {"p": schema}, "required": ["p"], "$defs": DEFINITIONS, **members}
    return Tool("f", parameters=parameters)


def grammar(offered, tool_format=STEP_XML):
    return answer_grammar(tool_format, [offered], Constraints("required"), in_reasoning=False)


def read(offered, pieces):
    ids = map(str, itertools.count())
    parser = StreamParser(STEP_XML, [offered], constrained=True, new_id=lambda: next(ids))
    (made,) = collect([delta for piece in pieces for delta in parser.feed(piece)] + parser.finish()).tool_calls
    return made.arguments


@pytest.fixture(scope="module")
def value_of(matches):
    """``value_of(tool, text)``: what a text is read as; None if the grammar refuses it."""

    def value(offered, text, name="p"):
        if matches(grammar(offered), call(text, name)) != call(text, name) + "$":
            return None
        arguments = read(offered, [call(text, name)])
        assert read(offered, call(text, name)) == arguments
        jsonschema.Draft202012Validator(offered.parameters).validate(json.loads(arguments))
        return json.loads(arguments)[name]

    return value


TYPES = st.sampled_from(["string", "integer", "number", "boolean", "null", "array", "object"])
VALUES = st.sampled_from([*TEXTS, 1, 2.5, None, True, False, 10**18, [1], {"a": 1}])
FLAT = st.one_of(
    st.builds(lambda types: {"type": types}, TYPES | st.lists(TYPES, min_size=1, max_size=3, unique=True)),
    st.builds(lambda values: {"enum": values}, st.lists(VALUES, min_size=1, max_size=4)),
    st.sampled_from(["red", "1", 1, None, False]).map(lambda value: {"const": value}),
    st.sampled_from(
        [
            {},
            {"type": "string", "pattern": "^[a-z]{2}$"},
            {"type": "string", "pattern": r"^\d+$"},
            {"type": ["string", "null"], "maxLength": 3},
            {"type": "string", "minLength": 2},
            {"type": "string", "minLength": 1, "maxLength": 4},
            {"type": ["string", "integer"], "pattern": "^[a-z]+$"},
            {"type": "integer", "maximum": 5},
            {"type": "number", "minimum": 0, "maximum": 99.5},
            {"type": ["integer", "string"], "minimum": 0},
            {"type": "array", "items": {"type": "integer"}},
            {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False},
            {"$ref": "#/$defs/Color"},
            {"$ref": "#/$defs/Json"},
        ]
    ),
)
SCHEMAS = st.recursive(
    FLAT,
    lambda inner: st.builds(
        lambda keyword, options: {keyword: options},
        st.sampled_from(["anyOf", "anyOf", "oneOf", "allOf"]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=4,
)  # fmt: skip


@given(SCHEMAS)
@example({"anyOf": [{"$ref": "#/$defs/Color"}, {"type": "null"}]})
@example({"anyOf": [{"allOf": [{"type": "string", "enum": ["a"]}]}, {"type": "null"}]})
@example({"oneOf": [{"type": "boolean"}, {}]})
@example({"anyOf": [{"type": "string", "pattern": "^[a-z]{2}$"}, {"enum": ["1", 2.5]}]})
@example({"anyOf": [{"type": "string", "pattern": r"^\d+$"}, {"type": "integer", "maximum": 5}]})
@example({"anyOf": [{"type": "string", "maxLength": 5}, {"type": "array", "items": {"type": "integer"}}]})
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_allowed_fits(value_of, schema):
    try:
        for text in TEXTS:
            value_of(tool(schema), text)
    except RequestError as error:
        assert error.field in ("test", "tools")  # noqa: PT017


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"anyOf": [{"$ref": "#/$defs/Color"}, {"type": "null"}]}, "red", "red"),
        ({"anyOf": [{"$ref": "#/$defs/Color"}, {"type": "null"}]}, "purple", None),
        ({"type": ["string", "null"], "maxLength": 3}, "abc", "abc"),
        ({"type": ["string", "null"], "maxLength": 3}, "abcd", None),
        ({"type": ["string", "integer"], "pattern": "^[a-z]+$"}, "12", 12),
        ({"type": ["string", "integer"], "pattern": "^[a-z]+$"}, "zzz", "zzz"),
        ({"type": ["string", "integer"], "minimum": 5}, "7", 7),
        ({"type": ["string", "integer"], "minimum": 5}, "3", None),
        ({"type": ["string", "integer"], "minimum": 5}, "three", "three"),
        ({"enum": ["1", 2, None]}, "1", "1"),
        ({"enum": ["1", 2, None]}, "2", 2),
        ({"type": ["string", "integer"]}, "007", "007"),
        ({"anyOf": [{"type": "string", "pattern": "^[a-z]{2}$"}, {"enum": ["1", 2.5]}]}, "1", "1"),
        ({"anyOf": [{"type": "string", "pattern": "^[a-z]{2}$"}, {"enum": ["1", 2.5]}]}, "2.5", 2.5),
        ({"anyOf": [{"type": "string", "pattern": "^[a-z]{2}$"}, {"enum": ["1", 2.5]}]}, "1.5", None),
        ({"anyOf": [{"type": "string", "minLength": 1}, {"type": "array"}]}, "[1]", [1]),
        ({"anyOf": [{"type": "string", "minLength": 1}, {"type": "array"}]}, "", None),
        ({"type": "string", "example": "x", "nullable": True, "x-order": 1}, "YQ==", "YQ=="),
        ({"type": "string", "contentEncoding": "base64"}, "YQ==", "YQ=="),
        ({"allOf": [{"$ref": "#/$defs/Color"}], "description": "x", "default": "red"}, "red", "red"),
        ({"type": "string", "anyOf": [{"format": "date"}, {"format": "time"}]}, "now", "now"),
        ({"type": "string", "maxLength": 10_000}, "a" * 3000, "a" * 3000),
        ({"type": "string", "minLength": 2, "maxLength": 3}, "a", None),
    ],
)  # fmt: skip
def test_values(value_of, schema, text, value):
    assert value_of(tool(schema), text) == value


@pytest.mark.parametrize("name", ["$filter", "$top", "@type", "first name", "-x", "a" * 130, "name=x"])
def test_names_of_parameters(value_of, name):
    offered = Tool("f", parameters={"type": "object", "properties": {name: {"type": "string"}}})
    assert value_of(offered, "1", name) == "1"


@pytest.mark.parametrize(
    "parameters",
    [
        {"properties": {"p": {"type": "string"}}, "x-a": 1, "strict": True, "example": {}, "minProperties": 1},
        {"$ref": "#/$defs/T", "$defs": {"T": {"type": "object", "properties": {"p": {"type": "string"}}}}},
        {"properties": {"q": {}}, "additionalProperties": {"type": "string"}},
    ],
)
def test_schemas_of_all_parameters(value_of, parameters):
    assert value_of(Tool("f", parameters=parameters), "12") == "12"


@pytest.mark.parametrize("tool_format", [STEP_XML, HERMES])
@pytest.mark.parametrize("parameters", [{}, {"properties": {"q": {}}}, {"type": "object", "properties": {}}])
def test_what_is_not_declared_is_not_allowed(matches, tool_format, parameters):
    said = call("1") if tool_format is STEP_XML else '<tool_call>\n{"name": "f", "arguments": {"p": 1}}\n</tool_call>'
    assert len(matches(grammar(Tool("f", parameters=parameters), tool_format), said)) < len(said)


def block(name):
    return f"<parameter={name}>\n1\n</parameter>\n"


@pytest.mark.parametrize(
    ("least", "names", "fits"),
    [
        (1, "", False),
        (1, "a", True),
        (1, "c", True),
        (2, "b", False),
        (2, "bc", True),
        (2, "abc", True),
        (3, "ac", False),
    ],
)
@pytest.mark.parametrize("extra", [False, {"type": "integer"}])
def test_as_many_properties_as_there_must_be(matches, least, names, fits, extra):
    properties = {name: {"type": "integer"} for name in ("ab" if extra else "abc")}
    parameters = {"properties": properties, "minProperties": least, "additionalProperties": extra}
    said = f"<tool_call>\n<function=f>\n{''.join(map(block, names))}</function>\n</tool_call>"
    assert (matches(grammar(Tool("f", parameters=parameters)), said) == said + "$") == fits


@pytest.mark.parametrize("name", ["a<b", 'a"b', "a\nb", " a", "a ", ""])
def test_names_that_would_be_read_otherwise(name):
    for offered in (Tool(name), Tool("f", parameters={"properties": {name: {}}})):
        with pytest.raises(RequestError, match="tools") as caught:
            grammar(offered)
        assert caught.value.field == "tools"


def test_names_in_json():
    grammar(Tool("a<b c"), LLAMA3)
    for name in ('a"b', "a\\b", "a\nb", ""):
        with pytest.raises(RequestError, match="tools"):
            grammar(Tool(name), LLAMA3)


def test_a_refusal_names_the_tool_and_the_parameter():
    with pytest.raises(RequestError, match="'f' cannot be enforced: its parameter 'p': not on what may be a string"):
        grammar(tool({"type": "string", "not": {"const": ""}}))

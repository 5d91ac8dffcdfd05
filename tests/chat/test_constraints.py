"""What requests ask of an answer, as clients write it."""

import pytest

from stride.chat.constraints import Constraints, NamedTool, TextFormat, read_constraints
from stride.errors import RequestError

SCHEMA = {"type": "integer"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Constraints()),
        ({"tool_choice": None, "grammar": "", "regex": "", "reasoning_budget": -1}, Constraints()),
        ({"response_format": {"type": "text"}}, Constraints()),
        ({"tool_choice": "required"}, Constraints("required")),
        ({"tool_choice": {"type": "function", "function": {"name": "auto"}}}, Constraints(NamedTool("auto"))),
        ({"parallel_tool_calls": False}, Constraints(parallel_tool_calls=False)),
        ({"response_format": {"type": "json_object"}}, Constraints(text=TextFormat.json_object())),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "strict": True, "schema": SCHEMA},
                }
            },
            Constraints(text=TextFormat.json_schema(SCHEMA, "response_format")),
        ),
        (
            {"response_format": {"type": "json_object", "schema": SCHEMA}},
            Constraints(text=TextFormat.json_schema(SCHEMA, "response_format")),
        ),
        ({"json_schema": SCHEMA}, Constraints(text=TextFormat.json_schema(SCHEMA))),
        ({"regex": "a+"}, Constraints(text=TextFormat("regex", "a+", "regex"))),
        ({"grammar": 'root ::= "a"'}, Constraints(text=TextFormat("gbnf", 'root ::= "a"', "grammar"))),
        ({"grammar": 'start: "::="'}, Constraints(text=TextFormat("lark", 'start: "::="', "grammar"))),
        ({"reasoning_effort": "low"}, Constraints(reasoning_effort="low")),
        ({"reasoning_budget": 7}, Constraints(reasoning_budget=7)),
        ({"thinking": {"type": "enabled", "budget_tokens": 7}}, Constraints(reasoning_budget=7)),
        ({"thinking": {"type": "disabled"}}, Constraints(reasoning_budget=0)),
        ({"thinking": {"type": "adaptive"}}, Constraints()),
    ],
)
def test_fields_are_read(fields, expected):
    assert read_constraints(fields) == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tool_choice", "sometimes"),
        ("tool_choice", 5),
        ("tool_choice", {"type": "function"}),
        ("tool_choice", {"function": {"name": "f"}}),
        ("parallel_tool_calls", "no"),
        ("response_format", 5),
        ("response_format", {"type": "xml"}),
        ("response_format", {"type": "json_schema"}),
        ("response_format", {"type": "json_schema", "json_schema": {"schema": 5}}),
        ("json_schema", "integer"),
        ("json_schema", {"minimum": float("nan")}),
        ("regex", 5),
        ("grammar", []),
        ("reasoning_effort", "enormous"),
        ("reasoning_budget", -2),
        ("reasoning_budget", True),
        ("thinking", {"type": "enabled", "budget_tokens": 0}),
        ("thinking", "yes"),
    ],
)
def test_bad_values_are_named(field, value):
    with pytest.raises(RequestError, match=field) as caught:
        read_constraints({field: value})
    assert caught.value.field == field


def test_one_format_at_a_time():
    with pytest.raises(RequestError, match="regex cannot be given together with json_schema"):
        read_constraints({"json_schema": SCHEMA, "regex": "a"})


def test_a_schema_too_deep_for_json_is_refused():
    schema = {}
    for _ in range(20_000):
        schema = {"items": schema}
    with pytest.raises(RequestError, match="no JSON"):
        read_constraints({"json_schema": schema})

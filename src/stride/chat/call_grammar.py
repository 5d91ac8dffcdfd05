"""The grammar of tool calls: whatever begins as a call goes on as a call of an offered tool, as its schema says."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from stride.chat.lark import ANY, Lark, any_of, escaped, foreign_regex, json_value, literal, regex
from stride.chat.parsers.arguments import json_types
from stride.chat.parsers.format import CallShape
from stride.chat.parsers.step_xml import VALUE_END
from stride.errors import RequestError
from stride.types import JsonSchema, Tool

CALL_SPACE = r"[ \n\t]{1,16}"
"""White space between the parts of a call's JSON: bounded, as models can go on with it forever."""
_XML_NAME = re.compile(r"\w[^\s\"'<>]{0,127}")
_ANNOTATIONS = frozenset(
    {"$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"}
)
_XML_KEYWORDS = _ANNOTATIONS | {"type", "properties", "required", "additionalProperties", "$defs", "definitions"}
_STRING_KEYWORDS = _ANNOTATIONS | {"type", "enum", "const", "pattern", "minLength", "maxLength", "format"}
_OTHER_VALUES = r"\s*([\[{\x220-9+\-](?s:.*)|(?i:true|false|null|none)\s*)"  # what would not be read as a string


def call(lark: Lark, shape: CallShape, tool: Tool, *, after: str) -> str:
    """A call from where its text has come to: ``after`` is the part of its opening that is there already."""
    opening = shape.before + tool.name + shape.after
    assert opening.startswith(after)
    return f"{literal(opening[len(after) :])} {arguments(lark, shape, tool)}"


def arguments(lark: Lark, shape: CallShape, tool: Tool) -> str:
    """The rule of a tool's arguments.

    Raises:
        RequestError: its schema cannot be enforced in this form; names ``tools``.
    """
    schema = _object_schema(tool)
    if shape.arguments == "json":
        return lark.rule(json_value(schema, CALL_SPACE))
    return lark.rule(_parameters(lark, tool, schema) or '""')


def check_name(shape: CallShape, tool: Tool) -> None:
    """Refuse a tool whose name would be read as something else.

    Raises:
        RequestError: names ``tools``.
    """
    if json.dumps(tool.name, ensure_ascii=False)[1:-1] != tool.name or not _XML_NAME.fullmatch(tool.name):
        raise _unfit(tool, "its name must be made of letters, digits and signs, without spaces and quotes")


def _object_schema(tool: Tool) -> dict[str, Any]:
    """The schema as that of an object, which holds nothing undeclared unless it says so."""
    schema = dict(tool.parameters)
    if schema.setdefault("type", "object") != "object":
        raise _unfit(tool, f"its parameters are of type {schema['type']!r} instead of object")
    if isinstance(schema.get("properties"), Mapping) and schema["properties"]:
        schema.setdefault("additionalProperties", False)
    return schema


def _parameters(lark: Lark, tool: Tool, schema: Mapping[str, Any]) -> str:
    """The ``<parameter=…>`` blocks in the schema's order, those not required left out at will, then undeclared ones."""
    unknown = sorted(schema.keys() - _XML_KEYWORDS)
    if unknown:
        raise _unfit(tool, f"{unknown[0]} on its parameters as a whole")
    properties, required = schema.get("properties") or {}, schema.get("required") or ()
    if not isinstance(properties, Mapping) or not isinstance(required, list | tuple):
        raise _unfit(tool, "properties must be an object and required a list")
    extra = schema.get("additionalProperties", True)
    blocks = []
    for name in dict.fromkeys([*properties, *required]):
        if not isinstance(name, str) or not _XML_NAME.fullmatch(name):
            raise _unfit(tool, f"the parameter name {name!r}")
        value = _value(lark, tool, properties.get(name, extra), schema)
        block = f"{literal(f'<parameter={name}>' + chr(10))} {value}"
        blocks.append(block if name in required else f"({block})?")
    if extra is not False:
        name = lark.terminal(
            " & ".join([regex(r"[A-Za-z_][A-Za-z0-9_.\-]{0,63}"), *(f"~{regex(escaped(each))}" for each in properties)])
        )
        blocks.append(f'("<parameter=" {name} ">\\n" {_value(lark, tool, extra, schema)})*')
    return " ".join(blocks)


def _value(lark: Lark, tool: Tool, schema: object, root: JsonSchema) -> str:
    """A value and its end. Strings stand as they are, all else as JSON."""
    if schema is True:
        schema = {}
    if not isinstance(schema, Mapping):
        raise _unfit(tool, f"a parameter with the schema {schema!r}")
    types = json_types(schema, root)
    if "string" not in types:
        return _json(lark, schema, root)
    resolved = _resolved(schema, root)
    if types == {"string"} and resolved.keys() <= _STRING_KEYWORDS:
        return _string(lark, tool, resolved)
    if resolved.keys() <= _ANNOTATIONS | {"type"} and not types & {"array", "object"}:
        return _text(lark)  # whatever it is read as fits
    if resolved.keys() <= _ANNOTATIONS:
        return _text(lark)
    # A string, or something that could be mistaken for one: what is read as something else has to fit as that.
    options = _options(resolved)
    if options is None:
        raise _unfit(tool, "a parameter that may be a string or something else in other ways than by anyOf")
    bodies = []
    for option in options:
        if "string" not in json_types(option, root):
            bodies.append(_json(lark, option, root))
        elif json_types(option, root) == {"string"} and {"enum", "const"} & option.keys():
            bodies.append(_string(lark, tool, option))
        elif json_types(option, root) == {"string"} and option.keys() <= _ANNOTATIONS | {"type", "format"}:
            end = escaped(VALUE_END)
            bodies.append(
                lark.terminal(f"{regex(ANY + end)} & ~{regex(_OTHER_VALUES + end)} & ~{regex(ANY + end + '(?s:.+)')}")
            )
        else:
            raise _unfit(tool, "a parameter with anyOf whose strings are constrained")
    return any_of(*bodies)


def _text(lark: Lark) -> str:
    return lark.rule(regex(ANY + escaped(VALUE_END)), lazy=True)


def _json(lark: Lark, schema: Mapping[str, Any], root: JsonSchema) -> str:
    definitions = {key: root[key] for key in ("$defs", "definitions") if key in root}
    return f"{lark.rule(json_value({**schema, **definitions}, '[ ]'))} {literal(VALUE_END)}"


def _string(lark: Lark, tool: Tool, schema: Mapping[str, Any]) -> str:
    """A string as its plain text. ``format`` describes it, as JSON schema has it."""
    choices = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if choices is not None:
        return any_of(*(literal(choice + VALUE_END) for choice in choices))
    parts = []
    if "pattern" in schema:
        parts.append(_pattern(tool, schema["pattern"]))
    if "minLength" in schema or "maxLength" in schema:
        parts.append(f"(?s:.{{{int(schema.get('minLength', 0))},{schema.get('maxLength', '')}}})")
    if not parts:
        return _text(lark)
    end = escaped(VALUE_END)
    bodies = [foreign_regex(f"({part}){VALUE_END}") for part in parts]
    return lark.terminal(" & ".join([*bodies, f"~{regex(ANY + end + '(?s:.+)')}"]))


def _pattern(tool: Tool, pattern: str) -> str:
    """JSON schema finds a pattern anywhere; one expression for the whole string."""
    inner = pattern.removeprefix("^")
    starts = inner != pattern
    ends = inner.endswith("$") and not inner.endswith("\\$")
    inner = inner[:-1] if ends else inner
    if (starts or ends) and "|" in inner:
        raise _unfit(tool, f"the pattern {pattern!r}, whose anchors belong to one of several alternatives")
    return f"{'' if starts else ANY}({inner}){'' if ends else ANY}"


def _options(schema: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    """The alternatives of a union, however it is written."""
    for name in ("anyOf", "oneOf"):
        options = schema.get(name)
        if isinstance(options, list) and schema.keys() <= _ANNOTATIONS | {name}:
            return [option for option in options if isinstance(option, Mapping)]
    if "enum" in schema:
        return [{"const": choice} for choice in schema["enum"]]
    declared = schema.get("type")
    if isinstance(declared, list):
        rest = {key: value for key, value in schema.items() if key not in ("type", "format", "enum", "const")}
        return [{"type": "string"} if each == "string" else {**rest, "type": each} for each in declared]
    return None


def _resolved(schema: Mapping[str, Any], root: JsonSchema) -> Mapping[str, Any]:
    """The schema behind a reference into ``root``."""
    for _ in range(16):
        reference = schema.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#/"):
            break
        target: Any = root
        for part in reference[2:].split("/"):
            target = target.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(target, Mapping) else None
        if not isinstance(target, Mapping):
            break
        schema = target
    return schema


def _unfit(tool: Tool, what: str) -> RequestError:
    return RequestError(f"tools: {tool.name!r} cannot be enforced: {what}", field="tools")

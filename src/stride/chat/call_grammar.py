"""The grammar of tool calls: whatever begins as a call goes on as a call of an offered tool, as its schema says."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from stride.chat.grammar_limits import check_schema
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
_SCALARS = frozenset({"integer", "number", "boolean", "null"})
_WORDS = {"boolean": ("true", "false"), "null": ("null",)}
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
    try:
        check_schema(schema)
        body = json_value(schema, CALL_SPACE) if shape.arguments == "json" else _parameters(lark, tool, schema)
    except (ValueError, TypeError, RecursionError) as error:
        raise _unfit(tool, str(error)) from None
    return lark.rule(body or '""')


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
    if not isinstance(schema.setdefault("properties", {}), Mapping):
        raise _unfit(tool, "properties must be an object")
    if schema["properties"]:
        schema.setdefault("additionalProperties", False)
    return schema


def _parameters(lark: Lark, tool: Tool, schema: Mapping[str, Any]) -> str:
    """The ``<parameter=…>`` blocks in the schema's order, those not required left out at will, then undeclared ones."""
    unknown = sorted(schema.keys() - _XML_KEYWORDS)
    if unknown:
        raise _unfit(tool, f"{unknown[0]} on its parameters as a whole")
    properties, required = schema["properties"], schema.get("required") or ()
    if not isinstance(required, list | tuple):
        raise _unfit(tool, "required must be a list")
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
        return _string(lark, resolved)
    if resolved.keys() <= _ANNOTATIONS:
        return _text(lark)
    # A string, or something that could be mistaken for one: what is read as something else has to fit as that.
    options = _options(resolved)
    if options is None:
        raise _unfit(tool, "a parameter that may be a string or something else in other ways than by type or anyOf")
    strings = [option for option in options if json_types(option, root) == {"string"}]
    others = [option for option in options if "string" not in json_types(option, root)]
    free = [option for option in strings if option.keys() <= _ANNOTATIONS | {"type", "format"}]
    if len(strings) + len(others) < len(options) or (free and len(free) < len(strings)):
        raise _unfit(tool, "a parameter whose strings are constrained by some alternatives only")
    if free and all(json_types(o, root) <= _SCALARS and o.keys() <= _ANNOTATIONS | {"type"} for o in others):
        return _text(lark)  # whatever it is read as fits
    bodies = [_union_member(lark, option, root) for option in others]
    if free:
        end = escaped(VALUE_END)
        not_other = f"~{regex(_OTHER_VALUES + end)} & ~{regex(ANY + end + '(?s:.+)')}"
        bodies.append(lark.terminal(f"{regex(ANY + end)} & {not_other}"))
    return any_of(*bodies, *(_string(lark, option) for option in strings if option not in free))


def _union_member(lark: Lark, option: Mapping[str, Any], root: JsonSchema) -> str:
    """JSON beside plain text. A word is one lexeme with its end: alone it would lose against the longer text."""
    types = json_types(option, root)
    if "const" in option:
        return literal(json.dumps(option["const"], ensure_ascii=False) + VALUE_END)
    if types <= {"null", "boolean"} and option.keys() <= _ANNOTATIONS | {"type"}:
        return any_of(*(literal(word + VALUE_END) for name in sorted(types) for word in _WORDS[name]))
    return _json(lark, option, root)


def _text(lark: Lark) -> str:
    return lark.rule(regex(ANY + escaped(VALUE_END)), lazy=True)


def _json(lark: Lark, schema: Mapping[str, Any], root: JsonSchema) -> str:
    definitions = {key: root[key] for key in ("$defs", "definitions") if key in root}
    return f"{lark.rule(json_value({**schema, **definitions}, '[ ]'))} {literal(VALUE_END)}"


def _string(lark: Lark, schema: Mapping[str, Any]) -> str:
    """A string as its plain text. ``format`` describes it, as JSON schema has it."""
    choices = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if choices is not None:
        return any_of(*(literal(choice + VALUE_END) for choice in choices))
    parts = []
    if "pattern" in schema:
        parts.append(_pattern(schema["pattern"]))
    if "minLength" in schema or "maxLength" in schema:
        parts.append(f"(?s:.{{{schema.get('minLength', 0)},{schema.get('maxLength', '')}}})")
    if not parts:
        return _text(lark)
    end = escaped(VALUE_END)
    bodies = [foreign_regex(f"({part}){VALUE_END}") for part in parts]
    return lark.terminal(" & ".join([*bodies, f"~{regex(ANY + end + '(?s:.+)')}"]))


def _pattern(pattern: str) -> str:
    """JSON schema finds a pattern anywhere in a string; this expression is of the whole string."""
    wholes = []
    for alternative in _alternatives(pattern):
        inner = alternative.removeprefix("^")
        ends = re.search(r"(?<!\\)(?:\\\\)*\$$", inner)
        before, after = ("" if inner != alternative else ANY), ("" if ends else ANY)
        wholes.append(f"{before}(?:{inner[:-1] if ends else inner}){after}")
    return "|".join(wholes)


def _alternatives(pattern: str) -> list[str]:
    """The parts between the ``|`` that stand in no group and no set."""
    parts = [""]
    depth, in_set = 0, False
    for piece in re.findall(r"\\.|.", pattern, re.DOTALL):
        if piece == "|" and not depth and not in_set:
            parts.append("")
            continue
        in_set = piece != "]" if in_set else piece == "["
        depth += 0 if in_set else (piece == "(") - (piece == ")")
        parts[-1] += piece
    return parts


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

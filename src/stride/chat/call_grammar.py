"""The grammar of tool calls: whatever begins as a call goes on as a call of an offered tool, as its schema says."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from stride.chat.grammar_limits import check_schema
from stride.chat.lark import ANY, Lark, any_of, escaped, foreign_regex, json_value, literal, regex
from stride.chat.parsers.format import CallShape
from stride.chat.parsers.parameter import (
    CONTAINERS,
    INTEGER,
    NUMBER,
    NUMBERS,
    OBJECT_CONSTRAINTS,
    WORDS,
    Parameter,
    Strings,
    object_schema,
    parameter_schema,
    read_parameter,
)
from stride.chat.parsers.step_xml import VALUE_END
from stride.errors import RequestError
from stride.types import Tool

CALL_SPACE = r"[ \n\t]{1,16}"
"""White space between the parts of a call's JSON: bounded, as models can go on with it forever."""
_TAG_NAME = re.compile(r"""(?!\s)[^<>"'\0-\x1f]+(?<!\s)""")
_UNDECLARED_NAME = r"[A-Za-z_][A-Za-z0-9_.\-]{0,63}"
_END = escaped(VALUE_END)
_UNKEPT = OBJECT_CONSTRAINTS - {"properties", "required", "additionalProperties", "minProperties"}


def arguments(lark: Lark, shape: CallShape, tool: Tool) -> str:
    """The rule of a tool's arguments.

    Raises:
        RequestError: its schema cannot be enforced in this form; names ``tools``.
    """
    try:
        schema = object_schema(tool.parameters)
        check_schema(schema)
        body = json_value(schema, CALL_SPACE) if shape.arguments == "json" else _parameters(lark, schema)
    except (ValueError, TypeError, RecursionError) as error:
        raise _unfit(tool, str(error)) from None
    return lark.rule(body or '""')


def check_name(shape: CallShape, tool: Tool) -> None:
    """Refuse a tool whose name would be read as something else.

    Raises:
        RequestError: names ``tools``.
    """
    if shape.arguments == "xml":
        if not _TAG_NAME.fullmatch(tool.name):
            raise _unfit(tool, "its name must have no quotes, angle brackets, line breaks, and no spaces around it")
    elif not tool.name or json.dumps(tool.name, ensure_ascii=False)[1:-1] != tool.name:
        raise _unfit(tool, "its name must have no quotes, backslashes and control characters")


def _parameters(lark: Lark, schema: Mapping[str, Any]) -> str:
    """The ``<parameter=…>`` blocks in the schema's order, those not required left out at will, then undeclared ones."""
    required, least = schema.get("required") or (), schema.get("minProperties", 0)
    if not isinstance(required, list | tuple) or type(least) is not int:
        raise ValueError("required must be a list, minProperties an integer")
    if unkept := sorted(schema.keys() & _UNKEPT):
        raise ValueError(f"{unkept[0]} on its parameters as a whole")
    blocks = []
    for name in dict.fromkeys([*schema["properties"], *required]):
        if not isinstance(name, str) or not _TAG_NAME.fullmatch(name):
            raise ValueError(f"the parameter name {name!r}")
        try:
            value = _value(lark, schema, name)
        except ValueError as error:
            raise ValueError(f"its parameter {name!r}: {error}") from None
        blocks.append((lark.rule(f"{literal(f'<parameter={name}>' + chr(10))} {value}"), name in required))
    undeclared = "" if schema.get("additionalProperties", True) is False else _undeclared(lark, schema)
    return _at_least(lark, least, blocks, undeclared)


def _at_least(lark: Lark, least: int, blocks: Sequence[tuple[str, bool]], undeclared: str) -> str:
    """Blocks and whether each must be there, ``least`` of them or more. Undeclared ones may repeat: they count once."""
    least = max(least, sum(must for _, must in blocks))
    if least > len(blocks) + bool(undeclared):
        raise ValueError("minProperties are more than it declares")
    if least == sum(must for _, must in blocks):
        each = [block if must else f"({block})?" for block, must in blocks]
        return " ".join([*each, f"{undeclared}*"] if undeclared else each)
    after = {0: f"{undeclared}*", 1: f"{undeclared}+"} if undeclared else {0: ""}  # how many are missing: what follows
    for block, must in reversed(blocks):
        before: dict[int, str] = {}
        for missing in range(least + 1):
            others = max(missing - 1, 0)
            options = [f"{block} {after[others]}"] if others in after else []
            if not must and missing in after:
                options.append(after[missing] or '""')
            if options:
                before[missing] = lark.rule(any_of(*options))
        after = before
    return after[least]


def _undeclared(lark: Lark, schema: Mapping[str, Any]) -> str:
    declared = (f"~{regex(escaped(name))}" for name in schema["properties"])
    name = lark.terminal(" & ".join([regex(_UNDECLARED_NAME), *declared]))
    return lark.rule(f'"<parameter=" {name} ">\\n" {_value(lark, schema, "")}')


def _value(lark: Lark, arguments: Mapping[str, Any], key: str) -> str:
    """A value and its end. Strings stand as they are, all else as JSON."""
    parameter = read_parameter(arguments, key)
    if parameter.is_free:
        return _until_end(lark, regex(ANY + _END))
    if not parameter.others:
        return any_of(*(_strings(lark, kind) for kind in parameter.strings))
    if parameter.lists_all:
        others = [_json(lark, arguments, key, parameter.others if parameter.strings else None)]
        return any_of(*others, *(_strings(lark, kind) for kind in parameter.strings))
    return any_of(
        *_others_beside_text(lark, arguments, key, parameter),
        *(_strings(lark, kind, _taken(parameter)) for kind in parameter.strings),
    )


def _others_beside_text(lark: Lark, arguments: Mapping[str, Any], key: str, parameter: Parameter) -> list[str]:
    """What may stand in place of free text. Words and numbers are one lexeme with their end: alone, the longer text
    would win. Numbers that are bounded cannot be; text does not begin like them."""
    bodies = [literal(word + VALUE_END) for word in sorted(parameter.others & WORDS.keys())]
    as_json = parameter.others & frozenset(CONTAINERS.values())
    numbers = parameter.others & NUMBERS
    if numbers & parameter.bounded:
        as_json |= numbers
    elif numbers:
        bodies.append(lark.terminal(regex(f"({_number(parameter)}){_END}")))
    return [*bodies, *([_json(lark, arguments, key, as_json)] if as_json else [])]


def _taken(parameter: Parameter) -> str:
    """An expression of the texts, with their end, that are read as something other than a string."""
    words = [WORDS[word] for word in sorted(parameter.others & WORDS.keys())]
    taken = [f"(?i:{'|'.join(words)}){_END}"] if words else []
    if parameter.others & NUMBERS:
        taken.append("-?[0-9]" if parameter.bounded & NUMBERS else f"({_number(parameter)}){_END}")
    taken += [escaped(opening) for opening, kind in CONTAINERS.items() if kind in parameter.others]
    return "|".join(taken)


def _number(parameter: Parameter) -> str:
    return NUMBER if "number" in parameter.others else INTEGER


def _until_end(lark: Lark, terminal: str) -> str:
    return lark.rule(terminal, lazy=True)


def _json(lark: Lark, arguments: Mapping[str, Any], key: str, kinds: frozenset[str] | None) -> str:
    """JSON that fits; of these kinds only, where strings are written as text."""
    schema = parameter_schema(arguments, key)
    if kinds is not None:
        names = {"boolean" if kind in ("true", "false") else kind for kind in kinds}
        schema = {"allOf": [schema, {"type": sorted(names)}]}
    definitions = {name: arguments[name] for name in ("$defs", "definitions") if name in arguments}
    return f"{lark.rule(json_value({**schema, **definitions}, '[ ]'))} {literal(VALUE_END)}"


def _strings(lark: Lark, kind: Strings, taken: str = "") -> str:
    """Strings as their plain text, but none that begins with ``taken``."""
    if kind.choices is not None:
        if any((choice + VALUE_END).index(VALUE_END) < len(choice) for choice in kind.choices):
            raise ValueError("a string that holds what ends it")
        return any_of(*(literal(choice + VALUE_END) for choice in kind.choices))
    terminal = [regex(f"(?s:.{{{kind.shortest},{'' if kind.longest is None else kind.longest}}}){_END}")]
    terminal += [foreign_regex(f"({_pattern(pattern)}){VALUE_END}") for pattern in kind.patterns]
    if kind.patterns:
        terminal.append(f"~{regex(f'{ANY}{_END}(?s:.+)')}")
    if kind.shortest:
        terminal.append(f"~{regex(f'(?s:.{{0,{kind.shortest - 1}}}){_END}{ANY}')}")
    if taken:
        terminal.append(f"~{regex(f'({taken}){ANY}')}")
    return _until_end(lark, lark.terminal(" & ".join(terminal)))


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


def _unfit(tool: Tool, what: str) -> RequestError:
    return RequestError(f"tools: {tool.name!r} cannot be enforced: {what}", field="tools")

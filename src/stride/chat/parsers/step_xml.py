"""Calls of Step and Qwen3-Coder: ``<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>``.

Models leave tags and newlines out and write ``<function NAME>``; a value may hold anything, even these tags. So a tag
ends a value only where what follows it fits.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from stride.chat.parsers.arguments import value_encoder
from stride.chat.parsers.format import Calls, CallShape, Outcome, ToolFormat
from stride.chat.parsers.source import Parse, Source, Wait
from stride.types import JsonSchema

_LONGEST_NAME = 128
_NAME = re.compile(r"""\s*(?:name\s*=\s*)?["']?(\w[^\s"'<>]*)["']?\s*""")
_FUNCTION = ("<function=", "<function ")
_PARAMETER = ("<parameter=", "<parameter ")
VALUE_END = "\n</parameter>\n"
"""Ends a value, wherever it stands, in calls that a grammar keeps to their form."""
_CLOSERS = ("</parameter>", "</function>", "</tool_call>")


@dataclass(slots=True)
class _Call:
    """One call being read. ``wrapped``: it began with ``<tool_call>``."""

    calls: Calls
    schema: JsonSchema
    wrapped: bool
    seen: set[str] = field(default_factory=set)

    @property
    def properties(self) -> dict[str, object]:
        properties = self.schema.get("properties")
        return dict(properties) if isinstance(properties, dict) else {}


def parse_call(source: Source, calls: Calls) -> Parse[Outcome]:
    """Parse the call or calls of one ``<tool_call>`` block, or of one function without it."""
    offset = 0
    wrapped = (yield from source.literal(0, ("<tool_call>",))) is not None
    if wrapped:
        offset = yield from source.skip_space(len("<tool_call>"))
    outcome = Outcome.TEXT
    while True:
        name, offset = yield from _tag(source, offset, _FUNCTION)
        if name is None or not calls.accepts(name) or not (wrapped or calls.knows(name)):
            return outcome
        source.take(offset)
        yield calls.start(name)
        outcome = yield from _function_body(source, _Call(calls, calls.parameters(name), wrapped))
        if not wrapped or outcome is Outcome.OPEN:
            return outcome
        outcome = Outcome.OPEN
        offset = yield from source.skip_space(0)
        if (yield from source.literal(offset, ("</tool_call>",))) is not None:
            source.take(offset + len("</tool_call>"))
            return Outcome.CLOSED


def _function_body(source: Source, call: _Call) -> Parse[Outcome]:
    """Everything after ``<function=NAME>``, up to and with ``</function>``."""
    while True:
        offset = yield from source.skip_space(0)
        key, end = yield from _tag(source, offset, _PARAMETER)
        if key is not None:
            source.take(end)
            yield from _parameter(source, call, key)
            continue
        closer = yield from source.literal(offset, _CLOSERS)
        if closer == "</parameter>":
            source.take(offset + len(closer))
            continue
        if closer == "</function>":
            source.take(offset + len(closer))
        yield call.calls.arguments("}" if call.seen else "{}")
        return Outcome.OPEN if closer is None else Outcome.CLOSED


def _parameter(source: Source, call: _Call, key: str) -> Parse[None]:
    """The value after ``<parameter=KEY>``, with ``</parameter>``. Of a repeated key, the first value counts."""
    repeated = key in call.seen
    encoder = value_encoder(call.properties.get(key), call.schema)
    if not repeated:
        yield call.calls.arguments(f"{', ' if call.seen else '{'}{json.dumps(key, ensure_ascii=False)}: ")
        call.seen.add(key)
    if (newline := (yield from source.literal(0, ("\r\n", "\n")))) is not None:
        source.take(len(newline))
    while True:
        text = source.take_until(("<", "\n", "\r"))
        if not text:
            length = yield from _end_of_value(source, call)
            if length is not None:
                break
            text = source.take(1)
        if not repeated and (piece := encoder.push(text)):
            yield call.calls.arguments(piece)
    source.take(length)
    if not repeated:
        yield call.calls.arguments(encoder.finish())


def _end_of_value(source: Source, call: _Call) -> Wait[int | None]:
    """How many characters end the value here (a newline, ``</parameter>``, or nothing); None if it goes on."""
    if call.calls.exact and not (yield from source.ended()):
        end = yield from source.literal(0, (VALUE_END,))
        return None if end is None else len(end)
    newline = yield from source.literal(0, ("\r\n", "\n"))
    offset = len(newline or "")
    if (yield from source.ended(offset)):
        return offset
    tag = yield from source.literal(offset, (*_CLOSERS, *_PARAMETER, *_FUNCTION, "<tool_call>"))
    if tag is None:
        return None
    after = yield from source.skip_space(offset + len(tag))
    at_end = yield from source.ended(after)
    fits = False
    match tag:
        case "</parameter>":
            follower = yield from source.literal(after, ("<parameter", "<function", "<tool_call>", *_CLOSERS[1:]))
            return offset + len(tag) if at_end or follower else None
        case "</function>":
            follower = yield from source.literal(after, ("</tool_call>", "<tool_call>", "<function"))
            fits = at_end or follower is not None or not call.wrapped
        case "</tool_call>":
            follower = yield from source.literal(after, ("<tool_call>", "<function", "</think>"))
            fits = at_end or follower is not None
        case "<tool_call>":
            name, _ = yield from _tag(source, after, _FUNCTION)
            fits = name is not None and call.calls.knows(name)
        case "<parameter=" | "<parameter ":
            key, _ = yield from _tag(source, offset, _PARAMETER)
            fits = key in call.properties and key not in call.seen
        case _:
            name, _ = yield from _tag(source, offset, _FUNCTION)
            fits = name is not None and call.calls.knows(name)
    return offset if fits else None


def _tag(source: Source, offset: int, openings: tuple[str, ...]) -> Wait[tuple[str | None, int]]:
    """The name in the tag at ``offset`` and the offset after it; None if there is no such tag."""
    opening = yield from source.literal(offset, openings)
    if opening is None:
        return None, offset
    inner = ""
    end = offset + len(opening)
    while (char := (yield from source.char(end))) != ">":
        if char in ("", "<", "\n") or len(inner) > _LONGEST_NAME:
            return None, offset
        inner += char
        end += 1
    found = _NAME.fullmatch(inner)
    return (found[1], end + 1) if found else (None, offset)


_END = "</function>"
STEP_XML = ToolFormat(
    "step-xml",
    markers=("<tool_call>", *_FUNCTION),
    closers=_CLOSERS,
    call=parse_call,
    shapes=(
        CallShape("<tool_call>\n<function=", ">\n", f"{_END}\n</tool_call>", "<tool_call>", "xml"),
        CallShape("<function=", ">\n", _END, "<function=", "xml"),
    ),
)

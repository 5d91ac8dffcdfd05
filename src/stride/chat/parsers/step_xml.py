"""Calls of Step and Qwen3-Coder: ``<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>``.

Models leave tags and newlines out and write ``<function NAME>``; a value may hold anything, even these tags. So a tag
ends a value only where what follows it fits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from stride.chat.parsers.arguments import ValueEncoder
from stride.chat.parsers.format import Calls, CallShape, Outcome, ToolFormat
from stride.chat.parsers.parameter import ANYTHING, Parameter, object_schema, read_parameter
from stride.chat.parsers.source import Parse, Source, Wait

_LONGEST_NAME = 128
_NAME = re.compile(r"""\s*(?:name\s*=\s*(?=["']))?["']?([^\s"'<>](?:[^"'<>]*[^\s"'<>])?)["']?\s*""")
_ATTRIBUTE = re.compile(r"\s*name\s*=")
_FUNCTION = ("<function=", "<function ")
_PARAMETER = ("<parameter=", "<parameter ")
VALUE_END = "\n</parameter>\n"
"""Ends a value, wherever it stands, in calls that a grammar keeps to their form."""
_CLOSERS = ("</parameter>", "</function>", "</tool_call>")


@dataclass(slots=True)
class _Call:
    """One call being read.

    ``wrapped``: it began with ``<tool_call>``. ``seen``: its parameters so far, ``n_told`` of them with a value.
    """

    calls: Calls
    name: str
    wrapped: bool
    seen: set[str] = field(default_factory=set)
    n_told: int = 0

    def parameter(self, key: str) -> Parameter:
        """What the parameter may be; anything where its schema cannot be read."""
        try:
            return read_parameter(object_schema(self.calls.parameters(self.name)), key)
        except (ValueError, RecursionError):
            return ANYTHING

    def declares(self, key: str) -> bool:
        properties = self.calls.parameters(self.name).get("properties")
        return isinstance(properties, Mapping) and key in properties


def parse_call(source: Source, calls: Calls) -> Parse[Outcome]:
    """Parse the call or calls of one ``<tool_call>`` block, or of one function without it."""
    offset = 0
    wrapped = (yield from source.literal(0, ("<tool_call>",))) is not None
    if wrapped:
        offset = yield from source.skip_space(len("<tool_call>"))
    outcome = Outcome.TEXT
    while True:
        name, offset = yield from _tag(source, offset, _FUNCTION, calls.exact)
        if name is None or not calls.accepts(name) or not (wrapped or calls.knows(name)):
            return outcome
        source.take(offset)
        yield calls.start(name)
        outcome = yield from _function_body(source, _Call(calls, name, wrapped))
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
        key, end = yield from _tag(source, offset, _PARAMETER, call.calls.exact)
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
        yield call.calls.arguments("}" if call.n_told else "{}")
        return Outcome.OPEN if closer is None else Outcome.CLOSED


def _parameter(source: Source, call: _Call, key: str) -> Parse[None]:
    """The value after ``<parameter=KEY>``, with ``</parameter>``.

    Of a repeated key, the first value counts. A value that is cut off is left out, unless a part of it is a value.
    """
    repeated = key in call.seen
    call.seen.add(key)
    encoder = ValueEncoder(call.parameter(key), call.calls.exact)
    opening = f"{', ' if call.n_told else '{'}{json.dumps(key, ensure_ascii=False)}: "

    def told(piece: str) -> Parse[None]:
        nonlocal opening
        if not repeated and (piece or (opening and encoder.is_string)):
            call.n_told += opening != ""
            yield call.calls.arguments(opening + piece)
            opening = ""

    yield from told("")
    if (newline := (yield from source.literal(0, ("\r\n", "\n")))) is not None:
        source.take(len(newline))
    while True:
        text = source.take_until(("<", "\n", "\r"))
        if not text:
            length = yield from _end_of_value(source, call)
            if length is not None:
                break
            text = source.take(1)
        yield from told(encoder.push(text))
    is_cut = (yield from source.ended(length)) and "</parameter>" not in source.peek(length)
    source.take(length)
    yield from told(encoder.cut() if is_cut else encoder.finish())


def _end_of_value(source: Source, call: _Call) -> Wait[int | None]:
    """How many characters end the value here (a newline, ``</parameter>``, or nothing); None if it goes on."""
    if call.calls.exact:
        if (yield from source.literal(0, (VALUE_END,))) is not None:
            return len(VALUE_END)
        rest = source.peek(len(VALUE_END))  # the beginning of it, if the text ends here
        return len(rest) if VALUE_END.startswith(rest) else None
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
            fits = key is not None and call.declares(key) and key not in call.seen
        case _:
            name, _ = yield from _tag(source, offset, _FUNCTION)
            fits = name is not None and call.calls.knows(name)
    return offset if fits else None


def _tag(source: Source, offset: int, openings: tuple[str, ...], exact: bool = False) -> Wait[tuple[str | None, int]]:
    """The name in the tag at ``offset`` and the offset after it; None if there is no such tag.

    ``exact``: all that stands there is the name.
    """
    opening = yield from source.literal(offset, openings)
    if opening is None:
        return None, offset
    inner = ""
    end = offset + len(opening)
    while (char := (yield from source.char(end))) != ">":
        if char in ("", "<", "\n") or (len(inner) > _LONGEST_NAME and not exact):
            return None, offset
        inner += char
        end += 1
    if exact:
        return inner, end + 1
    found = _NAME.fullmatch(_ATTRIBUTE.sub("", inner) if opening.endswith(" ") else inner)
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

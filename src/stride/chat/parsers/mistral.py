"""Mistral's calls: ``[TOOL_CALLS][{"name": …, "arguments": {…}}, …]``, or one ``[TOOL_CALLS]NAME[ARGS]{…}`` each."""

from __future__ import annotations

import re

from stride.chat.parsers.arguments import is_json
from stride.chat.parsers.format import Calls, CallShape, Outcome, ToolFormat, short_call_id
from stride.chat.parsers.json_call import json_call, object_end
from stride.chat.parsers.source import Parse, Source

_OPEN, _ARGS = "[TOOL_CALLS]", "[ARGS]"
_NAME = re.compile(r"[\w.\-]{1,128}")


def parse_call(source: Source, calls: Calls) -> Parse[Outcome]:
    offset = yield from source.skip_space(len(_OPEN))
    if (yield from source.literal(offset, ("[",))) is None:
        return (yield from _named_call(source, calls, offset))
    outcome = Outcome.TEXT
    offset += 1
    while True:
        offset = yield from source.skip_space(offset)
        end = yield from json_call(source, calls, offset)
        if end is None:
            return outcome
        source.take(end)
        outcome = Outcome.OPEN
        offset = yield from source.skip_space(0)
        separator = yield from source.literal(offset, (",", "]"))
        offset += len(separator or "")
        if separator != ",":
            source.take(offset)
            return Outcome.CLOSED


def _named_call(source: Source, calls: Calls, offset: int) -> Parse[Outcome]:
    at = offset
    while (char := (yield from source.char(at))) not in ("", "[", "{") and at - offset <= 128:
        at += 1
    name = source.peek(at)[offset:].strip()
    if not char or not _NAME.fullmatch(name) or not calls.accepts(name):
        return Outcome.TEXT
    if (yield from source.literal(at, (_ARGS,))) is not None:
        at += len(_ARGS)
    at = yield from source.skip_space(at)
    end = None
    if (yield from source.literal(at, ("{",))) is not None:
        end = yield from object_end(source, at)
    if end is None or not is_json(arguments := source.peek(end)[at:]):
        return Outcome.TEXT
    source.take(end)
    yield calls.start(name)
    yield calls.arguments(arguments)
    return Outcome.CLOSED


MISTRAL = ToolFormat(
    "mistral",
    markers=(_OPEN,),
    separators=(_ARGS,),
    call=parse_call,
    shapes=(
        CallShape(f'{_OPEN}[{{"name": "', '", "arguments": ', "}]", _OPEN, more='}, {"name": "'),
        CallShape(_OPEN, _ARGS, "", _OPEN),
    ),
    separators_between=("",),
    new_id=short_call_id,
)

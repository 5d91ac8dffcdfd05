"""Hermes' and Qwen's calls: ``<tool_call>{"name": …, "arguments": {…}}</tool_call>``."""

from __future__ import annotations

from stride.chat.parsers.format import Calls, CallShape, Outcome, ToolFormat
from stride.chat.parsers.json_call import json_call
from stride.chat.parsers.source import Parse, Source

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


def parse_call(source: Source, calls: Calls) -> Parse[Outcome]:
    offset = yield from source.skip_space(len(_OPEN))
    end = yield from json_call(source, calls, offset)
    if end is None:
        return Outcome.TEXT
    source.take(end)
    offset = yield from source.skip_space(0)
    if (yield from source.literal(offset, (_CLOSE,))) is None:
        return Outcome.OPEN
    source.take(offset + len(_CLOSE))
    return Outcome.CLOSED


HERMES = ToolFormat(
    "hermes",
    markers=(_OPEN,),
    closers=(_CLOSE,),
    call=parse_call,
    shapes=(CallShape(f'{_OPEN}\n{{"name": "', '", "arguments": ', f"}}\n{_CLOSE}", _OPEN),),
)

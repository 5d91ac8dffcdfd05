"""Llama 3's calls: an answer that is ``{"name": …, "parameters": {…}}``, several joined by ``;``, or one after
``<|python_tag|>``."""

from __future__ import annotations

from stride.chat.parsers.format import Calls, CallShape, Outcome, ToolFormat
from stride.chat.parsers.json_call import json_call
from stride.chat.parsers.source import Parse, Source

_TAG = "<|python_tag|>"
_FIRST_KEYS = ('"name"', '"type"', '"function"')


def parse_call(source: Source, calls: Calls) -> Parse[Outcome]:
    offset = 0
    tagged = (yield from source.literal(0, (_TAG,))) is not None
    if tagged:
        offset = yield from source.skip_space(len(_TAG))
    # An answer may be JSON without being a call: the first key tells, so that such an answer is not held back.
    first_key = yield from source.skip_space(offset + 1)
    if (yield from source.literal(first_key, _FIRST_KEYS)) is None:
        return Outcome.TEXT
    end = yield from json_call(source, calls, offset, known_only=not tagged)
    if end is None:
        return Outcome.TEXT
    source.take(end)
    offset = yield from source.skip_space(0)
    if (yield from source.literal(offset, (";",))) is not None:
        source.take(offset + 1)
    return Outcome.CLOSED


LLAMA3 = ToolFormat(
    "llama3",
    markers=(_TAG,),
    first_markers=("{",),
    call=parse_call,
    shapes=(
        CallShape('{"name": "', '", "parameters": ', "}", ""),
        CallShape(f'{_TAG}{{"name": "', '", "parameters": ', "}", _TAG),
    ),
    separators_between=("; ", ";"),
)

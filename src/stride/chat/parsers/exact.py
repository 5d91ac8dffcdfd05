"""Calls that a grammar has kept to their canonical form: read as they come, and by nothing else."""

from __future__ import annotations

from stride.chat.parsers.format import Calls, Outcome, ToolFormat
from stride.chat.parsers.partial_json import PartialJson
from stride.chat.parsers.source import Parse, Source


def parse_exact(source: Source, calls: Calls, tool_format: ToolFormat) -> Parse[Outcome]:
    """Parse a call that begins with its whole canonical opening; anything else is text."""
    openings = {
        shape.before + name + shape.after: (shape, name) for shape in tool_format.shapes for name in calls.names
    }
    opening = yield from source.literal(0, openings)
    if opening is None:
        return Outcome.TEXT
    shape, name = openings[opening]
    if shape.arguments == "xml":
        assert tool_format.call is not None
        return (yield from tool_format.call(source, calls))
    while opening is not None:
        source.take(len(opening))
        yield calls.start(name)
        yield from _arguments(source, calls)
        others = {shape.more + other + shape.after: other for other in calls.names} if shape.more else {}
        opening = yield from source.literal(0, others)
        name = others.get(opening or "", name)
    if (yield from source.literal(0, (shape.closing,))) is None:
        return Outcome.OPEN
    source.take(len(shape.closing))
    if (separator := (yield from source.literal(0, tool_format.separators_between))) is not None:
        source.take(len(separator))
    return Outcome.CLOSED


def _arguments(source: Source, calls: Calls) -> Parse[None]:
    json = PartialJson()
    while not json.complete and not (yield from source.ended()):
        certain, n_taken = json.push(source.peek(len(source)))
        source.take(n_taken)
        yield calls.arguments(certain)
    closing = json.closing()
    yield calls.arguments("{}" if closing is None else closing)

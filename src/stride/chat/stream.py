"""What comes out of the model, split as it streams into reasoning, content and tool calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from stride.chat.parsers.exact import parse_exact
from stride.chat.parsers.format import Calls, Outcome, ToolFormat
from stride.chat.parsers.source import Parse, Source
from stride.chat.stop import StopStrings
from stride.types import (
    ContentDelta,
    Delta,
    Message,
    ReasoningDelta,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolCallStart,
)


class StreamParser:
    """Parses one answer.

    The sum of the deltas does not depend on where the text was cut, and no text is lost: what looks like a call but
    is none comes back as text. White space around reasoning and calls is dropped, and so are tags that close reasoning
    once more before anything follows it. Without tools, calls are text.
    ``constrained``: a grammar keeps calls to their canonical form (`answer_grammar`), and only that is a call then.
    ``formatted``: the answer is calls or a text of some format, which may hold what looks like a call.
    ``continues``: the prompt ends within the text, or the thought, that goes on here; its white space is kept.
    ``in_reasoning`` tells where the stream stands. ``shown_tokens`` are the special tokens that must come as text: give
    them to ``Tokenizer.detokenizer(keep=...)``. ``stops`` end the content: neither reasoning nor calls are searched.
    """

    def __init__(
        self,
        tool_format: ToolFormat,
        tools: Sequence[Tool] = (),
        starts_in_reasoning: bool = False,
        *,
        constrained: bool = False,
        formatted: bool = False,
        continues: bool = False,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        self._format = tool_format
        self.shown_tokens = tool_format.shown_tokens
        self._calls = Calls(tools, new_id or tool_format.new_id)
        self._calls.exact = constrained
        self._parses_calls = bool(tools) and tool_format.call is not None
        self._formatted = formatted
        self.stops = StopStrings(())
        self._source = Source()
        self._reasoning = _TrimmedText(continues=continues and starts_in_reasoning)
        self._content = _TrimmedText(continues=continues and not starts_in_reasoning)
        self.in_reasoning = starts_in_reasoning
        self._fresh = not continues  # nothing visible since the start, the reasoning or a call
        self._unclosed = False  # closing tags of a call may be left over
        self._last_call_closed = True
        self._steps = self._parse()

    @property
    def n_held(self) -> int:
        """Characters of which it is not yet certain what they are, or that they may be shown."""
        return len(self._source) + self.stops.n_held

    @property
    def ends_in_calls(self) -> bool:
        """Whether calls have been made, the last of them whole."""
        return self._calls.count > 0 and self._last_call_closed

    def feed(self, text: str) -> list[Delta]:
        """What became certain with this piece of text; nothing after a stop string."""
        if not text:
            return []
        self._source.append(text)
        return self._advance()

    def finish(self) -> list[Delta]:
        """What was held back. An unfinished call is closed, so that its arguments are valid JSON."""
        self._source.close()
        return self._advance()

    def _advance(self) -> list[Delta]:
        deltas: list[Delta] = []
        for delta in self._steps:
            if delta is None:
                break
            if isinstance(delta, ToolCallStart):  # what was held back is no stop string, as it ends here
                self._last_call_closed = False
                _append(deltas, ContentDelta(self._content.push(self.stops.flush())))
            _append(deltas, delta)
        return deltas

    def _parse(self) -> Parse[None]:
        while self.stops.found is None:
            markers = self._markers()
            text = self._source.take_until({marker[0] for marker in markers})
            if text:
                yield from self._show(text)
            elif not self._source:
                if (yield from self._source.ended()):
                    break
            elif (marker := (yield from self._source.literal(0, markers))) is None:
                yield from self._show(self._source.take(1))
            else:
                yield from self._at_marker(marker)
        if not self.in_reasoning:
            yield ContentDelta(self._content.push(self.stops.flush()) + self._content.rest())

    def _markers(self) -> tuple[str, ...]:
        """What must not be shown as text here."""
        markers: tuple[str, ...] = ()
        if self._format.reasoning is not None:
            begin, end = self._format.reasoning
            markers += ((begin,) if self._fresh else ()) + ((end,) if self._fresh or self.in_reasoning else ())
        if self._parses_calls and (self._fresh or self.in_reasoning or not self._formatted):
            markers += self._format.markers
            if self._fresh and not self.in_reasoning:
                markers += self._format.first_markers
            if self._unclosed:
                markers += self._format.closers
        return markers

    def _at_marker(self, marker: str) -> Parse[None]:
        if self._format.reasoning is not None and marker in self._format.reasoning:
            self._source.take(len(marker))
            self._fresh = self._fresh or self.in_reasoning
            self.in_reasoning = marker == self._format.reasoning[0]
            return
        if self._unclosed and marker in self._format.closers:
            self._source.take(len(marker))
            self._content.interrupted = True
            return
        assert self._format.call is not None
        self._calls.known_only = self.in_reasoning
        if self._calls.exact:
            outcome = yield from parse_exact(self._source, self._calls, self._format)
        else:
            outcome = yield from self._format.call(self._source, self._calls)
        if outcome is Outcome.TEXT:
            yield from self._show(self._source.take(1))
            return
        self._fresh = True
        self._unclosed = True
        (self._reasoning if self.in_reasoning else self._content).interrupted = True
        self._last_call_closed = outcome is Outcome.CLOSED

    def _show(self, text: str) -> Parse[None]:
        if self.in_reasoning:
            if visible := self._reasoning.push(text):
                self._fresh = False
                yield ReasoningDelta(visible)
            return
        if self._fresh:  # white space before and between what is visible is not searched
            begun = text.lstrip()
            self._content.push(text[: len(text) - len(begun)])
            text = begun
        if text.strip():
            self._fresh = False
            self._unclosed = self._unclosed and not self._last_call_closed
        yield ContentDelta(self._content.push(self.stops.push(text)[0]))


class PlainParser:
    """All text is content, up to a stop string."""

    in_reasoning = False
    ends_in_calls = False
    shown_tokens = ()

    def __init__(self) -> None:
        self.stops = StopStrings(())

    @property
    def n_held(self) -> int:
        return self.stops.n_held

    def feed(self, text: str) -> list[Delta]:
        shown, _ = self.stops.push(text)
        return [ContentDelta(shown)] if shown else []

    def finish(self) -> list[Delta]:
        held = self.stops.flush()
        return [ContentDelta(held)] if held else []


def _append(deltas: list[Delta], delta: Delta) -> None:
    """Add a delta, joined with the last one if they are of one kind; nothing that is empty content."""
    if delta == ContentDelta(""):
        return
    joined = _join(deltas[-1], delta) if deltas else None
    if joined is None:
        deltas.append(delta)
    else:
        deltas[-1] = joined


def _join(first: Delta, second: Delta) -> Delta | None:
    """One delta in place of two that follow each other, if they are of one kind."""
    match first, second:
        case (ReasoningDelta(a), ReasoningDelta(b)):
            return ReasoningDelta(a + b)
        case (ContentDelta(a), ContentDelta(b)):
            return ContentDelta(a + b)
        case (ToolCallDelta(i, a), ToolCallDelta(j, b)) if i == j:
            return ToolCallDelta(i, a + b)
    return None


class _TrimmedText:
    """Text without leading white space; inner white space is held back until more text follows."""

    def __init__(self, *, continues: bool = False) -> None:
        self._shown = continues
        self._held: list[str] = []
        self.interrupted = False  # a call follows what was shown

    def push(self, text: str) -> str:
        visible = text.rstrip()
        if not visible:
            self._held += [text] if self._shown else []
            return ""
        if not self._shown:
            visible = visible.lstrip()
        result = "".join([*self._held, visible])
        self._held = [text[len(text.rstrip()) :]]
        self._shown = True
        self.interrupted = False
        return result

    def rest(self) -> str:
        """The white space at the very end, unless a call follows the text."""
        return "" if self.interrupted else "".join(self._held)


def collect(deltas: Iterable[Delta]) -> Message:
    """The assistant's message that a stream adds up to."""
    reasoning: list[str] = []
    content: list[str] = []
    starts: dict[int, ToolCallStart] = {}
    arguments: dict[int, list[str]] = {}
    for delta in deltas:
        match delta:
            case ReasoningDelta(text):
                reasoning.append(text)
            case ContentDelta(text):
                content.append(text)
            case ToolCallStart():
                starts[delta.index] = delta
                arguments[delta.index] = []
            case ToolCallDelta(index, text):
                arguments[index].append(text)
    return Message(
        role="assistant",
        content="".join(content) or None,
        reasoning="".join(reasoning) or None,
        tool_calls=tuple(ToolCall(start.id, start.name, "".join(arguments[i])) for i, start in starts.items()),
    )

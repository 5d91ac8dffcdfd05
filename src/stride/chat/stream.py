"""What comes out of the model, split as it streams into reasoning, content and tool calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from stride.chat.parsers.exact import parse_exact
from stride.chat.parsers.format import Calls, Outcome, ToolFormat
from stride.chat.parsers.source import Parse, Source
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
    once more. Without tools, calls are text.
    ``constrained``: a grammar keeps calls to their canonical form (`answer_grammar`), and only that is a call then.
    ``continues``: the prompt ends within the text, or the thought, that goes on here; its white space is kept.
    ``in_reasoning`` tells where the stream stands. ``shown_tokens`` are the special tokens that must come as text: give
    them to ``Tokenizer.detokenizer(keep=...)``.
    """

    def __init__(
        self,
        tool_format: ToolFormat,
        tools: Sequence[Tool] = (),
        starts_in_reasoning: bool = False,
        *,
        constrained: bool = False,
        continues: bool = False,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        self._format = tool_format
        self.shown_tokens = tool_format.shown_tokens
        self._calls = Calls(tools, new_id or tool_format.new_id)
        self._calls.exact = constrained
        self._parses_calls = bool(tools) and tool_format.call is not None
        self._source = Source()
        self._reasoning = _TrimmedText(continues=continues and starts_in_reasoning)
        self._content = _TrimmedText(continues=continues and not starts_in_reasoning)
        self.in_reasoning = starts_in_reasoning
        self._reasoned = False  # reasoning has ended: closing tags may be left over
        self._fresh = not continues  # nothing visible since the start, the reasoning or a call
        self._unclosed = False  # closing tags of a call may be left over
        self._last_call_closed = True
        self._steps = self._parse()

    def feed(self, text: str) -> list[Delta]:
        """What became certain with this piece of text."""
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
            joined = _join(deltas[-1], delta) if deltas else None
            if joined is None:
                deltas.append(delta)
            else:
                deltas[-1] = joined
        return deltas

    def _parse(self) -> Parse[None]:
        while True:
            markers = self._markers()
            text = self._source.take_until({marker[0] for marker in markers})
            if text:
                yield from self._show(text)
            elif not self._source:
                if (yield from self._source.ended()):
                    yield from self._end()
                    return
            elif (marker := (yield from self._source.literal(0, markers))) is None:
                yield from self._show(self._source.take(1))
            else:
                yield from self._at_marker(marker)

    def _markers(self) -> tuple[str, ...]:
        """What must not be shown as text here."""
        markers: tuple[str, ...] = ()
        if self._format.reasoning is not None:
            begin, end = self._format.reasoning
            closes = self._fresh or self.in_reasoning or self._reasoned
            markers += ((begin,) if self._fresh else ()) + ((end,) if closes else ())
        if self._parses_calls:
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
            self._reasoned = not self.in_reasoning
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
        elif visible := self._content.push(text):
            self._fresh = False
            self._unclosed = self._unclosed and not self._last_call_closed
            yield ContentDelta(visible)

    def _end(self) -> Parse[None]:
        if not self.in_reasoning and (rest := self._content.rest()):
            yield ContentDelta(rest)


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

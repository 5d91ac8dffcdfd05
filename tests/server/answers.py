"""What scripted models say, and what they are asked: the same in the tests of every dialect."""

from __future__ import annotations

from dataclasses import replace

from stride.types import ContentDelta, Finish, ReasoningDelta, Timings, ToolCallDelta, ToolCallStart, Usage

HELLO = [{"role": "user", "content": "Hello!"}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}

FINISH = Finish("stop", Usage(7, 3, 2, 1), Timings(prompt_n=7, prompt_ms=70.0, predicted_n=3, predicted_ms=40.0))
ANSWER = (ReasoningDelta("hm"), ReasoningDelta("m"), ContentDelta("Hel"), ContentDelta("lo"), FINISH)
CUT = (ContentDelta("x"), replace(FINISH, reason="length"))
CALLS = (
    ReasoningDelta("hm"),
    ContentDelta("Let me look."),
    ToolCallStart(0, "a", "get_weather"),
    ToolCallDelta(0, '{"city":'),
    ToolCallDelta(0, ' "Austin"}'),
    ToolCallStart(1, "b", "add"),
    ToolCallDelta(1, '{"n": 12345678901234567890}'),
    replace(FINISH, reason="tool_calls"),
)
INTERLEAVED = (
    ContentDelta("Let me "),
    ContentDelta("look."),
    ToolCallStart(0, "a", "get_weather"),
    ToolCallDelta(0, '{"city": "Austin"}'),
    ReasoningDelta("hm"),
    ContentDelta("\n\nAnd "),
    ContentDelta("add."),
    ToolCallStart(1, "b", "add"),
    ReasoningDelta("h"),
    ReasoningDelta("m"),
    ContentDelta("Done."),
    replace(FINISH, reason="tool_calls"),
)
"""Words, calls and thoughts in turn; one call is without arguments."""

NUMBERS = '{"n": [1e999, 0.1000000000000000055511151231257827], "m": ' + "7" * 5000 + "}"
"""Arguments whose numbers no double holds."""
NUMBERS_CALL = (ToolCallStart(0, "a", "add"), ToolCallDelta(0, NUMBERS), replace(FINISH, reason="tool_calls"))

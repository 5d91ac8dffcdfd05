"""Items of OpenAI's Responses, what clients send and what they were sent, as a conversation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from stride.errors import RequestError, shown
from stride.types import Message, ToolCall

Item = dict[str, Any]
ROLES = ("user", "assistant", "system", "developer")
TEXTS = ("input_text", "output_text", "text", "reasoning_text", "summary_text")
"""Types of the parts that are text."""


@dataclass
class _Turn:
    """What the assistant did in one turn: items of several kinds."""

    reasoning: list[str] = field(default_factory=list)
    content: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)

    def messages(self) -> Iterator[Message]:
        if self.reasoning or self.content or self.calls:
            content, reasoning = "".join(self.content), "".join(self.reasoning)
            yield Message("assistant", content or None, reasoning or None, tuple(self.calls))


def conversation(items: Iterable[Item]) -> list[Message]:
    """The messages; what the assistant thought, said and called in one turn becomes one.

    Raises:
        RequestError: names an item that is not what it must be, or that this model cannot read.
    """
    messages: list[Message] = []
    names: dict[str, str] = {}
    turn = _Turn()
    for item in items:
        kind = item.get("type") or "message"
        if kind == "reasoning":
            if turn.content or turn.calls:
                messages += turn.messages()
                turn = _Turn()
            turn.reasoning.append(_texts(item.get("content") or item.get("summary") or ""))
        elif kind == "function_call":
            call = ToolCall(_string(item, "call_id"), _string(item, "name"), _string(item, "arguments"))
            turn.calls.append(call)
            names[call.id] = call.name
        elif kind == "message" and item.get("role") == "assistant":
            turn.content.append(_texts(item.get("content")))
        else:
            messages += turn.messages()
            turn = _Turn()
            messages.append(_message(kind, item, names))
    return [*messages, *turn.messages()]


def _message(kind: str, item: Item, names: dict[str, str]) -> Message:
    if kind == "function_call_output":
        call_id = _string(item, "call_id")
        return Message("tool", _texts(item.get("output")), tool_call_id=call_id, name=names.get(call_id))
    if kind != "message":
        raise RequestError(f"input: an item of type {shown(kind)} cannot be read here", field="input")
    role = item.get("role")
    if role not in ROLES:
        raise RequestError(
            f"input: the role of a message is {shown(role)}, but must be one of {', '.join(ROLES)}", field="input"
        )
    return Message(role, _texts(item.get("content")))


def _texts(content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RequestError("input: content must be a string or a list of parts", field="input")
    return "".join(map(_text, content))


def _text(part: object) -> str:
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    if not isinstance(part, dict) or kind not in (*TEXTS, "refusal"):
        raise RequestError(
            f"input: content of type {shown(kind)} cannot be read here: this model takes text", field="input"
        )
    text = part.get("refusal" if kind == "refusal" else "text")
    if not isinstance(text, str):
        raise RequestError(f"input: content of type {shown(kind)} must have its text", field="input")
    return text


def _string(item: Item, name: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise RequestError(f"input: a {item.get('type')} item must have its {name}", field="input")
    return value

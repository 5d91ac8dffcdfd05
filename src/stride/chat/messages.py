"""OpenAI-style dictionaries to messages and tools."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from stride.errors import RequestError, shown
from stride.types import Message, Tool, ToolCall

ROLES = ("system", "developer", "user", "assistant", "tool")


def message(value: Message | Mapping[str, Any]) -> Message:
    """A message from its OpenAI form; `Message` itself passes through.

    Raises:
        RequestError: names the field that is not what it must be.
    """
    if isinstance(value, Message):
        return value
    if not isinstance(value, Mapping):
        raise RequestError(f"a message must be an object, not {type(value).__name__}", field="messages")
    role = value.get("role")
    if role not in ROLES:
        raise RequestError(
            f"messages.role is {shown(role)}, but must be one of {', '.join(ROLES)}", field="messages.role"
        )
    content = _text(value.get("content"))
    if content is None and role != "assistant":
        raise RequestError(f"a message of role {shown(role)} must have content", field="messages.content")
    return Message(
        role=role,
        content=content,
        reasoning=_string(value, "reasoning_content") or _string(value, "reasoning"),
        tool_calls=tuple(_tool_call(call, index) for index, call in enumerate(_list(value, "tool_calls"))),
        tool_call_id=_string(value, "tool_call_id"),
        name=_string(value, "name"),
    )


def tool(value: Tool | Mapping[str, Any]) -> Tool:
    """A tool from its OpenAI form, ``{"type": "function", "function": {...}}``; `Tool` itself passes through.

    Raises:
        RequestError: it is not a function with a name.
    """
    if isinstance(value, Tool):
        return value
    function = value.get("function") if isinstance(value, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        raise RequestError("each of tools must be a function with a name", field="tools")
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    if not isinstance(parameters, Mapping):
        raise RequestError(f"the parameters of tool {shown(function['name'])} must be a JSON schema", field="tools")
    description = function.get("description") or ""
    if not isinstance(description, str):
        raise RequestError(f"the description of tool {shown(function['name'])} must be a string", field="tools")
    return Tool(function["name"], description, parameters)


def _string(value: Mapping[str, Any], name: str) -> str | None:
    text = value.get(name)
    if text is not None and not isinstance(text, str):
        raise RequestError(f"messages.{name} must be a string, not {type(text).__name__}", field=f"messages.{name}")
    return text


def _list(value: Mapping[str, Any], name: str) -> Sequence[object]:
    items = value.get(name) or ()
    if isinstance(items, str) or not isinstance(items, Sequence):
        raise RequestError(f"messages.{name} must be a list, not {type(items).__name__}", field=f"messages.{name}")
    return items


def _text(content: object) -> str | None:
    """Content is a string, nothing, or a list of text parts."""
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        parts = []
        for part in content:
            if not isinstance(part, Mapping) or part.get("type") not in ("text", "input_text"):
                kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
                raise RequestError(f"content parts must be text, not {shown(kind)}", field="messages.content")
            if not isinstance(part.get("text"), str):
                raise RequestError("a text part must have its text", field="messages.content")
            parts.append(part["text"])
        return "".join(parts)
    raise RequestError("messages.content must be a string or a list of text parts", field="messages.content")


def _tool_call(value: object, index: int) -> ToolCall:
    function = value.get("function") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RequestError("each of messages.tool_calls must be a function call", field="messages.tool_calls")
    arguments = function.get("arguments", "{}")
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return ToolCall(str(value.get("id") or f"call_{index}"), function["name"], arguments)

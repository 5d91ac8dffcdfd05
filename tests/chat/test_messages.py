"""OpenAI's dictionaries to messages and tools."""

import pytest

from stride.chat.messages import message, tool
from stride.errors import RequestError
from stride.types import Message, Tool, ToolCall


def test_plain_messages_and_text_parts():
    assert message({"role": "user", "content": "Hi"}) == Message("user", "Hi")
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert message({"role": "user", "content": parts}) == Message("user", "ab")


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content"])
def test_reasoning_goes_by_two_names(key):
    assert message({"role": "assistant", "content": "x", key: "because"}).reasoning == "because"


def test_tool_calls_keep_their_arguments_text():
    calls = [{"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"n": 12345678901234567890}'}}]
    assert message({"role": "assistant", "content": None, "tool_calls": calls}).tool_calls == (
        ToolCall("a", "f", '{"n": 12345678901234567890}'),
    )
    objects = [{"function": {"name": "f", "arguments": {"é": 1}}}]
    assert message({"role": "assistant", "tool_calls": objects}).tool_calls == (ToolCall("call_0", "f", '{"é": 1}'),)


def test_tools_need_a_name_and_default_to_no_parameters():
    assert tool({"type": "function", "function": {"name": "f"}}) == Tool("f")
    with pytest.raises(RequestError, match="name"):
        tool({"type": "function", "function": {}})
    with pytest.raises(RequestError, match="JSON schema"):
        tool({"type": "function", "function": {"name": "f", "parameters": 3}})


def test_stride_types_pass_through():
    assert message(Message("user", "x")) == Message("user", "x")
    assert tool(Tool("f")) == Tool("f")


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("text", "message"),
        ({"content": "x"}, "role"),
        ({"role": "user", "content": 3}, "content"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "image_url"),
        ({"role": "assistant", "tool_calls": [{"id": "x"}]}, "tool_calls"),
    ],
)
def test_what_is_wrong_is_named(value, name):
    with pytest.raises(RequestError, match=name):
        message(value)

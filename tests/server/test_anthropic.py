"""Anthropic's messages, asked by its own client."""

from __future__ import annotations

import json
from dataclasses import replace

import anthropic
import httpx
import pytest
from tests.server.answers import ANSWER, CALLS, CUT, FINISH, HELLO, INTERLEAVED, NUMBERS, NUMBERS_CALL, SCHEMA

from stride.chat.constraints import NamedTool
from stride.errors import ContextOverflowError, GenerationError, OverloadedError
from stride.types import (
    ContentDelta,
    Finish,
    Message,
    ReasoningDelta,
    Timings,
    ToolCall,
    Usage,
)

TOOLS = [
    {"name": "get_weather", "description": "The weather", "input_schema": SCHEMA},
    {"name": "add", "input_schema": {"type": "object", "properties": {"n": {"type": "integer"}}}, "type": "custom"},
]
THINKING = {"type": "enabled", "budget_tokens": 1024}


@pytest.fixture
def client(live):
    with anthropic.Anthropic(base_url=live.url, api_key="none", max_retries=0) as client:
        yield client


def ask(client, **more):
    return client.messages.create(**{"model": "any", "max_tokens": 100, "messages": HELLO, **more})


def final(client, **more):
    with client.messages.stream(**{"model": "any", "max_tokens": 100, "messages": HELLO, **more}) as stream:
        return stream.get_final_message()


# --- answers ---


def test_text(client, live):
    live.play(*ANSWER)
    message = ask(client)
    assert message.id.startswith("msg_")
    assert (message.type, message.role, message.model) == ("message", "assistant", "scripted")
    assert [block.to_dict() for block in message.content] == [{"type": "text", "text": "Hello"}]
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens, message.usage.output_tokens) == (5, 2, 3)
    assert message.usage.output_tokens_details.thinking_tokens == 1


@pytest.mark.parametrize("get", [ask, final])
def test_thinking_is_told_where_it_was_asked_for(client, live, get):
    live.play(*ANSWER)
    thinking, text = get(client, thinking=THINKING, max_tokens=2000).content
    assert (thinking.type, thinking.thinking, thinking.signature) == ("thinking", "hmm", "")
    assert text.text == "Hello"
    for quiet in ({}, {"thinking": {**THINKING, "display": "omitted"}}):
        assert [block.type for block in get(client, **quiet).content] == ["text"]


@pytest.mark.parametrize("steps", [ANSWER, CALLS, CUT, INTERLEAVED, (FINISH,), (ReasoningDelta("x"), FINISH)])
def test_streamed_is_as_whole(client, live, steps):
    live.play(*steps)
    whole, streamed = (get(client, tools=TOOLS, thinking=THINKING).to_dict() for get in (ask, final))
    assert whole.pop("id") != streamed.pop("id")
    for block in streamed["content"]:
        block.pop("parsed_output", None)
    assert whole == streamed


@pytest.mark.parametrize("get", [ask, final])
def test_blocks_come_in_the_order_of_what_was_said(client, live, get):
    live.play(*INTERLEAVED)
    kinds = [block.type for block in get(client, tools=TOOLS, thinking=THINKING, max_tokens=2000).content]
    assert kinds == ["text", "tool_use", "thinking", "text", "tool_use", "thinking", "text"]
    first, call, second, bare, third = get(client, tools=TOOLS).content
    assert [block.text for block in (first, second, third)] == ["Let me look.", "\n\nAnd add.", "Done."]
    assert [(block.name, block.input) for block in (call, bare)] == [("get_weather", {"city": "Austin"}), ("add", {})]


def test_events_of_a_stream(live):
    live.play(*ANSWER)
    body = {"max_tokens": 9, "messages": HELLO, "stream": True, "thinking": THINKING}
    frames = httpx.post(f"{live.url}/v1/messages", json=body).text.removesuffix("\n\n").split("\n\n")
    events = []
    for frame in frames:
        name, data = frame.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    start, ping, *blocks, delta, stop = events
    assert start["message"]["content"] == []
    assert start["message"]["stop_reason"] is None
    assert start["message"]["usage"]["input_tokens"] == 7
    assert ping == {"type": "ping"}
    assert [(event["type"], event["index"]) for event in blocks] == [
        ("content_block_start", 0),
        *[("content_block_delta", 0)] * 3,
        ("content_block_stop", 0),
        ("content_block_start", 1),
        *[("content_block_delta", 1)] * 2,
        ("content_block_stop", 1),
    ]
    assert [event["delta"]["type"] for event in blocks[1:4]] == ["thinking_delta", "thinking_delta", "signature_delta"]
    assert delta["delta"] == {"stop_reason": "end_turn", "stop_sequence": None, "stop_details": None}
    assert delta["usage"]["output_tokens"] == 3
    assert stop == {"type": "message_stop"}


@pytest.mark.parametrize("get", [ask, final])
def test_tools_are_called(client, live, get):
    model = live.play(*CALLS)
    message = get(client, tools=TOOLS)
    assert message.stop_reason == "tool_use"
    text, first, second = message.content
    assert text.text == "Let me look."
    assert (first.type, first.id, first.name, first.input) == ("tool_use", "a", "get_weather", {"city": "Austin"})
    assert (second.name, second.input) == ("add", {"n": 12345678901234567890})
    offered = model.asked[-1][1]
    assert [(tool.name, tool.description) for tool in offered] == [("get_weather", "The weather"), ("add", "")]
    assert offered[0].parameters == SCHEMA


def test_numbers_of_a_call_keep_their_digits(scripted):
    response = scripted(*NUMBERS_CALL)[0].ask("/v1/messages", max_tokens=100)
    assert response.status_code == 200
    assert f'"input":{NUMBERS}' in response.text


def test_arguments_come_as_they_are_written(client, live):
    live.play(*CALLS)
    with client.messages.stream(model="any", max_tokens=100, messages=HELLO, tools=TOOLS) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
    assert pieces == ['{"city":', ' "Austin"}', '{"n": 12345678901234567890}']


@pytest.mark.parametrize(
    ("finish", "reason", "sequence"),
    [
        (replace(FINISH, stop="END"), "stop_sequence", "END"),
        (Finish("length", Usage(7, 100), Timings()), "max_tokens", None),
        (Finish("length", Usage(7, 50), Timings()), "model_context_window_exceeded", None),
    ],
)
@pytest.mark.parametrize("get", [ask, final])
def test_why_it_ended(client, live, get, finish, reason, sequence):
    live.play(ContentDelta("x"), finish)
    message = get(client)
    assert (message.stop_reason, message.stop_sequence) == (reason, sequence)


# --- requests ---


def test_conversation(client, live):
    model = live.play(FINISH)
    text = {"type": "text", "text": "first", "cache_control": {"type": "ephemeral"}}
    ask(
        client,
        system=[text, {"type": "text", "text": "second"}],
        tools=TOOLS,
        messages=[
            {"role": "user", "content": [text]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": ""},
                    {"type": "redacted_thinking", "data": "xyz"},
                    {"type": "text", "text": "Let me look."},
                    {"type": "tool_use", "id": "a", "name": "get_weather", "input": {"city": "Wien"}},
                    {"type": "tool_use", "id": "b", "name": "add", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "sunny"}]},
                    {"type": "tool_result", "tool_use_id": "b", "content": "no n", "is_error": True},
                    {"type": "tool_result", "tool_use_id": "c"},
                    {"type": "text", "text": "Well?"},
                ],
            },
        ],
    )
    calls = (ToolCall("a", "get_weather", '{"city": "Wien"}'), ToolCall("b", "add", "{}"))
    assert model.asked[-1][0] == [
        Message("system", "first\n\nsecond"),
        Message("user", "first"),
        Message("assistant", "Let me look.", "hm", calls),
        Message("tool", "sunny", tool_call_id="a", name="get_weather"),
        Message("tool", "Error: no n", tool_call_id="b", name="add"),
        Message("tool", "", tool_call_id="c"),
        Message("user", "Well?"),
    ]


def test_an_answer_can_be_sent_back(client, live):
    model = live.play(*CALLS)
    answer = ask(client, tools=TOOLS, thinking=THINKING)
    results = [{"type": "tool_result", "tool_use_id": block.id, "content": "1"} for block in answer.content[-2:]]
    ask(client, tools=TOOLS, messages=[*HELLO, answer.to_param(), {"role": "user", "content": results}])
    assert model.asked[-1][0][1].reasoning == "hm"
    assert [message.name for message in model.asked[-1][0][2:]] == ["get_weather", "add"]


def test_sampling(client, live):
    model = live.play(FINISH)
    older = {"temperature": 0.5, "top_k": 3, "top_p": 0.9}  # what this release of the client does not know any more
    ask(client, extra_body=older, stop_sequences=["a", "b"], metadata={"user_id": "me"})
    params = model.params
    assert (params.temperature, params.top_k, params.top_p, params.max_tokens) == (0.5, 3, 0.9, 100)
    assert params.stop == ("a", "b")


@pytest.mark.parametrize(
    ("given", "choice", "parallel"),
    [
        ({}, "auto", True),
        ({"type": "auto", "disable_parallel_tool_use": True}, "auto", False),
        ({"type": "any"}, "required", True),
        ({"type": "tool", "name": "add", "disable_parallel_tool_use": False}, NamedTool("add"), True),
        ({"type": "none"}, "none", True),
    ],
)
def test_tool_choice(client, live, given, choice, parallel):
    model = live.play(FINISH)
    ask(client, tools=TOOLS, **({"tool_choice": given} if given else {}))
    constraints = model.asked[-1][4]
    assert (constraints.tool_choice, constraints.parallel_tool_calls) == (choice, parallel)


def test_thinking_and_form(client, live):
    model = live.play(FINISH)
    ask(client, thinking=THINKING, output_config={"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}})
    constraints = model.asked[-1][4]
    assert (constraints.reasoning_budget, constraints.reasoning_effort) == (1024, "low")
    assert json.loads(constraints.text.source) == SCHEMA
    ask(client, thinking={"type": "disabled"})
    assert model.asked[-1][4].reasoning_budget == 0


def test_tokens_are_counted(client, live):
    model = live.play(FINISH)
    counted = client.messages.count_tokens(model="any", messages=HELLO, system="Be brief.", tools=TOOLS)
    assert counted.input_tokens == 7
    assert model.asked[-1][0] == [Message("system", "Be brief."), Message("user", "Hello!")]


# --- errors ---


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "'image' cannot be read here"),
        (
            {"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]},
            "'document' cannot be read",
        ),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "type None"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "must have its text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": "x"}]}]},
            "must have its tool_use_id",
        ),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f"}]}]}, "input"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"extra_body": {"temperature": -0.1}}, "temperature"),
        ({"extra_body": {"top_k": -1}}, "top_k"),
        ({"tool_choice": {"type": "tool"}, "tools": TOOLS}, "tool_choice.name"),
        ({"tool_choice": {"type": "some"}}, "tool_choice"),
        ({"tools": [{"name": "f"}]}, "input_schema"),
        ({"thinking": {"type": "enabled"}}, "thinking"),
        ({"stop_sequences": [""]}, "stop"),
        ({"output_config": {"effort": "heroic"}}, "reasoning_effort"),
    ],
)
def test_bad_requests(client, live, given, message):
    model = live.play(FINISH)
    with pytest.raises(anthropic.BadRequestError, match=message) as caught:
        ask(client, **given)
    assert caught.value.body["type"] == "error"
    assert caught.value.body["error"]["type"] == "invalid_request_error"
    assert model.asked == []


def test_the_assistants_last_words_are_continued(client, live):
    model = live.play(ContentDelta("42)"), FINISH)
    begun = [*HELLO, {"role": "assistant", "content": [{"type": "text", "text": "The answer is ("}]}]
    assert ask(client, messages=begun).content[0].text == "42)"
    assert model.asked[-1][0] == [Message("user", "Hello!"), Message("assistant", "The answer is (")]
    off = {"type": "disabled"}
    assert ask(client, messages=begun, thinking=off).content[0].text == "42)"
    with pytest.raises(anthropic.BadRequestError, match="thinking must be off"):
        ask(client, messages=begun, max_tokens=2048, thinking={"type": "enabled", "budget_tokens": 1024})


def test_max_tokens_must_be_given(live):
    response = httpx.post(f"{live.url}/v1/messages", json={"messages": HELLO})
    assert response.status_code == 400
    assert "max_tokens" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "given",
    [
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        {"extra_body": {"mcp_servers": [{"url": "http://localhost"}]}},
    ],
)
def test_what_cannot_be_done_is_said_once(live, given):
    """The client does not try again."""
    with anthropic.Anthropic(base_url=live.url, api_key="none", max_retries=2) as client:
        model = live.play(FINISH)
        with pytest.raises(anthropic.InternalServerError, match=r"not supported|tool of Anthropic's") as caught:
            ask(client, **given)
    assert caught.value.status_code == 501
    assert caught.value.body["error"]["type"] == "not_supported_error"
    assert model.asked == []


@pytest.mark.parametrize(
    ("error", "kind", "name"),
    [
        (GenerationError("NaN logits"), anthropic.InternalServerError, "api_error"),
        (ContextOverflowError(200, 128), anthropic.BadRequestError, "invalid_request_error"),
        (OverloadedError("64 requests wait"), anthropic.RateLimitError, "rate_limit_error"),
    ],
)
@pytest.mark.parametrize("get", [ask, final])
def test_errors_of_the_model(client, live, get, error, kind, name):
    live.play(error)
    with pytest.raises(kind, match=str(error)) as caught:
        get(client)
    assert caught.value.body["error"]["type"] == name


def test_error_in_mid_stream(client, live):
    live.play(ContentDelta("Hel"), 0.05, GenerationError("lost the file"))
    with pytest.raises(anthropic.APIStatusError, match="lost the file"):
        final(client)


def test_unknown_route_and_wrong_key(scripted):
    client, _ = scripted(api_keys=("secret",))
    answer = client.post("/v1/messages", json={}, headers={"x-api-key": "wrong"})
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "authentication_error"
    assert answer.json()["type"] == "error"
    right = {"x-api-key": "secret", "anthropic-version": "2023-06-01"}
    assert client.post("/v1/messages/nothing", json={}, headers=right).json()["error"]["type"] == "not_found_error"
    body = {"max_tokens": 1, "messages": HELLO}
    assert client.post("/v1/messages", json=body, headers=right).status_code == 200


def test_silence_and_hidden_thinking_are_pings(scripted):
    client, _ = scripted(ReasoningDelta("hm"), 0.25, ContentDelta("x"), FINISH, ping_seconds=0.1)
    text = client.ask("/v1/messages", max_tokens=9, stream=True).text
    assert text.count('event: ping\ndata: {"type":"ping"}\n\n') == 4
    assert "hm" not in text


def test_who_goes_away_is_not_computed_for(client, live):
    live.play(ContentDelta("x"), 60.0, FINISH)
    with client.messages.stream(model="any", max_tokens=100, messages=HELLO) as stream:
        assert next(iter(stream.text_stream)) == "x"
    live.wait_until_cancelled()


# --- the demo model ---


@pytest.fixture
def demo(served):
    with anthropic.Anthropic(base_url=served.url, api_key="none", max_retries=0) as client:
        yield client


def test_demo_model_answers(demo):
    given = {"messages": HELLO, "extra_body": {"temperature": 0}, "max_tokens": 12, "thinking": {"type": "adaptive"}}
    whole, streamed = ask(demo, **given), final(demo, **given)
    assert whole.content[0].type == "thinking"
    assert streamed.content[0].thinking == whole.content[0].thinking
    assert whole.usage.output_tokens == 12
    counted = demo.messages.count_tokens(model="any", messages=HELLO).input_tokens
    assert counted == whole.usage.input_tokens + whole.usage.cache_read_input_tokens


def test_demo_model_must_call(demo):
    message = ask(
        demo,
        tools=TOOLS,
        tool_choice={"type": "tool", "name": "get_weather"},
        max_tokens=300,
        thinking={"type": "disabled"},
    )
    (call,) = [block for block in message.content if block.type == "tool_use"]
    assert call.name == "get_weather"
    assert isinstance(call.input, dict)


def test_demo_model_refuses_what_is_too_long(demo):
    with pytest.raises(anthropic.BadRequestError, match="context window has 2048"):
        ask(demo, messages=[{"role": "user", "content": "word " * 5000}])

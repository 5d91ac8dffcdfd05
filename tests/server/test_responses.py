"""OpenAI's Responses, asked by its own client."""

from __future__ import annotations

import json

import httpx
import openai
import pytest
from starlette.exceptions import HTTPException
from tests.server.answers import ANSWER, CALLS, CUT, FINISH, INTERLEAVED, SCHEMA

from stride.chat.constraints import NamedTool
from stride.errors import ContextOverflowError, GenerationError, OverloadedError, RequestError
from stride.server.responses.store import Store
from stride.types import (
    ChosenToken,
    ContentDelta,
    Message,
    ReasoningDelta,
    TokenLogprob,
    TokensDelta,
    ToolCall,
    ToolCallDelta,
    ToolCallStart,
)

TOOLS = [
    {"type": "function", "name": "get_weather", "description": "The weather", "parameters": SCHEMA, "strict": True},
    {"type": "function", "name": "add", "parameters": None, "strict": None},
]


@pytest.fixture
def client(live):
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(client, **more):
    return client.responses.create(**{"model": "any", "input": "Hello!", **more})


def final(client, **more):
    with client.responses.stream(**{"model": "any", "input": "Hello!", **more}) as stream:
        return stream.get_final_response()


# --- answers ---


def test_text(client, live):
    live.play(*ANSWER)
    response = ask(client, metadata={"who": "me"}, instructions="Be brief.")
    assert response.id.startswith("resp_")
    assert (response.object, response.status, response.model) == ("response", "completed", "scripted")
    assert response.output_text == "Hello"
    reasoning, message = response.output
    assert (reasoning.type, reasoning.content[0].text, reasoning.summary) == ("reasoning", "hmm", [])
    assert (message.role, message.status, message.content[0].annotations) == ("assistant", "completed", [])
    usage = response.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (7, 3, 10)
    assert (usage.input_tokens_details.cached_tokens, usage.output_tokens_details.reasoning_tokens) == (2, 1)
    assert (response.metadata, response.instructions, response.error) == ({"who": "me"}, "Be brief.", None)
    assert (response.tool_choice, response.tools, response.parallel_tool_calls) == ("auto", [], True)


def comparable(response):
    """A response without ids and times."""
    value = response.to_dict()
    for part in (value, *value["output"]):
        for name in ("id", "created_at", "completed_at", "parsed_arguments"):
            part.pop(name, None)
        for content in part.get("content") or ():
            content.pop("parsed", None)
    return value


@pytest.mark.parametrize("steps", [ANSWER, CALLS, INTERLEAVED, (FINISH,), (ReasoningDelta("x"), FINISH)])
def test_streamed_is_as_whole(client, live, steps):
    live.play(*steps)
    assert comparable(ask(client, tools=TOOLS)) == comparable(final(client, tools=TOOLS))


def test_events_of_a_stream(client, live):
    live.play(*CALLS)
    events = list(ask(client, stream=True, tools=TOOLS))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type.removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    added = [event for event in events if event.type == "response.output_item.added"]
    done = [event for event in events if event.type == "response.output_item.done"]
    assert [event.output_index for event in added] == [event.output_index for event in done] == [0, 1, 2, 3]
    assert [event.item.status for event in (*added, *done)] == ["in_progress"] * 4 + ["completed"] * 4
    assert [event.item.id for event in added] == [item.id for item in events[-1].response.output]
    assert added[2].item.arguments == ""
    assert done[2].item.arguments == '{"city": "Austin"}'
    assert events[0].response.output == []


def test_frames_have_names(live):
    live.play(*ANSWER)
    text = httpx.post(f"{live.url}/responses", json={"input": "x", "stream": True}).text
    for frame in text.removesuffix("\n\n").split("\n\n"):
        name, data = frame.split("\n")
        assert name == f"event: {json.loads(data.removeprefix('data: '))['type']}"


@pytest.mark.parametrize("get", [ask, final])
def test_functions_are_called(client, live, get):
    model = live.play(*CALLS)
    *_, first, second = get(client, tools=TOOLS).output
    assert (first.type, first.call_id, first.name) == ("function_call", "a", "get_weather")
    assert first.arguments == '{"city": "Austin"}'
    assert second.arguments == '{"n": 12345678901234567890}'
    assert [(tool.name, tool.description) for tool in model.asked[-1][1]] == [
        ("get_weather", "The weather"),
        ("add", ""),
    ]
    assert model.asked[-1][1][0].parameters == SCHEMA


def test_length(client, live):
    live.play(*CUT)
    response = ask(client, max_output_tokens=1)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert response.output[0].status == "incomplete"
    last = list(ask(client, stream=True))[-1]
    assert (last.type, last.response.output[0].status) == ("response.incomplete", "incomplete")


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities(client, live, stream):
    token = TokenLogprob(5, b"Hel", -0.5)
    model = live.play(TokensDelta((ChosenToken(token, (token,)),)), *ANSWER[2:])
    get = final if stream else ask
    response = get(client, include=["message.output_text.logprobs"], top_logprobs=1)
    (told,) = response.output[0].content[0].logprobs
    assert (told.token, told.logprob, told.top_logprobs[0].token) == ("Hel", -0.5, "Hel")
    assert model.params.logprobs == 1


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_are_of_the_text_alone(client, live, stream):
    def token(*texts):
        return TokensDelta(tuple(ChosenToken(TokenLogprob(5, text.encode(), -0.5), ()) for text in texts))

    said = [(token("hm"), ReasoningDelta("hm")), (token("</think>", "\n\n", "H", "i"), ContentDelta("Hi"))]
    call = [(token("call"), ToolCallStart(0, "a", "add")), (token("{}"), ToolCallDelta(0, "{}"))]
    end = (token("!"), ContentDelta("!"), FINISH)
    live.play(*(event for pair in (*said, *call) for event in pair), *end)
    if stream:
        events = list(ask(client, stream=True, include=["message.output_text.logprobs"]))
        told = [
            (event.delta, [each.token for each in event.logprobs])
            for event in events
            if hasattr(event, "logprobs") and hasattr(event, "delta")
        ]
        assert told == [("Hi", ["H", "i"]), ("!", ["!"])]
        response = events[-1].response
    else:
        response = ask(client, include=["message.output_text.logprobs"])
    texts = [item.content[0] for item in response.output if item.type == "message"]
    assert [[each.token for each in text.logprobs] for text in texts] == [["H", "i"], ["!"]]


def test_input_tokens_are_counted(client, live):
    model = live.play(FINISH)
    counted = client.responses.input_tokens.count(
        model="any", input="Hello!", instructions="Be brief.", reasoning={"effort": "low"}
    )
    assert (counted.object, counted.input_tokens) == ("response.input_tokens", 7)
    turns, _, variables, _ = model.asked[-1]
    assert [turn.role for turn in turns] == ["system", "user"]
    assert variables == {"reasoning_effort": "low"}


# --- requests ---


def test_items(client, live):
    model = live.play(FINISH)
    ask(
        client,
        instructions="Be brief.",
        tools=TOOLS,
        input=[
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]},
            {"role": "assistant", "content": [{"type": "output_text", "text": "Let me look."}]},
            {"type": "function_call", "call_id": "x", "name": "get_weather", "arguments": '{"city": "Wien"}'},
            {"type": "function_call", "call_id": "y", "name": "add", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "x", "output": "sunny"},
            {"type": "function_call_output", "call_id": "y", "output": [{"type": "input_text", "text": "3"}]},
        ],
    )
    calls = (ToolCall("x", "get_weather", '{"city": "Wien"}'), ToolCall("y", "add", "{}"))
    assert model.asked[-1][0] == [
        Message("system", "Be brief."),
        Message("developer", "Be kind."),
        Message("user", "ab"),
        Message("assistant", "Let me look.", "hm", calls),
        Message("tool", "sunny", tool_call_id="x", name="get_weather"),
        Message("tool", "3", tool_call_id="y", name="add"),
    ]


def test_each_thought_begins_a_turn(client, live):
    model = live.play(FINISH)
    call = {"type": "function_call", "name": "f", "arguments": "{}"}
    think = {"type": "reasoning", "summary": []}
    thought = [{"type": "reasoning_text", "text": "hm"}]
    ask(
        client,
        input=[
            {**think, "content": thought},
            {**call, "call_id": "a"},
            think,
            {**call, "call_id": "b"},
            {"role": "user", "content": "x"},
        ],
    )
    turns = model.asked[-1][0]
    assert [(turn.role, turn.reasoning, len(turn.tool_calls)) for turn in turns] == [
        ("assistant", "hm", 1),
        ("assistant", None, 1),
        ("user", None, 0),
    ]


def test_sampling(client, live):
    model = live.play(FINISH)
    ask(client, temperature=0.5, top_p=0.9, max_output_tokens=16)
    assert (model.params.temperature, model.params.top_p, model.params.max_tokens) == (0.5, 0.9, 16)


ALLOWED = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "add"}]}


@pytest.mark.parametrize(
    ("given", "choice", "offered"),
    [
        ("auto", "auto", 2),
        ("none", "none", 2),
        ("required", "required", 2),
        ({"type": "function", "name": "add"}, NamedTool("add"), 2),
        (ALLOWED, "required", 1),
    ],
)
def test_tool_choice(client, live, given, choice, offered):
    model = live.play(FINISH)
    response = ask(client, tools=TOOLS, tool_choice=given, parallel_tool_calls=False)
    assert model.asked[-1][4].tool_choice == choice
    assert model.asked[-1][4].parallel_tool_calls is False
    assert len(model.asked[-1][1]) == offered
    echoed = response.tool_choice
    assert (echoed if isinstance(echoed, str) else echoed.to_dict()) == given


def test_effort_and_form(client, live):
    model = live.play(FINISH)
    form = {"type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True}
    assert ask(client, reasoning={"effort": "low"}, text={"format": form}).text.format.to_dict() == form
    assert model.asked[-1][4].reasoning_effort == "low"
    assert json.loads(model.asked[-1][4].text.source) == SCHEMA
    ask(client, text={"format": {"type": "json_object"}, "verbosity": "low"})
    assert json.loads(model.asked[-1][4].text.source) == {"type": "object"}
    ask(client, text={"format": {"type": "text"}})
    assert model.asked[-1][4].text is None


# --- coming back ---


def test_a_conversation_goes_on(client, live):
    model = live.play(*CALLS)
    first = ask(client, instructions="Be brief.", tools=TOOLS)
    outputs = [{"type": "function_call_output", "call_id": call_id, "output": "1"} for call_id in ("a", "b")]
    model = live.play(*ANSWER)
    second = ask(client, previous_response_id=first.id, input=outputs, stream=True)
    second_id = list(second)[-1].response.id
    ask(client, previous_response_id=second_id, input="And?")
    said = model.asked[-1][0]
    assert [message.role for message in said] == ["user", "assistant", "tool", "tool", "assistant", "user"]
    assert (said[1].reasoning, said[1].content, len(said[1].tool_calls)) == ("hm", "Let me look.", 2)
    assert (said[4].content, said[5].content) == ("Hello", "And?")


def test_kept_responses(client, live):
    live.play(*ANSWER)
    response = ask(client)
    assert client.responses.retrieve(response.id).to_dict() == response.to_dict()
    (item,) = client.responses.input_items.list(response.id).data
    assert (item.role, item.content) == ("user", "Hello!")
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)
    with pytest.raises(openai.BadRequestError, match="previous_response_id: there is no response"):
        ask(client, previous_response_id=response.id)


def test_what_is_not_to_be_kept_is_not(client, live):
    live.play(*ANSWER)
    response = ask(client, store=False)
    assert response.store is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_each_key_has_its_own(scripted):
    client, _ = scripted(*ANSWER, api_keys=("mine", "yours"))
    mine, yours = ({"Authorization": f"Bearer {key}"} for key in ("mine", "yours"))
    made = client.post("/v1/responses", json={"input": "secret"}, headers=mine).json()
    path = f"/v1/responses/{made['id']}"
    assert client.get(path, headers=mine).status_code == 200
    assert client.get(f"/responses/{made['id']}", headers=mine).status_code == 200
    assert client.get(path, headers=yours).status_code == 404
    assert client.get(f"{path}/input_items", headers=yours).status_code == 404
    assert client.delete(path, headers=yours).status_code == 404
    continued = {"input": "x", "previous_response_id": made["id"]}
    assert client.post("/v1/responses", json=continued, headers=yours).status_code == 400
    assert client.post("/v1/responses", json=continued, headers=mine).status_code == 200


def test_the_store_is_bounded():
    store = Store(max_bytes=1000)

    def keep(number: int, text: str = "x" * 300) -> None:
        store.keep("me", {"id": str(number), "output": [{"text": text}], "previous_response_id": None}, [])

    keep(1)
    keep(2)
    store.get("me", "1")
    keep(3)
    assert store.history("me", "1") == [{"text": "x" * 300}]
    with pytest.raises(RequestError):
        store.history("me", "2")
    store.delete("me", "1")
    keep(4)
    assert store.get("me", "3").response["id"] == "3"
    keep(5, "x" * 1000)
    for number in (3, 4, 5):
        with pytest.raises(HTTPException):
            store.get("me", str(number))


# --- errors ---


def test_the_assistants_last_words_are_continued(client, live):
    model = live.play(ContentDelta("42)"), FINISH)
    begun = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "The answer is ("}]
    assert ask(client, input=begun).output_text == "42)"
    assert model.asked[-1][0] == [Message("user", "?"), Message("assistant", "The answer is (")]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "'input_image' cannot be",
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]}, "'input_file' cannot be"),
        ({"input": [{"role": "user", "content": ["x"]}]}, "'str' cannot be read"),
        ({"input": [{"role": "user", "content": 5}]}, "string or a list of parts"),
        ({"input": [{"role": "robot", "content": "x"}]}, "role of a message is 'robot'"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "'item_reference' cannot be read"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "must have its call_id"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}]}, "output must follow"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"top_logprobs": -1}, "top_logprobs"),
        ({"tools": [{"type": "function"}]}, "with a name"),
        ({"tools": TOOLS[:1], "tool_choice": ALLOWED}, "'add', which is none of the tools"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "must have its schema"),
        ({"text": {"format": {"type": "xml"}}}, "text"),
        ({"reasoning": {"effort": "heroic"}}, "reasoning_effort"),
        ({"previous_response_id": "resp_x"}, "previous_response_id"),
    ],
)
def test_bad_requests(client, live, given, message):
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        ask(client, **given)
    assert caught.value.type == "invalid_request_error"
    assert caught.value.param
    assert live.model.asked == []


@pytest.mark.parametrize(
    "given",
    [
        {"background": True},
        {"conversation": "conv_1"},
        {"prompt": {"id": "x"}},
        {"tools": [{"type": "web_search"}]},
    ],
)
def test_what_cannot_be_done_is_said_once(live, given):
    """The client does not try again."""
    with (
        openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=2) as client,
        pytest.raises(openai.InternalServerError, match=next(iter(given))) as caught,
    ):
        ask(client, **given)
    assert caught.value.status_code == 501
    assert live.model.asked == []


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (GenerationError("NaN logits"), openai.InternalServerError),
        (ContextOverflowError(200, 128), openai.BadRequestError),
        (OverloadedError("64 requests wait"), openai.RateLimitError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_of_the_model(client, live, error, kind, stream):
    live.play(error)
    with pytest.raises(kind, match=str(error)):
        ask(client, stream=stream)


def test_error_in_mid_stream(client, live):
    live.play(ContentDelta("Hel"), 0.05, GenerationError("lost the file"))
    events = list(ask(client, stream=True))
    assert events[-1].type == "response.failed"
    assert events[-1].sequence_number == len(events) - 1
    assert (events[-1].response.status, events[-1].response.error.message) == ("failed", "lost the file")


def test_who_goes_away_is_not_computed_for(client, live):
    live.play(ContentDelta("x"), 60.0, FINISH)
    with ask(client, stream=True) as events:
        assert next(event for event in events if event.type == "response.output_text.delta").delta == "x"
    live.wait_until_cancelled()


# --- the demo model ---


def test_demo_model(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        given = {"temperature": 0, "max_output_tokens": 12}
        whole = ask(client, **given)
        streamed = list(ask(client, stream=True, **given))[-1].response
        assert whole.output[0].type == "reasoning"
        assert whole.output[0].content[0].text == streamed.output[0].content[0].text
        assert whole.usage.output_tokens == streamed.usage.output_tokens == 12
        must = {"type": "function", "name": "get_weather"}
        call = ask(client, tools=TOOLS, tool_choice=must, max_output_tokens=400, reasoning={"effort": "none"}).output[
            -1
        ]
        assert (call.type, call.name) == ("function_call", "get_weather")
        assert isinstance(json.loads(call.arguments)["city"], str)

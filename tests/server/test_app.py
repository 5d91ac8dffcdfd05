"""The wire: what goes in, what comes out, and what each error looks like."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest
from tests.server.answers import FINISH

from stride.chat.constraints import Constraints, NamedTool, TextFormat
from stride.errors import ContextOverflowError, GenerationError, OverloadedError, RequestError
from stride.server import Models, Settings, create_app
from stride.types import ContentDelta, Finish, ReasoningDelta, ToolCallDelta, ToolCallStart

ANSWER = (ReasoningDelta("hm"), ContentDelta("Hel"), ContentDelta("lo"), FINISH)
CALLS = (
    ToolCallStart(0, "a", "get_weather"),
    ToolCallDelta(0, '{"city":'),
    ToolCallDelta(0, '"Austin"}'),
    ToolCallStart(1, "b", "calculate"),
    ToolCallDelta(1, "{}"),
    Finish("tool_calls", FINISH.usage, FINISH.timings),
)
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 3,
    "total_tokens": 10,
    "prompt_tokens_details": {"cached_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 1},
}
TIMINGS = {
    "cache_n": 0,
    "prompt_n": 7,
    "prompt_ms": 70.0,
    "prompt_per_token_ms": 10.0,
    "prompt_per_second": 100.0,
    "predicted_n": 3,
    "predicted_ms": 40.0,
    "predicted_per_token_ms": 40 / 3,
    "predicted_per_second": 75.0,
}


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The data of a stream, whose framing is checked."""
    assert response.headers["content-type"].startswith("text/event-stream")
    *frames, end = response.text.split("\n\n")
    assert end == ""
    assert frames.pop() == "data: [DONE]"
    return [json.loads(frame.removeprefix("data: ")) for frame in frames if frame != ": ping"]


def error(response: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    content = response.json()
    assert response.status_code == status, content
    assert content["error"]["code"] == status
    assert content["error"]["type"] == kind
    assert set(content) == {"error"}
    return content["error"]


# --- answers ---


def test_whole_answer(scripted):
    client, _ = scripted(*ANSWER)
    answer = client.ask().json()
    assert re.fullmatch(r"chatcmpl-[A-Za-z0-9]{32}", answer.pop("id"))
    assert isinstance(answer.pop("created"), int)
    assert answer.pop("system_fingerprint").startswith("stride-")
    message = {"role": "assistant", "content": "Hello", "reasoning_content": "hm", "reasoning": "hm"}
    assert answer == {
        "object": "chat.completion",
        "model": "scripted",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": USAGE,
        "timings": TIMINGS,
    }


def test_tool_calls_come_together(scripted):
    client, _ = scripted(*CALLS)
    (choice,) = client.ask().json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Austin"}'}},
            {"id": "b", "type": "function", "function": {"name": "calculate", "arguments": "{}"}},
        ],
    }


def test_empty_answer_is_an_empty_string(scripted):
    client, _ = scripted(FINISH)
    assert client.ask().json()["choices"][0]["message"] == {"role": "assistant", "content": ""}


def test_streamed_answer(scripted):
    client, _ = scripted(*ANSWER)
    chunks = events(client.ask(stream=True))
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": None},
        {"reasoning_content": "hm", "reasoning": "hm"},
        {"content": "Hel"},
        {"content": "lo"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 4 + ["stop"]
    assert [("timings" in chunk, "usage" in chunk) for chunk in chunks] == [(False, False)] * 4 + [(True, False)]
    assert chunks[-1]["timings"] == TIMINGS


def test_streamed_tool_calls(scripted):
    client, _ = scripted(*CALLS)
    deltas = [chunk["choices"][0]["delta"] for chunk in events(client.ask(stream=True))]
    start = {"index": 0, "id": "a", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
    assert deltas[1] == {"tool_calls": [start]}
    assert deltas[2] == {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]}
    assert deltas[4]["tool_calls"][0]["id"] == "b"


def test_usage_comes_in_a_chunk_of_its_own(scripted):
    client, _ = scripted(*ANSWER)
    *_, reason, last = events(client.ask(stream=True, stream_options={"include_usage": True}))
    assert reason["choices"][0]["finish_reason"] == "stop"
    assert (last["choices"], last["usage"], last["timings"]) == ([], USAGE, TIMINGS)


def test_timings_per_token(scripted):
    client, _ = scripted(*ANSWER)
    first, *rest = events(client.ask(stream=True, timings_per_token=True))
    assert "timings" not in first
    assert all("timings" in chunk for chunk in rest)


def test_silence_is_broken_by_comments(scripted):
    client, _ = scripted(0.25, *ANSWER, ping_seconds=0.1)
    text = client.ask(stream=True).text
    assert text.index("assistant") < text.index(": ping") < text.index("Hel")
    assert text.count(": ping\n\n") == 2


def test_plain_completion(scripted):
    client, model = scripted(ContentDelta("Hel"), ContentDelta("lo"), FINISH)
    answer = client.ask("/v1/completions", prompt="Say").json()
    assert answer["object"] == "text_completion"
    assert answer["choices"] == [{"index": 0, "text": "Hello", "logprobs": None, "finish_reason": "stop"}]
    assert answer["usage"] == USAGE
    assert model.asked[-1][0] == "Say"
    chunks = events(client.ask("/v1/completions", prompt=[1, 2], stream=True, stream_options={"include_usage": True}))
    assert [choice["text"] for chunk in chunks for choice in chunk["choices"]] == ["Hel", "lo", ""]
    assert chunks[-1]["usage"] == USAGE
    assert model.asked[-1][0] == [1, 2]


# --- requests ---


@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        ("abc", ["abc"]),
        (["abc"], ["abc"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2]], [[1, 2]]),
        ([5], [[5]]),
        (["a", "b"], ["a", "b"]),
        ([[1], [2, 3]], [[1], [2, 3]]),
        (["a", [1, 2]], ["a", [1, 2]]),
    ],
)
def test_prompts_may_be_texts_or_tokens_one_or_many(scripted, given, prompts):
    client, model = scripted()
    assert client.ask("/v1/completions", prompt=given).status_code == 200
    assert [asked[0] for asked in model.asked] == prompts


@pytest.mark.parametrize("path", ["/v1/completions", "/completion"])
def test_texts_between_token_ids_are_of_one_prompt(demo_llm, demo, path):
    def tokens(text):
        return demo_llm.tokenizer.encode(text, special=True)

    def said(prompt):
        answer = demo.post(path, json={"prompt": prompt, "max_tokens": 4, "temperature": 0}).json()
        return answer.get("usage", {}).get("prompt_tokens", answer.get("tokens_evaluated"))

    assert said([5, 6, "Hello there", 7]) == 3 + len(tokens("Hello there"))
    assert said(["Hello", 7]) == len(demo_llm.tokenize("Hello")) + 1
    assert demo.post(path, json={"prompt": [[5, "Hello"], [6], "x"], "max_tokens": 1}).status_code == 200


@pytest.mark.parametrize(
    "prompt",
    [["a", [1], 1], [1, True], [["a"]], [["a", 1], ["a"]], [[[1]]], [1.5], [True], 5, None, {"a": 1}, ["a"] * 65],
)
def test_what_is_no_prompt_is_refused_by_name(scripted, prompt):
    client, model = scripted()
    problem = error(client.ask("/v1/completions", prompt=prompt), 400, "invalid_request_error")
    assert problem["param"].startswith("prompt")
    assert "prompt" in problem["message"]
    assert model.asked == []


def test_sampling_parameters_reach_the_model(scripted):
    client, model = scripted()
    given = {
        "temperature": 0,
        "top_k": 3,
        "top_p": 0.5,
        "min_p": 0.1,
        "typical_p": 0.9,
        "repeat_penalty": 1.1,
        "repeat_last_n": -1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
        "seed": 42,
        "max_tokens": 5,
        "ignore_eos": True,
        "dry_multiplier": 0.8,
        "dry_base": 1.5,
        "dry_allowed_length": 3,
        "dry_penalty_last_n": -1,
        "xtc_probability": 0.5,
        "xtc_threshold": 0.2,
        "top_n_sigma": 1.5,
        "dynatemp_range": 0.3,
        "dynatemp_exponent": 2.0,
        "mirostat": 2,
        "mirostat_tau": 4.0,
        "mirostat_eta": 0.2,
    }
    texts = {"stop": "END", "dry_sequence_breakers": ["\n", "."]}
    assert client.ask(**given, **texts, logit_bias={"5": -100}).status_code == 200
    assert {name: getattr(model.params, name) for name in given} == given
    assert model.params.stop == ("END",)
    assert model.params.dry_sequence_breakers == ("\n", ".")
    assert model.params.logit_bias == {5: -100}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"max_tokens": 5, "max_completion_tokens": 6}, {"max_tokens": 6}),
        ({"n_predict": 7}, {"max_tokens": 7}),
        ({"max_tokens": -1}, {"max_tokens": None}),
        ({"seed": -1, "top_k": -1, "top_n_sigma": -1}, {"seed": None, "top_k": 0, "top_n_sigma": 0}),
        ({}, {"logprobs": None}),
        ({"logprobs": False, "top_logprobs": 0, "n_probs": 0}, {"logprobs": None}),
        ({"logprobs": True}, {"logprobs": 0}),
        ({"logprobs": True, "top_logprobs": 3}, {"logprobs": 3}),
        ({"n_probs": 4}, {"logprobs": 4}),
        ({"stop": ["a", "b"]}, {"stop": ("a", "b")}),
        ({"stop": None, "temperature": None}, {"stop": (), "temperature": 0.8}),
        ({"logit_bias": [[5, -1], [6, False]]}, {"logit_bias": {5: -1, 6: float("-inf")}}),
    ],
)
def test_llama_servers_and_openais_spellings(scripted, given, expected):
    client, model = scripted()
    assert client.ask(**given).status_code == 200
    assert {name: getattr(model.params, name) for name in expected} == expected


def test_the_servers_defaults_yield_to_the_request(scripted):
    client, model = scripted(sampling={"temperature": 0.1, "top_k": 7, "max_tokens": 9})
    client.ask(top_k=1, max_tokens=-1)
    assert (model.params.temperature, model.params.top_k, model.params.max_tokens) == (0.1, 1, None)


@pytest.mark.parametrize(
    ("default", "asked", "expected"), [(True, None, True), (False, None, False), (False, True, True)]
)
def test_a_request_says_whether_its_prompt_is_cached(scripted, default, asked, expected):
    client, model = scripted(sampling={"cache_prompt": default})
    client.ask(cache_prompt=asked)
    assert model.params.cache_prompt is expected


def test_each_api_key_is_a_scope_of_its_own(scripted):
    client, model = scripted(api_keys=("one", "two"))
    for headers in (
        {"Authorization": "Bearer one"},
        {"Authorization": "Bearer two"},
        {"X-Api-Key": "one"},
        {"Authorization": "bearer  one "},
    ):
        assert client.ask(headers=headers).status_code == 200
    one, two, again, spaced = model.scopes
    assert one == again == spaced != two
    assert not {"one", "two", ""} & set(model.scopes)


def test_without_keys_all_share_a_scope(scripted):
    client, model = scripted()
    client.ask()
    client.ask(headers={"Authorization": "Bearer anything"})
    assert model.scopes == ["", ""]


def test_conversation_reaches_the_model_as_it_came(scripted):
    client, model = scripted(template_kwargs={"a": 1, "b": 1})
    call = {"id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "reasoning_content": "r", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "x", "content": "1"},
    ]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    assert client.ask(messages=messages, tools=tools, chat_template_kwargs={"b": 2}).status_code == 200
    assert model.asked[-1][:2] == (messages, tools)
    assert model.asked[-1][3] == {"a": 1, "b": 2}


def test_constraints_reach_the_model(scripted):
    client, model = scripted()
    client.ask()
    assert model.asked[-1][4] == Constraints()
    schema = {"type": "array"}
    client.ask(
        tool_choice={"type": "function", "function": {"name": "f"}},
        parallel_tool_calls=False,
        reasoning_effort="low",
        thinking={"type": "enabled", "budget_tokens": 5},
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )
    text = TextFormat.json_schema(schema, "response_format")
    assert model.asked[-1][4] == Constraints(NamedTool("f"), False, text, "low", 5)
    client.ask("/v1/completions", prompt="x", regex="a+")
    assert model.asked[-1][2] == TextFormat.regex("a+")


def test_unknown_fields_are_ignored(scripted):
    client, _ = scripted()
    neutral = {"response_format": {"type": "text"}, "logprobs": False, "n": 1, "cache_prompt": True, "grammar": ""}
    assert client.ask(user="me", metadata={}, store=True, model="gpt-4o", **neutral).status_code == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("messages", []),
        ("messages", "hi"),
        ("messages", ["hi"]),
        ("temperature", "hot"),
        ("temperature", -1),
        ("temperature", True),
        ("top_p", 2),
        ("top_k", 2**63),
        ("top_k", -2),
        ("min_p", -0.1),
        ("repeat_penalty", 0),
        ("repeat_last_n", -2),
        ("max_tokens", -5),
        ("max_tokens", 1.5),
        ("max_tokens", 2**63),
        ("seed", 2**63),
        ("seed", -2),
        ("n", 0),
        ("n", 65),
        ("n", 10**6),
        ("stop", 5),
        ("stop", [""]),
        ("stop", ["x"] * 1000),
        ("stream", "yes"),
        ("stream_options", {"include_usage": 1}),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {"5": "x"}),
        ("logit_bias", [[1]]),
        ("logit_bias", 5),
        ("tools", {}),
        ("tools", [5]),
        ("tool_choice", 5),
        ("tool_choice", "sometimes"),
        ("response_format", {"type": "xml"}),
        ("response_format", 5),
        ("response_format", {"type": "json_schema", "json_schema": {}}),
        ("json_schema", 5),
        ("regex", 5),
        ("reasoning_budget", -2),
        ("reasoning_budget_tokens", -2),
        ("thinking_budget_tokens", -2),
        ("add_generation_prompt", "no"),
        ("reasoning_effort", "enormous"),
        ("thinking", {"type": "enabled"}),
        ("chat_template_kwargs", []),
        ("chat_template_kwargs", {"messages": []}),
        ("chat_template_kwargs", {"self": 1}),
        ("chat_template_kwargs", {"namespace": 5}),
        ("parallel_tool_calls", "no"),
        ("logprobs", "all"),
        ("logprobs", 3),
        ("top_logprobs", 3),
        ("top_logprobs", 21),
        ("n_probs", -1),
        ("n_probs", 10**6),
        ("samplers", ["top_k", "top-k"]),
        ("samplers", "kq"),
        ("samplers", [1]),
        ("dry_multiplier", -1),
        ("dry_sequence_breakers", []),
        ("dry_sequence_breakers", "x"),
        ("dry_base", 0.5),
        ("xtc_probability", 2),
        ("xtc_threshold", "high"),
        ("mirostat", 3),
        ("mirostat_tau", -1),
        ("dynatemp_range", -1),
        ("top_n_sigma", -2),
    ],
)
def test_bad_values_are_named(scripted, field, value):
    client, model = scripted()
    problem = error(client.ask(**{field: value}), 400, "invalid_request_error")
    assert field in problem["message"]
    assert problem["param"].startswith(field)
    assert model.asked == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("post_sampling_probs", True),
        ("adaptive_target", 0.5),
        ("n_indent", 4),
        ("t_max_predict_ms", 100),
        ("lora", [{"id": 0, "scale": 1.0}]),
    ],
)
def test_what_cannot_be_enforced_is_refused(scripted, field, value):
    client, model = scripted()
    problem = error(client.ask(**{field: value}), 501, "not_supported_error")
    assert field in problem["message"]
    assert problem["param"] == field
    assert model.asked == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": "\0"}', "no JSON"),
        (b'{"a": "\\u0000"}', "NUL"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b"[]", "must be a JSON object"),
        (b"[" * 100_000, "nested deeper"),
        (b'{"a":' * 300 + b"1" + b"}" * 300, "nested deeper"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "no JSON"),
    ],
)
def test_bad_bodies(scripted, body, message):
    client, _ = scripted()
    problem = error(client.post("/v1/chat/completions", content=body), 400, "invalid_request_error")
    assert message in problem["message"]


def test_large_bodies(scripted):
    client, _ = scripted(max_body_bytes=1000)
    content = [{"role": "user", "content": "x" * 1000}]
    assert "larger than 1000 bytes" in error(client.ask(messages=content), 413, "invalid_request_error")["message"]


# --- errors of the model ---


def test_error_before_the_first_token_is_an_http_error(scripted):
    for stream in (False, True):
        client, model = scripted(GenerationError("NaN logits"))
        assert error(client.ask(stream=stream), 500, "server_error")["message"] == "NaN logits"
        assert model.streams[-1].cancelled.is_set()


def test_error_in_mid_stream_is_its_last_event(scripted):
    client, _ = scripted(ContentDelta("Hel"), GenerationError("lost the file"))
    response = client.ask(stream=True)
    assert response.status_code == 200
    *_, last, end = response.text.split("\n\n")
    assert end == ""
    problem = json.loads(last.removeprefix("data: "))
    assert problem == {"error": {"code": 500, "message": "lost the file", "type": "server_error"}}


def test_context_overflow_has_its_counts(scripted):
    client, _ = scripted(ContextOverflowError(200, 128))
    problem = error(client.ask(), 400, "exceed_context_size_error")
    assert (problem["n_prompt_tokens"], problem["n_ctx"]) == (200, 128)


def test_full_queue_says_when_to_come_again(scripted):
    client, _ = scripted(OverloadedError("64 requests wait"))
    response = client.ask()
    error(response, 429, "rate_limit_error")
    assert response.headers["retry-after"] == "1"


def test_refused_request_names_its_field(scripted):
    client, _ = scripted(RequestError("no such role", field="messages.role"))
    assert error(client.ask(), 400, "invalid_request_error")["param"] == "messages.role"


def test_unforeseen_errors_say_nothing_of_the_inside(scripted):
    client, _ = scripted(ZeroDivisionError("secret"))
    assert "secret" not in error(client.ask(), 500, "server_error")["message"]


# --- facts ---


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_facts_with_and_without_prefix(scripted, prefix):
    client, _ = scripted(alias="my-model")
    assert client.get(f"{prefix}/health").json() == {"status": "ok"}
    listing = client.get(f"{prefix}/models").json()
    assert listing["object"] == "list"
    assert [(card["id"], card["object"]) for card in listing["data"]] == [("my-model", "model")]
    assert client.get(f"{prefix}/models/my-model").json() == listing["data"][0]
    error(client.get(f"{prefix}/models/other"), 404, "not_found_error")
    props = client.get(f"{prefix}/props").json()
    assert props["model_path"] == "scripted.gguf"
    assert props["chat_template"] == "{{ messages }}"
    assert props["default_generation_settings"]["n_ctx"] == 128
    assert client.ask(f"{prefix}/chat/completions").status_code == 200
    counted = client.ask(f"{prefix}/chat/completions/input_tokens", tools=[], reasoning_effort="low").json()
    assert counted == {"object": "response.input_tokens", "input_tokens": 7}


def test_unknown_routes_and_methods(scripted):
    client, _ = scripted()
    error(client.get("/v1/nothing"), 404, "not_found_error")
    error(client.get("/v1/chat/completions"), 405, "invalid_request_error")


def test_everything_waits_for_the_model(scripted):
    client, _ = scripted()
    loading = type(client)(create_app(Models({"": lambda stopping: None}), Settings()))
    for response in (loading.get("/health"), loading.get("/v1/models"), loading.ask()):
        assert error(response, 503, "unavailable_error")["message"] == "Loading model"

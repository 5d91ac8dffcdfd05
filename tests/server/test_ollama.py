"""Ollama's own routes, asked by its own client."""

from __future__ import annotations

import json
import time
from datetime import datetime

import httpx
import ollama
import pytest
from tests.server.answers import ANSWER, CALLS, CUT, FINISH, HELLO, NUMBERS, NUMBERS_CALL
from tests.server.conftest import Client, ScriptedModel

from stride.errors import ContextOverflowError, GenerationError, OverloadedError
from stride.server import Models, Settings, create_app
from stride.server.models import ModelFile
from stride.types import (
    ChosenToken,
    ContentDelta,
    TokenLogprob,
    TokensDelta,
)


def get_weather(city: str) -> str:
    """The weather.

    Args:
        city: a town
    """
    return f"sunny in {city}"


@pytest.fixture
def client(live):
    with ollama.Client(host=live.url) as client:
        yield client


def chat(client, **more):
    return client.chat(**{"model": "any", "messages": HELLO, **more})


# --- answers ---


def test_chat(client, live):
    live.play(*ANSWER)
    answer = chat(client)
    assert (answer.model, answer.done, answer.done_reason) == ("scripted", True, "stop")
    assert (answer.message.role, answer.message.content, answer.message.thinking) == ("assistant", "Hello", "hmm")
    assert (answer.prompt_eval_count, answer.prompt_eval_duration) == (7, 70_000_000)
    assert (answer.eval_count, answer.eval_duration) == (3, 40_000_000)
    assert answer.total_duration > 0
    assert datetime.fromisoformat(answer.created_at).tzinfo is not None


def test_chat_streamed(client, live):
    live.play(*ANSWER)
    parts = list(chat(client, stream=True))
    assert [part.message.thinking or "" for part in parts] == ["hm", "m", "", "", ""]
    assert [part.message.content for part in parts] == ["", "", "Hel", "lo", ""]
    assert [part.done for part in parts] == [False] * 4 + [True]
    assert (parts[-1].done_reason, parts[-1].eval_count) == ("stop", 3)


def test_streaming_is_the_default_and_lines_are_json(live):
    live.play(*ANSWER)
    for more in ({}, {"stream": None}):
        response = httpx.post(f"{live.url}/api/chat", json={"messages": HELLO, **more})
        assert response.headers["content-type"] == "application/x-ndjson"
        assert len([json.loads(line) for line in response.text.splitlines()]) == 5


@pytest.mark.parametrize("stream", [False, True])
def test_tools_are_called(client, live, stream):
    model = live.play(*CALLS)
    answer = chat(client, tools=[get_weather], stream=stream)
    parts = list(answer) if stream else [answer]
    assert "".join(part.message.content for part in parts) == "Let me look."
    calls = [call.function for part in parts for call in part.message.tool_calls or ()]
    assert [(call.name, call.arguments) for call in calls] == [
        ("get_weather", {"city": "Austin"}),
        ("add", {"n": 12345678901234567890}),
    ]
    assert parts[-1].done_reason == "stop"
    (tool,) = model.asked[-1][1]
    assert tool["function"]["name"] == "get_weather"
    assert tool["function"]["parameters"]["required"] == ["city"]


@pytest.mark.parametrize("stream", [False, True])
def test_numbers_of_a_call_keep_their_digits(scripted, stream):
    response = scripted(*NUMBERS_CALL)[0].ask("/api/chat", stream=stream)
    assert response.status_code == 200
    assert f'"arguments":{NUMBERS}' in response.text.splitlines()[0]


def test_characters_that_end_lines_come_through(client, live):
    live.play(ContentDelta("a\u2028b\u2029c\x85d"), FINISH)
    parts = client.generate("any", prompt="Hi", raw=True, stream=True)
    assert "".join(part.response for part in parts) == "a\u2028b\u2029c\x85d"


def test_length(client, live):
    live.play(*CUT)
    assert chat(client).done_reason == "length"
    assert list(chat(client, stream=True))[-1].done_reason == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities(client, live, stream):
    token = TokenLogprob(5, b"Hel", -0.5)
    model = live.play(TokensDelta((ChosenToken(token, (token, TokenLogprob(6, b"lo", -1.0))),)), *ANSWER[2:])
    answer = chat(client, logprobs=True, top_logprobs=2, stream=stream)
    (told,) = [told for part in (answer if stream else [answer]) for told in part.logprobs or ()]
    assert (told.token, told.logprob) == ("Hel", -0.5)
    assert [(other.token, other.logprob) for other in told.top_logprobs] == [("Hel", -0.5), ("lo", -1.0)]
    assert model.params.logprobs == 2


def test_generate(client, live):
    model = live.play(*ANSWER)
    answer = client.generate(model="any", prompt="Hello!", system="Be brief.")
    assert (answer.response, answer.thinking, answer.done_reason, answer.eval_count) == ("Hello", "hmm", "stop", 3)
    assert model.asked[-1][0] == [{"role": "system", "content": "Be brief."}, *HELLO]
    parts = list(client.generate(model="any", prompt="Hello!", stream=True))
    assert "".join(part.response for part in parts) == "Hello"
    assert model.asked[-1][0] == HELLO


def test_generate_raw_continues_the_text(client, live):
    model = live.play(*ANSWER[2:])
    assert client.generate(model="any", prompt="Once", raw=True, format="json").response == "Hello"
    prompt, _, text_format, _ = model.asked[-1]
    assert prompt == "Once"
    assert text_format.kind == "json_schema"


def test_without_words_the_model_is_loaded(client, live):
    for answer in (client.chat(model="any"), client.generate(model="any")):
        assert (answer.done, answer.done_reason) == (True, "load")
    assert live.model.asked == []


@pytest.mark.parametrize("keep_alive", [0, "0", "0s", 0.0])
def test_without_words_and_time_the_model_may_go(client, live, keep_alive):
    for answer in (
        client.chat(model="any", keep_alive=keep_alive),
        client.generate(model="any", keep_alive=keep_alive),
    ):
        assert (answer.done, answer.done_reason) == (True, "unload")
    assert client.generate(model="any", keep_alive="10s").done_reason == "load"


def test_a_model_leaves_memory_where_a_client_says_so(scripted_models):
    client, _ = scripted_models({"a": (FINISH,), "b": (FINISH,)})
    assert client.post("/api/generate", json={"model": "a"}).json()["done_reason"] == "load"
    assert [card["name"] for card in client.get("/api/ps").json()["models"]] == ["a"]
    for name in ("a:latest", "b"):
        gone = client.post("/api/generate", json={"model": name, "keep_alive": 0}).json()
        assert (gone["model"], gone["done_reason"]) == (name, "unload")
    assert client.get("/api/ps").json()["models"] == []


def test_loading_is_told_and_part_of_the_whole_time():
    def load(stopping):
        time.sleep(0.05)
        return ScriptedModel(ANSWER)

    models = Models({"a": load, "b": load})
    client = Client(create_app(models, Settings()))
    first, second = (
        client.post("/api/chat", json={"model": "a", "messages": HELLO, "stream": False}).json() for _ in range(2)
    )
    assert first["total_duration"] > first["load_duration"] > 50e6 > second["load_duration"] > 0
    models.close()


def test_the_file_of_a_model_is_known_before_it_is_loaded(tmp_path):
    file = tmp_path / "a.gguf"
    file.write_bytes(b"x" * 99)
    models = Models({"a": lambda stopping: None, "b": lambda stopping: None}, {"a": ModelFile(file, 123)})
    known, unknown = Client(create_app(models, Settings())).get("/api/tags").json()["models"]
    assert (known["size"], len(known["digest"])) == (123, 64)
    assert not known["modified_at"].startswith("1970")
    assert (unknown["size"], unknown["digest"]) == (0, "")


# --- requests ---


def test_conversation(client, live):
    model = live.play(FINISH)
    calls = [{"function": {"name": name, "arguments": {"city": name}}} for name in ("f", "g", "f")]
    chat(
        client,
        messages=[
            {"role": "system", "content": "Be brief."},
            *HELLO,
            {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": calls},
            {"role": "tool", "content": "of g", "tool_name": "g"},
            {"role": "tool", "content": "of f"},
            {"role": "tool", "content": "of f again", "tool_name": "f"},
        ],
    )
    said = model.asked[-1][0]
    assert [(turn["role"], turn["content"]) for turn in said[:2]] == [("system", "Be brief."), ("user", "Hello!")]
    assert said[2]["reasoning_content"] == "hm"
    ids = [call["id"] for call in said[2]["tool_calls"]]
    assert said[2]["tool_calls"][0]["function"] == {"name": "f", "arguments": {"city": "f"}}
    assert [turn["tool_call_id"] for turn in said[3:]] == [ids[1], ids[0], ids[2]]
    assert [turn["name"] for turn in said[3:]] == ["g", "f", "f"]


def test_options(client, live):
    model = live.play(FINISH)
    sampling = {"temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1, "typical_p": 0.8, "seed": 42}
    sampling |= {"repeat_penalty": 1.1, "repeat_last_n": 32, "presence_penalty": 0.2, "frequency_penalty": 0.3}
    sampling |= {"mirostat": 2, "mirostat_tau": 4.0, "mirostat_eta": 0.2}
    chat(
        client, options={**sampling, "num_predict": 9, "stop": ["a", "b"], "num_ctx": 99, "num_gpu": 1}, keep_alive="5m"
    )
    assert {name: getattr(model.params, name) for name in sampling} == sampling
    assert (model.params.max_tokens, model.params.stop) == (9, ("a", "b"))
    for endless in (-1, -2):
        chat(client, options={"num_predict": endless, "stop": "x"})
        assert (model.params.max_tokens, model.params.stop) == (None, ("x",))


@pytest.mark.parametrize(("think", "effort"), [(None, None), (True, None), (False, "none"), ("high", "high")])
def test_thinking(client, live, think, effort):
    model = live.play(FINISH)
    chat(client, think=think)
    assert model.asked[-1][4].reasoning_effort == effort


@pytest.mark.parametrize(
    ("form", "schema"),
    [(None, None), ("", None), ("json", {"type": "object"}), ({"type": "integer"}, {"type": "integer"})],
)
def test_format(client, live, form, schema):
    model = live.play(FINISH)
    chat(client, format=form)
    text = model.asked[-1][4].text
    assert (text and json.loads(text.source)) == schema


# --- errors ---


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]}, "reads text, not images"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages"),
        ({"messages": ["hi"]}, "messages"),
        ({"options": {"temperature": "hot"}}, "options"),
        ({"options": {"top_p": 2}}, "top_p is 2"),
        ({"options": {"seed": 2**63}}, "options"),
        ({"format": "xml"}, "format"),
        ({"think": "hard"}, "think"),
        ({"stream": "yes"}, "stream"),
        ({"top_logprobs": -1}, "top_logprobs"),
    ],
)
def test_bad_requests(live, given, message):
    response = httpx.post(f"{live.url}/api/chat", json={"messages": HELLO, **given})
    assert response.status_code == 400
    assert message in response.json()["error"]
    assert live.model.asked == []


@pytest.mark.parametrize("given", [{"suffix": "x"}, {"template": "{{ .Prompt }}"}, {"context": [1, 2]}])
def test_what_generate_does_not_do(client, live, given):
    with pytest.raises(ollama.ResponseError, match=f"{next(iter(given))} is not supported") as caught:
        client.generate(model="any", prompt="x", **given)
    assert caught.value.status_code == 501
    assert httpx.post(f"{live.url}/api/generate", json={"prompt": "x", "images": ["aGk="]}).status_code == 400


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.pull("x"),
        lambda client: client.push("x"),
        lambda client: client.create("x", from_="y"),
        lambda client: client.copy("x", "y"),
        lambda client: client.delete("x"),
    ],
)
def test_what_the_server_does_not_do(client, ask):
    with pytest.raises(ollama.ResponseError, match="is not supported: ") as caught:
        ask(client)
    assert caught.value.status_code == 501


@pytest.mark.parametrize(
    ("error", "status"),
    [(GenerationError("NaN logits"), 500), (ContextOverflowError(200, 128), 400), (OverloadedError("many wait"), 429)],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_of_the_model(client, live, error, status, stream):
    live.play(error)
    with pytest.raises(ollama.ResponseError, match=str(error)) as caught:
        list(chat(client, stream=stream))
    assert caught.value.status_code == status


def test_error_in_mid_stream(client, live):
    live.play(ContentDelta("Hel"), 0.05, GenerationError("lost the file"))
    with pytest.raises(ollama.ResponseError, match="lost the file"):
        list(chat(client, stream=True))


def test_silence_says_nothing(scripted):
    client, _ = scripted(0.25, ContentDelta("x"), FINISH, ping_seconds=0.1)
    assert len(client.ask("/api/chat").text.splitlines()) == 2


def test_unknown_route_and_wrong_key(scripted):
    client, _ = scripted(api_keys=("secret",))
    assert client.get("/api/tags").json()["error"].startswith("the API key is missing or wrong")
    right = {"Authorization": "Bearer secret"}
    for answer in (client.get("/api/nothing", headers=right), client.post("/api/nothing", headers=right)):
        assert answer.status_code in (404, 405)
        assert isinstance(answer.json()["error"], str)


def test_who_goes_away_is_not_computed_for(client, live):
    live.play(ContentDelta("x"), 60.0, FINISH)
    stream = chat(client, stream=True)
    assert next(stream).message.content == "x"
    stream.close()
    live.wait_until_cancelled()


# --- models ---


def test_models(client, live):
    (model,) = client.list().models
    assert (model.model, model.details.family, model.details.format) == ("scripted", "script", "gguf")
    assert model.details.quantization_level == "Q8_0"
    assert len(model.digest) == 64
    (running,) = client.ps().models
    assert (running.name, running.context_length, running.size_vram) == ("scripted", 128, 0)
    shown = client.show("any:latest")
    assert shown.template == "{{ messages }}"
    assert shown.capabilities == ["completion", "tools", "thinking"]
    assert shown.modelinfo["general.architecture"] == "script"
    assert httpx.get(f"{live.url}/api/version").json().keys() == {"version"}


# --- the demo model ---


@pytest.fixture
def demo(served):
    with ollama.Client(host=served.url) as client:
        yield client


def test_demo_model(demo):
    (model,) = demo.list().models
    assert model.details.parameter_size.endswith(("M", "K"))
    assert "thinking" in demo.show(model.model).capabilities
    options = {"temperature": 0, "num_predict": 12}
    whole = chat(demo, options=options)
    parts = list(chat(demo, options=options, stream=True))
    assert whole.message.thinking == "".join(part.message.thinking or "" for part in parts)
    assert whole.eval_count == parts[-1].eval_count == 12
    assert demo.generate(model="any", prompt="Once", raw=True, options=options).eval_count <= 12


def test_demo_model_answers_in_json(demo):
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    answer = chat(demo, format=schema, think=False, options={"num_predict": 200, "seed": 1})
    assert json.loads(answer.message.content)["n"] in (1, 2)

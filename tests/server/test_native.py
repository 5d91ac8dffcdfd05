"""llama-server's own routes, with the demo model and with scripted answers."""

from __future__ import annotations

import json

import httpx
import pytest

from stride.types import ChosenToken, ContentDelta, Finish, Timings, TokenLogprob, TokensDelta, Usage

FINISH = Finish("stop", Usage(7, 3, 2, 0), Timings(prompt_n=7, prompt_ms=70.0, predicted_n=3, predicted_ms=40.0), "END")
TOKEN = TokensDelta((ChosenToken(TokenLogprob(5, b"Hi", -0.5), (TokenLogprob(6, b"Ho", -1.0),)),))


def frames(response):
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, end = response.text.split("\n\n")
    assert end == ""
    return [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]


def test_completion(scripted):
    client, model = scripted(ContentDelta("Hi\n"), FINISH)
    answer = client.ask("/completion", prompt="Say", n_predict=5, top_k=3, stop=["END"]).json()
    assert model.asked[-1][0] == "Say"
    settings = answer.pop("generation_settings")
    assert (settings["n_predict"], settings["top_k"], settings["stop"]) == (5, 3, ["END"])
    assert answer.pop("timings")["predicted_n"] == 3
    assert answer == {
        "index": 0,
        "content": "Hi\n",
        "tokens": [],
        "id_slot": -1,
        "stop": True,
        "model": "scripted",
        "prompt": "Say",
        "tokens_predicted": 3,
        "tokens_evaluated": 7,
        "tokens_cached": 10,
        "has_new_line": True,
        "truncated": False,
        "stop_type": "word",
        "stopping_word": "END",
    }


@pytest.mark.parametrize("samplers", [["top_k", "penalties", "temperature"], "ket"])
def test_the_steps_of_sampling_are_as_asked(scripted, samplers):
    client, model = scripted(FINISH)
    answer = client.ask("/completion", prompt="x", samplers=samplers).json()
    assert model.params.samplers == ("top_k", "penalties", "temperature")
    assert answer["generation_settings"]["samplers"] == ["top_k", "penalties", "temperature"]


@pytest.mark.parametrize(("reason", "stop", "kind"), [("length", None, "limit"), ("stop", None, "eos")])
def test_why_a_completion_ended(scripted, reason, stop, kind):
    client, _ = scripted(Finish(reason, FINISH.usage, FINISH.timings, stop))
    answer = client.ask("/completion", prompt="x").json()
    assert (answer["stop_type"], answer["stopping_word"]) == (kind, "")


def test_streamed_completion(scripted):
    client, _ = scripted(TOKEN, ContentDelta("Hi"), FINISH)
    first, last = frames(client.ask("/completion", prompt="x", stream=True, n_probs=1, return_tokens=True))
    (told,) = first.pop("completion_probabilities")
    assert (told["id"], told["token"], told["bytes"], told["logprob"]) == (5, "Hi", [72, 105], -0.5)
    assert told["top_logprobs"] == [{"id": 6, "token": "Ho", "bytes": [72, 111], "logprob": -1.0}]
    assert first == {
        "index": 0,
        "content": "Hi",
        "tokens": [5],
        "stop": False,
        "id_slot": -1,
        "tokens_predicted": 3,
        "tokens_evaluated": 7,
    }
    assert (last["stop"], last["content"], last["tokens_predicted"]) == (True, "", 3)


def test_several_prompts_are_a_list(scripted):
    client, _ = scripted(ContentDelta("Hi"), FINISH)
    answers = client.ask("/completion", prompt=["a", "b"]).json()
    assert [(answer["index"], answer["prompt"]) for answer in answers] == [(0, "a"), (1, "b")]
    streamed = frames(client.ask("/completion", prompt=["a", "b"], stream=True))
    assert [chunk["index"] for chunk in streamed if chunk["stop"]] == [0, 1]


def test_response_fields(scripted):
    client, _ = scripted(ContentDelta("Hi"), FINISH)
    fields = ["content", "generation_settings/top_k", "nothing", "content/x"]
    assert client.ask("/completion", prompt="x", response_fields=fields).json() == {"content": "Hi", "top_k": 40}


def test_props(demo):
    props = demo.get("/props").json()
    params = props["default_generation_settings"]["params"]
    assert (params["temperature"], params["n_predict"], params["mirostat"]) == (0.8, -1, 0)
    assert props["total_slots"] == 2
    assert props["eos_token"]
    assert props["chat_template"]
    assert props["is_sleeping"] is False


def test_slots_tell_progress_and_no_text(demo, demo_llm):
    assert [slot["is_processing"] for slot in demo.get("/slots").json()] == [False, False]
    stream = demo_llm.generate("secret secret", stream=True, ignore_eos=True, stop=("never",))
    next(iter(stream))
    try:
        busy, free = sorted(demo.get("/slots").json(), key=lambda slot: not slot["is_processing"])
        assert busy["n_prompt_tokens"] == stream.prompt_tokens == busy["n_prompt_tokens_processed"]
        assert busy["next_token"][0]["n_decoded"] > 0
        assert busy["params"]["temperature"] == 0.8
        assert "never" not in json.dumps(busy)
        assert set(free) == {"id", "n_ctx", "speculative", "is_processing"}
        other = demo_llm.generate("x", stream=True, ignore_eos=True)
        next(iter(other))
        assert demo.get("/slots?fail_on_no_slot=1").status_code == 503
        other.cancel()
    finally:
        stream.cancel()


def test_tokens_there_and_back(demo, demo_llm):
    text = "The weather in Zürich: 🙂"
    tokens = demo.post("/tokenize", json={"content": text}).json()["tokens"]
    assert tokens == demo_llm.tokenizer.encode(text, special=True)
    assert demo.post("/detokenize", json={"tokens": tokens}).json() == {"content": text}
    pieces = demo.post("/tokenize", json={"content": text, "with_pieces": True}).json()["tokens"]
    assert [piece["id"] for piece in pieces] == tokens
    data = b"".join(p["piece"].encode() if isinstance(p["piece"], str) else bytes(p["piece"]) for p in pieces)
    assert data.decode() == text


def test_special_tokens_are_recognised_where_asked(demo, demo_llm):
    eos = demo_llm.tokenizer.eos_token
    assert demo.post("/tokenize", json={"content": eos}).json() == {"tokens": [demo_llm.tokenizer.eos_id]}
    plain = demo.post("/tokenize", json={"content": eos, "parse_special": False}).json()["tokens"]
    assert demo_llm.tokenizer.eos_id not in plain
    with_special = demo.post("/tokenize", json={"content": "x", "add_special": True}).json()["tokens"]
    bos = [demo_llm.tokenizer.bos_id] if demo_llm.tokenizer.add_bos else []
    assert with_special == bos + demo_llm.tokenizer.encode("x")


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/tokenize", {}, "content"),
        ("/tokenize", {"content": 5}, "content"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": [2**70]}, "tokens"),
        ("/detokenize", {"tokens": "x"}, "tokens"),
        ("/apply-template", {"messages": []}, "messages"),
        (
            "/apply-template",
            {"messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": {"tools": 1}},
            "chat",
        ),
        ("/completion", {}, "prompt"),
        ("/completion", {"prompt": [99_999_999]}, "prompt"),
    ],
)
def test_bad_values_are_named(demo, path, body, field):
    response = demo.post(path, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith(field)


def test_apply_template_gives_the_prompt(demo, demo_llm):
    messages = [{"role": "user", "content": "Hello!"}]
    prompt = demo.ask("/apply-template", messages=messages).json()["prompt"]
    assert prompt == demo_llm.apply_template(messages)
    assert "Hello!" in prompt


def test_probabilities_with_the_demo_model(demo):
    answer = demo.ask("/completion", prompt="Once", n_predict=4, temperature=0, n_probs=3, return_tokens=True).json()
    told = answer["completion_probabilities"]
    assert [entry["id"] for entry in told] == answer["tokens"]
    assert 0 < len(told) <= 4
    for entry in told:
        assert [other["logprob"] for other in entry["top_logprobs"]] == sorted(
            (other["logprob"] for other in entry["top_logprobs"]), reverse=True
        )
        assert entry["id"] == entry["top_logprobs"][0]["id"], "greedy takes the likeliest"
        assert entry["logprob"] == entry["top_logprobs"][0]["logprob"] < 0


@pytest.mark.parametrize("path", ["/completion", "/completions", "/v1/completion"])
def test_paths_of_the_native_form(demo, path):
    assert "content" in demo.post(path, json={"prompt": "x", "max_tokens": 1}).json()
    assert "choices" in demo.post("/v1/completions", json={"prompt": "x", "max_tokens": 1}).json()


@pytest.mark.parametrize("path", ["/health", "/v1/health", "/api/tags", "/api/version", "/v1/models", "/props"])
def test_head_is_answered_wherever_get_is(demo, served, path):
    assert demo.head(path).status_code == 200
    answer = httpx.head(f"{served.url}{path}")
    assert (answer.status_code, answer.content) == (200, b"")

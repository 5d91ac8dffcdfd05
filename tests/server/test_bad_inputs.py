"""Requests that try to break the server: each gets its answer, and afterwards everything is as it was."""

from __future__ import annotations

import json
import re
import socket

import pytest

from stride.engine import Finished, Token
from stride.types import Timings, Usage

MANY_WORDS = [{"role": "user", "content": "word " * 2000}]
PROMPT = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 8, "ignore_eos": True}


@pytest.fixture
def survivor(demo):
    """A client; at the end of the test the server answers as it did at its beginning."""
    before = demo.post("/v1/completions", json=PROMPT).json()["choices"]
    yield demo
    assert demo.get("/health").json() == {"status": "ok"}
    assert demo.post("/v1/completions", json=PROMPT).json()["choices"] == before


def refused(response, status=400):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["code"] == status
    return error


def chat(content, **more):
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 4, **more}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 10**6),
        ("temperature", -1),
        ("top_k", 2**63),
        ("max_tokens", 2**63),
        ("seed", -(2**63)),
        ("logit_bias", {str(2**63): 1}),
        ("logit_bias", {"99999999": 1}),
        ("repeat_last_n", "many"),
        ("dry_penalty_last_n", 2**40),
        ("xtc_probability", [1]),
        ("stop", [None]),
        ("messages", []),
    ],
)
def test_values_of_no_sense(survivor, field, value):
    assert field in refused(survivor.post("/v1/chat/completions", json={**chat("x"), field: value}))["message"]


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ({"role": "user"}, "content"),
        ({"role": "stranger", "content": "x"}, "stranger"),
        ({"role": "user", "content": [{"type": "sound"}]}, "sound"),
        ({"content": "x"}, "role"),
    ],
)
def test_messages_of_no_sense(survivor, message, problem):
    body = {"messages": [message], "max_tokens": 1}
    assert problem in refused(survivor.post("/v1/chat/completions", json=body))["message"]


@pytest.mark.parametrize(
    ("path", "field", "part"),
    [
        ("/v1/chat/completions", "messages", {"type": "image_url", "image_url": {"url": "URL"}}),
        ("/v1/chat/completions", "messages", {"type": "input_audio", "input_audio": {"data": "URL", "format": "wav"}}),
        ("/v1/responses", "input", {"type": "input_image", "image_url": "URL"}),
        ("/v1/messages", "messages", {"type": "image", "source": {"type": "url", "url": "URL"}}),
        ("/v1/messages", "messages", {"type": "document", "source": {"type": "url", "url": "URL"}}),
        ("/apply-template", "messages", {"type": "image_url", "image_url": {"url": "URL"}}),
    ],
)
def test_media_are_never_fetched(survivor, path, field, part):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        own = f"http://127.0.0.1:{listener.getsockname()[1]}/image.png"
        for url in (own, "http://169.254.169.254/latest/meta-data/", "file:///etc/passwd", "data:image/png;base64,"):
            content = json.loads(json.dumps([part]).replace("URL", url))
            answer = survivor.post(path, json={field: [{"role": "user", "content": content}], "max_tokens": 1})
            assert answer.status_code == 400, answer.text
            assert part["type"] in answer.json()["error"]["message"]
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize("path", ["/v1/completions", "/completion"])
@pytest.mark.parametrize("prompt", ["", [], [[]], ["x", ""]])
def test_empty_prompts(survivor, path, prompt):
    assert refused(survivor.post(path, json={"prompt": prompt}))["param"] == "prompt"


@pytest.mark.parametrize("path", ["/v1/completions", "/completion"])
def test_context_overflow_has_counts(survivor, path):
    error = refused(survivor.post(path, json={"prompt": "word " * 2000}))
    assert error["type"] == "exceed_context_size_error"
    assert error["n_prompt_tokens"] > error["n_ctx"] == 512


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": MANY_WORDS}),
        ("/v1/responses", {"input": MANY_WORDS}),
        ("/v1/messages", {"messages": MANY_WORDS, "max_tokens": 4}),
        ("/api/chat", {"messages": MANY_WORDS}),
        ("/api/generate", {"prompt": "word " * 2000}),
    ],
)
def test_every_dialect_tells_both_counts(survivor, path, body):
    answer = survivor.post(path, json=body)
    assert answer.status_code == 400
    assert re.search(r"the prompt has 2\d{3} tokens .* the context window has 512", answer.text)


@pytest.mark.parametrize("limit", [{}, {"max_tokens": -1}, {"max_tokens": 10**9}])
def test_endless_output_ends_with_the_context(survivor, limit):
    body = {"prompt": "Once", "ignore_eos": True, "temperature": 0, **limit}
    answer = survivor.post("/v1/completions", json=body).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == 512


def deltas(response):
    frames = [frame for frame in response.text.split("\n\n") if frame.startswith("data: {")]
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames]
    return [choice["text"] for chunk in chunks for choice in chunk["choices"]]


class Saying:
    """An engine that gives the same tokens to every request."""

    def __init__(self, token_ids):
        self._token_ids = token_ids

    def submit(self, request):
        for token_id in self._token_ids:
            request.stop(Token(token_id))
        request.deliver(Finished("stop", Usage(), Timings()))


def test_characters_are_never_split(demo, demo_llm, monkeypatch):
    text = "né 🙂🙃 漢字"
    ids = demo_llm.tokenizer.encode(text)
    assert len(ids) > len(text), "characters of several tokens"
    monkeypatch.setattr(demo_llm, "engine", Saying(ids))
    shown = deltas(demo.post("/v1/completions", json={**PROMPT, "stream": True}))
    assert "".join(shown).strip() == text
    assert "\ufffd" not in "".join(shown)
    monkeypatch.setattr(demo_llm, "engine", Saying(ids[:-1]))
    assert demo.post("/v1/completions", json=PROMPT).json()["choices"][0]["text"].endswith("\ufffd")


@pytest.mark.parametrize("length", [1, 3, 7])
def test_stop_strings_across_pieces_are_hidden(survivor, length):
    body = {"prompt": "Once", "temperature": 0, "max_tokens": 40, "ignore_eos": True}
    free = survivor.post("/v1/completions", json=body).json()["choices"][0]["text"]
    stop = free[20 : 20 + length]
    expected = free[: free.index(stop)]
    answer = survivor.post("/v1/completions", json={**body, "stop": stop}).json()["choices"][0]
    assert (answer["text"], answer["finish_reason"]) == (expected, "stop")
    assert "".join(deltas(survivor.post("/v1/completions", json={**body, "stop": stop, "stream": True}))) == expected


def test_special_tokens_in_a_users_text_are_text(survivor, demo_llm):
    eos = demo_llm.tokenizer.eos_token
    plain = survivor.post("/apply-template", json=chat(f"a {eos} b")).json()["prompt"]
    assert eos in plain
    answer = survivor.post("/v1/chat/completions", json=chat(f"a {eos} b")).json()
    with_plain = survivor.post("/v1/chat/completions", json=chat("a b")).json()
    spelled = len(demo_llm.tokenizer.encode(f"a {eos} b")) - len(demo_llm.tokenizer.encode("a b"))
    assert answer["usage"]["prompt_tokens"] - with_plain["usage"]["prompt_tokens"] == spelled > 1


@pytest.mark.parametrize(
    ("path", "part", "field"),
    [
        ("/v1/chat/completions", {"type": "image_url", "image_url": {"url": "URL"}}, None),
        ("/v1/chat/completions", {"type": "video_url", "video_url": {"url": "URL"}}, None),
        ("/v1/messages", {"type": "image", "source": {"type": "url", "url": "URL"}}, None),
        ("/v1/messages", {"type": "document", "source": {"type": "url", "url": "URL"}}, None),
        ("/v1/responses", {"type": "input_image", "image_url": "URL"}, None),
        ("/v1/responses", {"type": "input_file", "file_url": "URL"}, None),
        ("/v1/chat/completions", {"$ref": "URL"}, "json_schema"),
        ("/api/chat", {"$ref": "URL"}, "format"),
    ],
)
def test_nothing_that_a_request_names_is_fetched(survivor, path, part, field):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x.json"
        given = json.loads(json.dumps(part).replace("URL", url))
        content = (
            "Hi" if field else [given, {"type": "input_text" if path == "/v1/responses" else "text", "text": "Hi"}]
        )
        turns = [{"role": "user", "content": content}]
        body = {"messages": turns, "input": turns, "max_tokens": 4, **({field: given} if field else {})}
        assert survivor.post(path, json=body).status_code == 400
        with pytest.raises(BlockingIOError):
            listener.accept()

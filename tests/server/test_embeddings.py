"""Vectors over HTTP: three dialects, the official clients, and requests that make no sense."""

from __future__ import annotations

import asyncio
import base64
import json
import re

import httpx
import numpy as np
import ollama
import openai
import pytest

from stride.errors import OverloadedError
from stride.server import Models, Settings, create_app

TEXTS = ["Hello", "The cat sat on the mat."]
ROUTES = {
    "/v1/embeddings": "input",
    "/embedding": "content",
    "/embeddings": "content",
    "/api/embed": "input",
    "/api/embeddings": "prompt",
}
TOO_LONG = "x y " * 400


def vectors(answer: httpx.Response) -> np.ndarray:
    """Those of an OpenAI answer."""
    assert answer.status_code == 200, answer.text
    return np.array([item["embedding"] for item in answer.json()["data"]])


def test_openai_answer(demo, demo_llm):
    answer = demo.post("/v1/embeddings", json={"input": TEXTS, "model": "any", "user": "somebody"})
    body = answer.json()
    n_tokens = sum(len(demo_llm.tokenize(text)) for text in TEXTS)
    assert body["usage"] == {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    assert (body["object"], body["model"]) == ("list", demo_llm.name)
    assert [(item["object"], item["index"]) for item in body["data"]] == [("embedding", 0), ("embedding", 1)]
    np.testing.assert_allclose(vectors(answer), demo_llm.embed(TEXTS), atol=1e-6)


def test_every_form_of_input_and_encoding(demo, demo_llm):
    ids = [demo_llm.tokenize(text) for text in TEXTS]
    expected = vectors(demo.post("/v1/embeddings", json={"input": TEXTS}))
    for given, n in ((TEXTS[0], 1), (ids[0], 1), (ids, 2), ([TEXTS[0], ids[1]], 2)):
        found = vectors(demo.post("/v1/embeddings", json={"input": given, "encoding_format": "float"}))
        np.testing.assert_allclose(found, expected[:n], atol=1e-6)
    answer = demo.post("/v1/embeddings", json={"input": TEXTS, "encoding_format": "base64"}).json()
    found = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in answer["data"]]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    width = expected.shape[1]
    assert demo.post("/v1/embeddings", json={"input": "x", "dimensions": width}).status_code == 200


def test_a_models_width_is_told(demo, demo_llm):
    (card,) = demo.get("/v1/models").json()["data"]
    assert card["meta"]["n_embd"] == demo_llm.config.n_embd
    facts = demo.post("/api/show", json={"model": "any"}).json()["model_info"]
    assert facts[f"{demo_llm.config.architecture}.embedding_length"] == demo_llm.config.n_embd


@pytest.mark.parametrize("path", ["/embedding", "/embeddings"])
@pytest.mark.parametrize("field", ["content", "input"])
def test_llama_servers_own_form(demo, demo_llm, path, field):
    answer = demo.post(path, json={field: TEXTS}).json()
    assert [item["index"] for item in answer] == [0, 1]
    found = np.array([item["embedding"] for item in answer])
    np.testing.assert_allclose(found, demo_llm.embed(TEXTS)[:, None], atol=1e-6)
    for norm in (-1, 0, 1, 3):
        (item,) = demo.post(path, json={field: TEXTS[0], "embd_normalize": norm}).json()
        np.testing.assert_allclose(item["embedding"], demo_llm.embed(TEXTS[0], norm=norm), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "input"),
        ({"input": None}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": 7}, "input"),
        ({"input": [1.5]}, "input"),
        ({"input": [[1], [2**63]]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": [True]}, "input"),
        ({"input": {"content": "x"}}, "input"),
        ({"input": ["x"] * 2049}, "input"),
        ({"input": "x", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "x", "dimensions": 64}, "dimensions"),
        ({"input": "x", "dimensions": 0}, "dimensions"),
        ({"input": "x", "dimensions": "256"}, "dimensions"),
        ({"input": "x", "model": 5}, "model"),
    ],
)
def test_bad_requests_are_named(demo, given, field):
    answer = demo.post("/v1/embeddings", json=given)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"].partition("[")[0] == field
    assert field in error["message"]


@pytest.mark.parametrize("path", ROUTES)
def test_a_text_that_is_too_long_is_told_as_that(demo, path):
    body = {ROUTES[path]: TOO_LONG, "truncate": False}
    answer = demo.post(path, json=body)
    assert answer.status_code == 400
    assert re.search(r"\d{4} tokens, but the context window has 512", answer.text)
    if not path.startswith("/api"):
        error = answer.json()["error"]
        assert (error["type"], error["n_ctx"]) == ("exceed_context_size_error", 512)


def test_ollama_cuts_what_is_too_long_unless_told_not_to(demo):
    answer = demo.post("/api/embed", json={"input": ["Hello", TOO_LONG]}).json()
    assert len(answer["embeddings"]) == 2
    assert answer["prompt_eval_count"] == 2 + 512


@pytest.mark.parametrize("given", [{}, {"input": ""}, {"input": []}, {"input": [""]}])
def test_ollama_loads_a_model_without_a_text(demo, given):
    assert demo.post("/api/embed", json={"model": "any", **given}).json()["embeddings"] == []
    assert demo.post("/api/embeddings", json={"model": "any"}).json() == {"embedding": []}


def test_bad_requests_of_other_dialects(demo):
    for path, given, problem in (
        ("/embedding", {"content": "x", "embd_normalize": -2}, "embd_normalize"),
        ("/embedding", {"content": ""}, "content is empty"),
        ("/embedding", {}, "content"),
        ("/api/embed", {"input": ["x", ""]}, "input is empty"),
        ("/api/embed", {"input": "x", "dimensions": 7}, "dimensions"),
        ("/api/embed", {"input": [[1, 2]]}, "input"),
        ("/api/embeddings", {"prompt": ["x"]}, "prompt"),
    ):
        answer = demo.post(path, json=given)
        assert answer.status_code == 400
        assert problem in answer.text


@pytest.mark.parametrize("path", ROUTES)
def test_a_bad_key_gets_nothing(scripted, path):
    client, model = scripted(api_keys=("secret",))
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        assert client.post(path, json={ROUTES[path]: "x"}, headers=headers).status_code == 401
    assert model.scopes == []


def ask(llm, text: str, key: str, **settings) -> httpx.Response:
    """A server of its own, asked once."""

    async def post() -> httpx.Response:
        app = create_app(Models.of(llm), Settings(**settings))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            headers = {"Authorization": f"Bearer {key}"}
            return await client.post("/v1/embeddings", json={"input": text}, headers=headers)

    return asyncio.run(post())


def test_a_text_is_kept_for_nobody(demo_llm):
    """So its time tells no key what another, or the same, has asked before."""
    text = "A secret that is longer than a page of the cache, told to nobody else. " * 4
    for key in "aab":
        before = demo_llm.engine.metrics
        assert ask(demo_llm, text, key, api_keys=("a", "b")).status_code == 200
        after = demo_llm.engine.metrics
        assert after.prompt_tokens - before.prompt_tokens == len(demo_llm.tokenize(text))
        assert after.cached_tokens == before.cached_tokens
        assert after.cached_pages == before.cached_pages


def test_a_client_that_goes_away_frees_its_place(demo_llm):
    app = create_app(Models.of(demo_llm), Settings())
    body = json.dumps({"input": ["word " * 400] * 200}).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        if messages:
            return messages.pop()
        while not demo_llm.engine.metrics.running:
            await asyncio.sleep(0.001)
        return {"type": "http.disconnect"}

    async def send(message):
        pass

    scope = {"type": "http", "method": "POST", "path": "/v1/embeddings", "query_string": b"", "http_version": "1.1"}
    scope |= {"headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1), "server": ("localhost", 80)}
    before = demo_llm.engine.metrics.prompt_tokens
    asyncio.run(asyncio.wait_for(app({**scope, "scheme": "http", "raw_path": b"/v1/embeddings"}, receive, send), 30))
    metrics = demo_llm.engine.metrics
    assert (metrics.running, metrics.queued) == (0, 0)
    assert metrics.prompt_tokens - before < 200 * 400 / 4


def test_a_full_queue_says_when_to_come_again(demo_llm, monkeypatch):
    def full(*_, **__):
        raise OverloadedError("many wait", 7.2)

    monkeypatch.setattr(demo_llm.engine, "submit", full)
    answer = ask(demo_llm, "x", "any")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "8")


# --- the official clients, over a socket ---


def test_openai_client(served, demo_llm):
    expected = demo_llm.embed(TEXTS)
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        for given in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
            answer = client.embeddings.create(model="any", input=TEXTS, **given)
            found = [
                np.frombuffer(base64.b64decode(item.embedding), "<f4")
                if isinstance(item.embedding, str)
                else item.embedding
                for item in answer.data
            ]
            np.testing.assert_allclose(found, expected, atol=1e-5)
        assert answer.usage.prompt_tokens == answer.usage.total_tokens > 2
        ids = [demo_llm.tokenize(text) for text in TEXTS]
        found = [item.embedding for item in client.embeddings.create(model="any", input=ids).data]
        np.testing.assert_allclose(found, expected, atol=1e-5)
        with pytest.raises(openai.BadRequestError, match="dimensions is 64") as caught:
            client.embeddings.create(model="any", input="x", dimensions=64)
        assert caught.value.param == "dimensions"


def test_ollama_client(served, demo_llm):
    with ollama.Client(host=served.url) as client:
        answer = client.embed(model="any", input=TEXTS)
        np.testing.assert_allclose(answer.embeddings, demo_llm.embed(TEXTS), atol=1e-5)
        assert answer.prompt_eval_count == sum(len(demo_llm.tokenize(text)) for text in TEXTS)
        assert answer.total_duration > 0
        assert len(client.embed(model="any:latest", input="x", truncate=True, keep_alive=5).embeddings) == 1
        (expected,) = demo_llm.embed(TEXTS[0], norm=-1)
        np.testing.assert_allclose(client.embeddings(model="any", prompt=TEXTS[0]).embedding, expected, atol=1e-4)
        with pytest.raises(ollama.ResponseError, match="dimensions is 64"):
            client.embed(model="any", input="x", dimensions=64)

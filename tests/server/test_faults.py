"""What goes wrong for one request stays with it: the others, and those of other keys, see nothing of it."""

from __future__ import annotations

import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest

from stride import LLM, memory
from stride.chat.template import ChatTemplate
from stride.memory import Memory
from stride.models import Decoder
from stride.server import Models, Settings, create_app

PLAIN = {"temperature": 0, "max_tokens": 12, "ignore_eos": True}


def hello(text: str, **more: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}], **PLAIN, **more}


def failure(answer, status):
    assert answer.status_code == status, answer.text
    return answer.json()["error"]


def nan_logits(batch, hidden):
    rows = np.searchsorted(batch.row_starts, batch.outputs, side="right") - 1
    for row, values in zip(rows, hidden.normed, strict=True):
        if POISON in batch.token_ids[batch.row_starts[row] : batch.row_starts[row + 1]]:
            values[7] = np.nan


def no_memory(batch, hidden):
    if POISON in batch.token_ids:
        raise MemoryError("no memory for this")


POISON = 777


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fault", "told"), [(nan_logits, "nan"), (no_memory, "no memory for this")])
def test_a_model_that_fails_at_one_request_answers_the_others(demo, monkeypatch, fault, told, stream):
    def ask(prompt):
        return demo.post("/v1/completions", json={"prompt": prompt, "stream": stream, "cache_prompt": False, **PLAIN})

    hidden_states = Decoder.hidden
    well = list(range(100, 180))
    expected = text_of(ask(well))

    def faulty(self, batch, cache):
        hidden = hidden_states(self, batch, cache)
        fault(batch, hidden)
        return hidden

    monkeypatch.setattr(Decoder, "hidden", faulty)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, [well, [*range(200, 240), POISON], well, [5, POISON]]))
    for sick in answers[1::2]:
        assert told in failure(sick, 500)["message"]
    assert [text_of(answer) for answer in answers[::2]] == [expected] * 2
    assert demo.get("/health").json() == {"status": "ok"}


def text_of(answer):
    assert answer.status_code == 200, answer.text
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return answer.json()["choices"][0]["text"]
    frames = [frame.removeprefix("data: ") for frame in answer.text.split("\n\n") if frame.startswith("data: {")]
    return "".join(choice["text"] for frame in frames for choice in json.loads(frame)["choices"])


def test_too_little_memory_fails_a_request_and_not_the_server(scripted, monkeypatch):
    left = [1 << 50]
    monkeypatch.setattr(memory.Room.__init__, "__defaults__", (lambda: Memory(left[0], 1 << 50),))
    client, _ = scripted()
    with LLM(n_ctx=2048) as llm:
        client = type(client)(create_app(Models.of(llm), Settings()))
        left[0] = 0
        answer = client.post("/v1/chat/completions", json=hello("x"))
        assert "memory is too short now" in failure(answer, 503)["message"]
        assert int(answer.headers["retry-after"]) > 0
        left[0] = 1 << 50
        assert client.post("/v1/chat/completions", json=hello("x")).status_code == 200
        assert client.get("/health").status_code == 200


HOSTILE = {
    "loop": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "number": "{% set n = 99999999 %}{{ (n ** 9999) ** 9999 }}",
    "memory": "{{ 'x' * 10 ** 12 }}",
    "output": "{% for i in range(9999) %}{{ 'x' * 9999 }}{% endfor %}",
    "inside": "{{ ''.__class__.__mro__ }}",
    "file": "{% include '/etc/passwd' %}",
    "itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
}


def test_a_hostile_chat_template_fails_its_requests_and_not_the_server(scripted, monkeypatch):
    monkeypatch.setitem(ChatTemplate.__init__.__kwdefaults__, "cpu_seconds", 0.3)
    cases = "".join(
        f"{{% if messages[0].content == '{name}' %}}{source}{{% endif %}}" for name, source in HOSTILE.items()
    )
    client, _ = scripted()
    with LLM(n_ctx=512, chat_template=cases + "{{ messages[0].content }}") as llm:
        client = type(client)(create_app(Models.of(llm), Settings()))
        for name in HOSTILE:
            answer = client.post("/v1/chat/completions", json=hello(name))
            assert "root:" not in answer.text
            assert "chat template" in failure(answer, 400)["message"], name
            assert client.post("/v1/chat/completions", json=hello("x", max_tokens=1)).status_code == 200, name
        assert client.get("/health").status_code == 200


def test_two_users_secrets_never_cross(scripted, demo_llm):
    client, _ = scripted()
    client = type(client)(create_app(Models.of(demo_llm), Settings(api_keys=("one", "two"))))
    common = "You are an agent with long instructions. " * 6
    secrets = {"one": f"{common} The word is marmalade.", "two": f"{common} The word is quicksilver."}
    pairs = zip(*map(demo_llm.tokenize, secrets.values()), strict=False)
    n_common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))

    def ask(key, path="/completion", prompt=None, **more):
        body = {"prompt": prompt or secrets[key], **PLAIN, "n_predict": 12, **more}
        return client.post(path, json=body, headers={"Authorization": f"Bearer {key}"}).json()

    alone = {key: ask(key)["content"] for key in secrets}
    assert alone["one"] != alone["two"]
    assert ask("two", prompt=secrets["one"])["timings"]["cache_n"] == n_common, "only what one asked oneself is there"
    with ThreadPoolExecutor(6) as pool:
        asked = ["one", "two"] * 8
        for key, answer in zip(asked, pool.map(ask, asked), strict=True):
            assert (answer["prompt"], answer["content"]) == (secrets[key], alone[key])

    two = {"Authorization": "Bearer two"}
    one = {"Authorization": "Bearer one"}
    kept = client.post("/v1/responses", json={"input": secrets["one"], "max_output_tokens": 4}, headers=one).json()[
        "id"
    ]
    assert client.get(f"/v1/responses/{kept}", headers=one).status_code == 200
    assert client.get(f"/v1/responses/{kept}/input_items", headers=two).status_code == 404
    assert client.delete(f"/v1/responses/{kept}", headers=two).status_code == 404
    follow_up = {"input": "x", "previous_response_id": kept}
    assert client.post("/v1/responses", json=follow_up, headers=two).status_code == 400
    running = demo_llm.scoped("one").generate(secrets["one"], stream=True, ignore_eos=True)
    try:
        for path in ("/slots", "/metrics", "/props", "/v1/models", f"/v1/responses/{kept}"):
            assert "marmalade" not in client.get(path, headers=two).text
    finally:
        running.cancel()


def cpu_seconds() -> float:
    """Of this process and those that render its templates."""
    children = psutil.Process().children()
    return time.process_time() + sum(sum(child.cpu_times()[:2]) for child in children)


@pytest.mark.parametrize("character", ["a", " ", "\n", "<", "é"])
def test_a_megabyte_of_one_character_takes_linear_time(demo, character):
    def cost(n: int) -> float:
        before = cpu_seconds()
        body = hello(f".{character * n}.")
        assert demo.post("/v1/chat/completions", json=body).json()["error"]["type"] == "exceed_context_size_error"
        return cpu_seconds() - before

    cost(100_000)
    small = min(cost(125_000), cost(125_000))
    assert cost(1_000_000) < 24 * max(small, 0.02), "8 times is linear, 64 times quadratic"

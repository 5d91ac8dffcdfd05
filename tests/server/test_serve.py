"""`stride serve` as a process with the demo model, asked by the clients that people have."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from stride import LLM
from stride.cli import main

HELLO = [{"role": "user", "content": "Hello!"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"{name} of something",
            "parameters": {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]},
        },
    }
    for name, argument in (("get_weather", "location"), ("calculate", "expression"))
]


@pytest.fixture
def client(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def expected():
    """What the same model says without a server."""
    with LLM(n_ctx=2048) as llm:
        yield llm.chat(HELLO, temperature=0, max_tokens=24)


def test_openai_client(client, expected):
    answer = client.chat.completions.create(model="any", messages=HELLO, temperature=0, max_tokens=24)
    (choice,) = answer.choices
    assert choice.message.reasoning_content == expected.message.reasoning
    assert (choice.message.content or None) == expected.message.content
    assert choice.finish_reason == expected.finish_reason
    assert answer.usage.completion_tokens == expected.usage.completion_tokens
    assert answer.timings["predicted_n"] == answer.usage.completion_tokens


def test_openai_client_streaming(client, expected):
    chunks = list(
        client.chat.completions.create(
            model="any",
            messages=HELLO,
            temperature=0,
            max_tokens=24,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert deltas[0].role == "assistant"
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == expected.message.reasoning
    assert "".join(delta.content or "" for delta in deltas) == (expected.message.content or "")
    assert chunks[-2].choices[0].finish_reason == expected.finish_reason
    assert chunks[-1].usage.total_tokens == expected.usage.total_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_openai_client_with_tools_and_their_results(client, stream):
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"location": "Austin"}'}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What's the weather in Austin and calculate 15% tip on $84.50"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    answer = client.chat.completions.create(
        model="any", messages=messages, tools=TOOLS, tool_choice="auto", max_tokens=16, seed=1, stream=stream
    )
    reasons = [chunk.choices[0].finish_reason for chunk in answer] if stream else [answer.choices[0].finish_reason]
    assert reasons[-1] in ("stop", "length", "tool_calls")


def test_openai_client_sees_errors_as_its_own(client):
    with pytest.raises(openai.BadRequestError, match="top_p is 7"):
        client.chat.completions.create(model="any", messages=HELLO, top_p=7)
    with pytest.raises(openai.BadRequestError, match="context window has 2048") as caught:
        client.chat.completions.create(model="any", messages=[{"role": "user", "content": "word " * 5000}])
    assert caught.value.type == "exceed_context_size_error"
    asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}
    with pytest.raises(openai.BadRequestError, match="response_format cannot be enforced") as caught:
        client.chat.completions.create(model="any", messages=HELLO, response_format=asked)
    assert caught.value.param == "response_format"


def test_openai_client_gets_the_call_it_requires_and_the_format_it_asks_for(client):
    asked = {"model": "any", "messages": HELLO, "max_tokens": 500, "seed": 1, "extra_body": {"reasoning_budget": 3}}
    named = {"type": "function", "function": {"name": "calculate"}}
    answer = client.chat.completions.create(tools=TOOLS, tool_choice=named, **asked)
    assert answer.choices[0].finish_reason in ("tool_calls", "length")
    assert [call.function.name for call in answer.choices[0].message.tool_calls] == ["calculate"]
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    schema |= {"additionalProperties": False}
    asked["response_format"] = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    answer = client.chat.completions.create(**asked)
    assert isinstance(json.loads(answer.choices[0].message.content)["ok"], bool)
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0


def test_openai_client_lists_models_and_completes_text(client):
    (model,) = client.models.list().data
    assert client.models.retrieve(model.id).id == model.id
    assert client.completions.create(model=model.id, prompt="Once", max_tokens=4).usage.completion_tokens in range(1, 5)


def test_openai_client_gets_logprobs(client):
    ask = {"model": "any", "messages": HELLO, "temperature": 0, "max_tokens": 8, "logprobs": True, "top_logprobs": 3}
    (choice,) = client.chat.completions.create(**ask).choices
    assert len(choice.logprobs.content) in (7, 8)  # the end of the turn is no token of the answer
    for entry in choice.logprobs.content:
        assert entry.logprob == entry.top_logprobs[0].logprob <= 0
        assert len(entry.top_logprobs) == 3
        assert bytes(entry.bytes).decode(errors="replace") == entry.token
    chunks = list(client.chat.completions.create(**ask, stream=True))
    streamed = [e for c in chunks for choice in c.choices if choice.logprobs for e in choice.logprobs.content]
    assert [entry.token for entry in streamed] == [entry.token for entry in choice.logprobs.content]


def test_openai_client_gets_several_choices(client):
    flat = {"temperature": 2, "top_p": 1, "extra_body": {"top_k": 0, "min_p": 0}}
    ask = {"model": "any", "messages": HELLO, "max_tokens": 6, "n": 3, "seed": 7, **flat}
    answer = client.chat.completions.create(**ask)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    texts = [choice.message.reasoning_content or choice.message.content for choice in answer.choices]
    assert len(set(texts)) > 1, "each has random numbers of its own"
    assert answer.usage.completion_tokens <= 18
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            streamed[choice.index] += getattr(choice.delta, "reasoning_content", None) or choice.delta.content or ""
    assert streamed == texts
    assert chunk.usage == answer.usage


def test_openai_client_completes_several_prompts(client):
    answer = client.completions.create(
        model="any", prompt=["Once", "Twice"], max_tokens=4, temperature=0, echo=True, n=2, seed=1
    )
    assert [choice.text[:4] for choice in answer.choices] == ["Once", "Once", "Twic", "Twic"]
    (choice,) = client.completions.create(model="any", prompt="Once", max_tokens=4, temperature=0, logprobs=2).choices
    assert "".join(choice.logprobs.tokens) == choice.text
    assert choice.logprobs.text_offset[0] == 0
    assert all(len(top) <= 2 for top in choice.logprobs.top_logprobs)


@pytest.mark.parametrize(
    "extra",
    [
        {"dry_multiplier": 0.8, "dry_sequence_breakers": ["\n", "."]},
        {"xtc_probability": 0.5, "xtc_threshold": 0.1},
        {"mirostat": 1},
        {"mirostat": 2, "mirostat_tau": 3.0},
        {"dynatemp_range": 0.5, "dynatemp_exponent": 1.5},
        {"top_n_sigma": 1.0, "typical_p": 0.9},
    ],
)
def test_openai_client_sends_llama_servers_sampling(client, extra):
    ask = {"model": "any", "prompt": "Once", "max_tokens": 12, "seed": 3, "extra_body": {**extra, "ignore_eos": True}}
    answer = client.completions.create(**ask)
    assert answer.usage.completion_tokens == 12
    assert client.completions.create(**ask).choices[0].text == answer.choices[0].text


def test_openai_client_stops_where_it_says(client):
    ask = {"model": "any", "prompt": "Once", "temperature": 0, "max_tokens": 30, "extra_body": {"ignore_eos": True}}
    free = client.completions.create(**ask).choices[0].text
    stop = free[8:11]
    (choice,) = client.completions.create(**ask, stop=[stop]).choices
    assert (choice.text, choice.finish_reason) == (free[: free.index(stop)], "stop")


def test_openai_client_sees_request_ids(client):
    answer = client.models.with_raw_response.list(extra_headers={"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    assert client.models.list()._request_id


def test_requests_side_by_side_answer_as_alone(client, expected):
    def ask(i: int) -> str:
        answer = client.chat.completions.create(model="any", messages=HELLO, temperature=0, max_tokens=24)
        return answer.choices[0].message.reasoning_content

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(ask, range(6))) == {expected.message.reasoning}


def test_chunked_body_and_bodies_without_content_type(served):
    text = json.dumps({"messages": HELLO, "max_tokens": 1}).encode()
    answer = httpx.post(f"{served.url}/v1/chat/completions", content=iter([text[:10], text[10:]]))
    assert answer.status_code == 200
    endless = (b" " * (1 << 20) for _ in range(64))
    assert httpx.post(f"{served.url}/v1/chat/completions", content=endless).status_code == 413
    assert httpx.get(f"{served.url}/health").json() == {"status": "ok"}


def test_two_lengths_are_refused_and_the_connection_closed(served):
    address = urlsplit(served.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(
            b"POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"0\r\n\r\nGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
        answers = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert answers.startswith(b"HTTP/1.1 400 ")
    assert answers.count(b"HTTP/1.1") == 1


def test_curl(served):
    body = '{"messages":[{"role":"user","content":"Hello!"}],"max_tokens":100}'
    url = f"{served.url.replace('127.0.0.1', 'localhost')}/v1/chat/completions"
    out = subprocess.run(
        ["curl", "-sS", url, "-H", "Content-Type: application/json", "-d", body],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert json.loads(out)["usage"]["completion_tokens"] <= 100


# --- a server of one's own ---


def endless(connection: http.client.HTTPConnection, stream: bool, content: str = "Hello!") -> None:
    """Ask for as many tokens as the context holds, and do not wait."""
    body = {"messages": [{"role": "user", "content": content}], "ignore_eos": True, "stream": stream}
    connection.request("POST", "/v1/chat/completions", json.dumps(body))


def test_disconnecting_frees_the_place(serve):
    address = urlsplit(serve("-np", "1", "-c", "8192").start().url).netloc
    started = time.monotonic()
    for stream, content, wait in ((True, "Hello!", 0), (False, "Hello!", 0.3), (False, "long " * 6000, 0.2)):
        gone, queued = http.client.HTTPConnection(address), http.client.HTTPConnection(address)
        endless(gone, stream, content)
        if stream:
            assert gone.getresponse().readline().startswith(b"data:")
        time.sleep(wait)
        endless(queued, False)
        time.sleep(0.1)
        queued.close()
        gone.close()
        answer = httpx.post(
            f"http://{address}/v1/chat/completions", json={"messages": HELLO, "max_tokens": 1}, timeout=60
        )
        assert answer.status_code == 200
    assert time.monotonic() - started < 15, "8192 tokens, six times, were not generated for nobody"


def test_llama_servers_command_line(serve):
    sampling = ("--temp", "0.7", "--dry-multiplier", "0.8", "--xtc-probability", "0.1", "--mirostat", "2")
    server = serve("-ngl", "99", "-c", "1024", "--no-warmup", "-fa", "-b", "512", "--jinja", *sampling).start()
    props = httpx.get(f"{server.url}/props").json()
    params = props["default_generation_settings"]["params"]
    assert (params["dry_multiplier"], params["xtc_probability"], params["mirostat"]) == (0.8, 0.1, 2)
    assert httpx.post(f"{server.url}/completion", json={"prompt": "x", "n_predict": 2}).status_code == 200
    assert props["default_generation_settings"]["n_ctx"] == 1024
    assert props["default_generation_settings"]["params"]["temperature"] == 0.7
    for flag in ("-ngl 99", "--no-warmup", "-fa", "-b 512", "--jinja"):
        assert server.log.count(f"stride: {flag}: no effect here: ") == 1


def test_log_of_json_lines(serve):
    server = serve("--log-json", "-c", "512").start()
    body = {"messages": [{"role": "user", "content": "my secret"}], "max_tokens": 3, "stream": True}
    httpx.post(f"{server.url}/v1/chat/completions", json=body, headers={"x-request-id": "abc"}, timeout=60)
    line = json.loads(server.wait_for(r'\{.*"request_id": "abc".*\}')[0])
    assert (line["path"], line["status"], line["completion_tokens"]) == ("/v1/chat/completions", 200, 3)
    assert "secret" not in server.log


def test_keys_and_another_address(serve, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# people\nsecret\n")
    server = serve("--host", "0.0.0.0", "--api-key-file", str(keys)).start()
    url = server.url.replace("0.0.0.0", "127.0.0.1")
    assert httpx.get(f"{url}/v1/models").status_code == 401
    assert httpx.get(f"{url}/v1/models", headers={"Authorization": "Bearer secret"}).status_code == 200


SLOW = """
import sys, pathlib, time
from stride import LLM
from stride.cli import main
from stride.server import Models, Settings
from stride.server.process import serve
def load(stopping):
    while not pathlib.Path(sys.argv[1]).exists():
        if stopping.wait(0.01):
            raise RuntimeError("stopped")
    return LLM()
serve(Models({"": load}), Settings(), port=0)
"""


@pytest.mark.parametrize("kill", [False, True])
def test_health_says_whether_the_model_is_loaded(tmp_path, kill):
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(tmp_path / "go")], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    url = process.stderr.readline().removeprefix("listening on ").strip()
    answer = httpx.get(f"{url}/health", timeout=30)
    assert answer.status_code == 503
    assert answer.json() == {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
    assert httpx.post(f"{url}/v1/chat/completions", json={"messages": HELLO}).status_code == 503
    if not kill:
        (tmp_path / "go").touch()
        assert process.stderr.readline().startswith("ready in ")
        assert httpx.get(f"{url}/health").status_code == 200
    process.terminate()
    assert process.wait(timeout=30) == 0
    process.stderr.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--host", "0.0.0.0"), "can be reached from other machines: give --api-key"),
        (("--api-key", ""), "--api-key is empty"),
        (("--host", "0.0.0.0", "--api-key", " , "), "--api-key is empty"),
        (("--host", "127.evil.example"), "can be reached from other machines"),
        (("--allowed-host", "https://llm.example"), "must be a host's name"),
        (("--allowed-origin", "llm.example"), "must be an origin such as"),
        (("--ctx-sise", "5"), "there is no option --ctx-sise; did you mean --ctx-size?"),
        (("--lora", "x.gguf"), "--lora: llama-server knows it, stride does not: adapters"),
        (("-ctk", "q8_0"), "must be of one type"),
        (("--temp", "-1"), "temperature is -1"),
        (("--pooling", "rank"), "pooling is 'rank', but must be one of mean, cls, last"),
        (("--embd-normalize", "1"), "--embd-normalize: llama-server knows it, stride does not: requests say"),
        (("--chat-template-kwargs", "[]"), "must be a JSON object"),
        (("--chat-template-file", "/nowhere"), "/nowhere cannot be read"),
    ],
)
def test_what_keeps_it_from_starting(capsys, arguments, message):
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--port", "0", *arguments])
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("stride: ")
    assert message in line


def test_port_in_use(serve, served):
    server = serve("--port", str(urlsplit(served.url).port))
    assert server.process.wait(timeout=60) == 1
    server.wait_for("stride: cannot listen on 127.0.0.1 port .*: Address already in use")


@pytest.mark.parametrize("name", ["nowhere.gguf", "bad.gguf"])
def test_model_that_cannot_be_loaded_is_an_exit_status(serve, tmp_path, name):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF")
    server = serve("-m", str(tmp_path / name))
    assert server.process.wait(timeout=60) == 1
    server.wait_for(f"stride: .*{name}")
    assert "Traceback" not in server.log


def test_prompts_are_kept_for_their_key_across_restarts(serve, tmp_path):
    arguments = ("-c", "1024", "--api-key", "key-of-one,key-of-two", "--cache-dir", str(tmp_path))

    def known(server, key, **body) -> int:
        headers = {"Authorization": f"Bearer {key}"}
        body = {"messages": [{"role": "user", "content": "a b c d e f g " * 20}], "max_tokens": 1, **body}
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=60).json()
        assert answer["timings"]["cache_n"] == answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert answer["timings"]["cache_n"] + answer["timings"]["prompt_n"] == answer["usage"]["prompt_tokens"]
        return answer["timings"]["cache_n"]

    server = serve(*arguments).start()
    assert [known(server, key) > 0 for key in ("key-of-one", "key-of-two", "key-of-one")] == [False, False, True]
    assert known(server, "key-of-one", cache_prompt=False) == 0
    assert server.stop() == 0
    server = serve(*arguments).start()
    assert known(server, "key-of-two") > 100
    assert server.stop() == 0
    assert b"key-of-one" not in b"".join(path.read_bytes() for path in tmp_path.rglob("*.prefix"))

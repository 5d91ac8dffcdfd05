"""Servers are told apart by what they answer, and asked for their own times; two of them for real where they are there.

``STRIDE_LLAMA_SERVER`` and ``STRIDE_LLAMA_CPP_PYTHON`` name llama-server's program and a Python that has
``llama_cpp.server`` (`scripts/build_peers` makes both).
"""

from __future__ import annotations

import json
import os
import sys

import httpx
import pytest

from stride import demo
from stride.bench.engines import ENGINES, Facts, OllamaRecorder, recognise
from stride.bench.servers import serve
from stride.bench.targets import Launched
from stride.bench.tasks import SPEED, TOOL_CALLS

BY_NAME = {engine.name: engine for engine in ENGINES}


def facts(**known):
    return Facts(**{name: known.get(name, {}) for name in Facts.__slots__})


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("Stride", {"props": {"build_info": "stride 0.1", "default_generation_settings": {}}}),
        ("Stride", {"props": {"build_info": "stride 0.1"}, "ollama_version": {"version": "0.9"}}),
        ("llama-server", {"props": {"build_info": "b8070-abc", "default_generation_settings": {}}}),
        ("Ollama", {"ollama_version": {"version": "0.9.1"}, "models": {"data": [{"owned_by": "library"}]}}),
        ("LM Studio", {"lm_studio_models": {"data": []}}),
        ("vLLM", {"models": {"data": [{"id": "m", "owned_by": "vllm"}]}, "version": {"version": "0.10"}}),
        ("llama-cpp-python", {"models": {"data": [{"id": "m", "owned_by": "me"}]}}),
        ("OpenAI-compatible server", {"models": {"data": []}}),
        ("OpenAI-compatible server", {}),
    ],
)
def test_a_server_is_told_by_its_facts(name, known):
    assert next(engine for engine in ENGINES if engine.recognise(facts(**known))).name == name


# --- Ollama's language, as Stride's own server speaks it -------------------------------------------


@pytest.fixture(scope="module")
def server():
    with serve([sys.executable, "-m", "stride", "serve", "--port", "0"], "demo") as endpoint:
        yield endpoint


@pytest.mark.parametrize("task", [SPEED, TOOL_CALLS])
def test_ollamas_answer_is_the_same_with_its_own_counts_and_times(server, task):
    body = task.body(nonce="x", seed=3, model=server.model)
    body["max_tokens"] = 60
    native = BY_NAME["Ollama"].ask(server.http, server.url, body)
    plain = BY_NAME["Stride"].ask(server.http, server.url, body)
    assert native.error is None
    assert native.answer.content == plain.answer.content
    assert native.answer.reasoning == plain.answer.reasoning
    assert native.usage is not None
    assert plain.usage is not None
    assert native.usage == {key: plain.usage[key] for key in ("prompt_tokens", "completion_tokens")}
    assert native.timings is not None
    assert native.timings["predicted_ms"] > 0
    assert native.times.first_token is not None
    assert len(native.arrivals) > 1


def test_ollamas_lines_may_be_cut_anywhere():
    lines = [
        {"message": {"role": "assistant", "thinking": "Hm, ä"}, "done": False},
        {"message": {"content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}, "done": False},
        {
            "message": {"content": ""}, "done": True, "done_reason": "stop", "prompt_eval_count": 10,
            "prompt_eval_duration": 500_000_000, "eval_count": 40, "eval_duration": 2_000_000_000,
        },
    ]  # fmt: skip
    data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    for cut in range(len(data)):
        recorder = OllamaRecorder(0.0)
        recorder.feed(1.0, data[:cut])
        recorder.feed(2.0, data[cut:])
        reply = recorder.reply(3.0)
        assert reply.error is None
        assert reply.answer.reasoning == "Hm, ä"
        assert [(call.name, call.arguments) for call in reply.answer.tool_calls] == [("f", '{"x": 1}')]
        assert reply.timings == {"prompt_per_second": 20.0, "predicted_n": 40, "predicted_ms": 2000.0}
        assert reply.usage == {"prompt_tokens": 10, "completion_tokens": 40}


def test_ollamas_errors_and_cut_streams_are_faults():
    recorder = OllamaRecorder(0.0)
    recorder.feed(1.0, b'{"error": "model gone"}\n')
    assert recorder.reply(2.0).error == "model gone"
    recorder = OllamaRecorder(0.0)
    recorder.feed(1.0, b'{"message": {"content": "x"}, "done": false}\n')
    assert recorder.reply(2.0).error == "the stream ended before the answer did"


# --- Others, by what their documentation says of their answers -------------------------------------


def test_lm_studios_statistics_are_its_own_times(stand, wire):
    stand.answer = lambda body: [
        wire.delta("stop", content="x"),
        wire.usage(3, 9, stats={"tokens_per_second": 51.5, "time_to_first_token": 0.1}),
        wire.DONE,
    ]
    with httpx.Client() as http:
        reply = BY_NAME["LM Studio"].ask(http, stand.url, {"messages": []})
    assert reply.timings == {"predicted_per_second": 51.5}


def test_vllms_times_are_what_its_metrics_grew_by(stand, wire):
    def metrics(n):
        values = (0.5 * n, 2.0 * n, 100.0 * n, 41.0 * n)
        names = (
            *("request_prefill_time_seconds_sum", "request_decode_time_seconds_sum"),
            *("prompt_tokens_total", "generation_tokens_total"),
        )
        return "".join(f'vllm:{name}{{model_name="m"}} {value}\n' for name, value in zip(names, values, strict=True))

    stand.answer = lambda body: [wire.delta("stop", content="x"), wire.usage(100, 41), wire.DONE]
    pages = iter([metrics(1), metrics(2)])

    class Metrics(httpx.HTTPTransport):
        def handle_request(self, request):
            if request.url.path == "/metrics":
                return httpx.Response(200, text=next(pages))
            return super().handle_request(request)

    with httpx.Client(transport=Metrics()) as http:
        reply = BY_NAME["vLLM"].ask(http, stand.url, {"messages": []})
    assert reply.timings == {"prompt_per_second": 200.0, "predicted_per_second": 20.0}


# --- The real ones -----------------------------------------------------------------------------------


def launched(variable: str, arguments: str) -> Launched:
    program = os.environ.get(variable)
    if not program:
        pytest.skip(f"{variable} names no program")
    return Launched(f"{program} {arguments}".replace("{model}", str(demo.path())))


PEERS = {
    "llama-server": ("STRIDE_LLAMA_SERVER", "-m {model} --port {port} -c 4096 --jinja"),
    "llama-cpp-python": ("STRIDE_LLAMA_CPP_PYTHON", "-m llama_cpp.server --model {model} --port {port} --n_ctx 4096"),
}


@pytest.mark.parametrize("name", PEERS)
def test_a_real_peer_is_started_recognised_and_counted(name):
    with launched(*PEERS[name]).connect(lambda text: None) as endpoint:
        assert recognise(endpoint.http, endpoint.url)[0].name == endpoint.engine.name == name
        assert endpoint.label == f"{name}, demo"
        assert endpoint.file is not None
        assert endpoint.process is not None
        body = SPEED.body(nonce="x", seed=1, model=endpoint.model)
        body["max_tokens"] = 24
        reply = endpoint.ask(body)
        assert reply.error is None
        assert reply.usage is not None
        assert 0 < reply.usage["completion_tokens"] <= 24
        assert 30 < reply.usage["prompt_tokens"] < 60

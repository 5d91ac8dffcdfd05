"""The servers that people run: how each is recognised, asked, and what it says of its own time.

Each is a value; a server that is none of them is asked as OpenAI's, which all of them understand.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import httpx
from prometheus_client.parser import text_string_to_metric_families

from stride.bench.client import Recorder, Reply, ask, sound
from stride.types import ToolCall

Json: TypeAlias = Mapping[str, Any]
Counters: TypeAlias = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server answers before anything is measured; empty where it has no such page."""

    props: Json
    models: Json
    version: Json
    ollama_version: Json
    lm_studio_models: Json


def _same(body: Json) -> Json:
    return body


@dataclass(frozen=True, slots=True)
class Engine:
    """A kind of server.

    ``recognise`` tells it by its facts. ``timed`` says where its own time comes from, for the report. ``counters`` are
    read before and after a request where the answer itself holds no times. ``recount`` gives the usage of an answer
    that came without one.
    """

    name: str
    recognise: Callable[[Facts], bool]
    timed: str = "no timings of its own"
    chat_path: str = "/v1/chat/completions"
    translate: Callable[[Json], Json] = _same
    recorder: Callable[[float], Recorder] = Recorder
    counters: Callable[[httpx.Client, str], Counters] | None = None
    recount: Callable[[httpx.Client, str, Json, Reply], Json | None] | None = None

    def ask(self, http: httpx.Client, url: str, body: Json) -> Reply:
        """One request, with the server's own usage and timings in the reply."""
        before = self.counters(http, url) if self.counters else {}
        reply = ask(http, url + self.chat_path, self.translate(body), recorder=self.recorder)
        if reply.error is not None:
            return reply
        if self.counters:
            after = self.counters(http, url)
            reply = replace(reply, timings=_vllm_timings({key: after[key] - before.get(key, 0.0) for key in after}))
        if self.recount and reply.usage is None:
            reply = replace(reply, usage=self.recount(http, url, body, reply))
        return reply


# --- Ollama: its own chat, whose last line has the durations ----------------------------------------


def _ollama_body(body: Json) -> Json:
    options = {"num_predict": body["max_tokens"], "seed": body["seed"]}
    return {**{key: body[key] for key in ("model", "messages", "tools", "stream") if key in body}, "options": options}


class OllamaRecorder(Recorder):
    """One JSON object a line; durations are nanoseconds."""

    __slots__ = ("_line",)

    def __init__(self, sent: float) -> None:
        super().__init__(sent)
        self._line = b""

    def feed(self, now: float, chunk: bytes) -> None:
        self._times.setdefault("first_byte", now - self.sent)
        *lines, self._line = (self._line + chunk).split(b"\n")
        for line in filter(None, lines):
            self._take_guarded(now - self.sent, line.decode("utf-8", "replace"))

    def _take(self, at: float, payload: dict[str, Any]) -> None:
        message = payload.get("message") or {}
        calls = [_openai_call(call) for call in message.get("tool_calls") or ()]
        delta = {"reasoning": message.get("thinking"), "content": message.get("content"), "tool_calls": calls}
        finish = payload.get("done_reason") if payload.get("done") else None
        translated: dict[str, Any] = {"choices": [{"delta": delta, "finish_reason": finish}]}
        if payload.get("error"):
            translated["error"] = payload["error"]
        if payload.get("done"):
            self._done = True
            n_prompt, n_generated = payload.get("prompt_eval_count") or 0, payload.get("eval_count") or 0
            translated["usage"] = {"prompt_tokens": n_prompt, "completion_tokens": n_generated}
            prompt, generation = payload.get("prompt_eval_duration") or 0, payload.get("eval_duration") or 0
            # Its clock starts with the first token, which it counts, as llama-server's does.
            translated["timings"] = {
                "prompt_per_second": 1e9 * n_prompt / prompt if prompt else None,
                "predicted_n": n_generated,
                "predicted_ms": generation / 1e6,
            }
        super()._take(at, translated)


def _openai_call(call: Json) -> Json:
    function = call.get("function") or {}
    return {"id": call.get("id"), "function": {**function, "arguments": json.dumps(function.get("arguments") or {})}}


# --- LM Studio: its own chat, whose last event has statistics ---------------------------------------


class LMStudioRecorder(Recorder):
    """OpenAI's events with ``stats``."""

    __slots__ = ()

    def _take(self, at: float, payload: dict[str, Any]) -> None:
        rate = (payload.get("stats") or {}).get("tokens_per_second")
        super()._take(at, {**payload, "timings": {"predicted_per_second": rate}} if rate else payload)


# --- vLLM: times only in its metrics ------------------------------------------------------------------

_VLLM_SUMS = (
    "vllm:request_prefill_time_seconds_sum", "vllm:request_decode_time_seconds_sum", "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
)  # fmt: skip


def _vllm_counters(http: httpx.Client, url: str) -> Counters:
    try:
        text = http.get(f"{url}/metrics").raise_for_status().text
        families = list(text_string_to_metric_families(text))
    except (httpx.HTTPError, ValueError):
        return {}
    found = dict.fromkeys(_VLLM_SUMS, 0.0)
    for family in families:
        for sample in family.samples:
            if sample.name in found:
                found[sample.name] += sample.value
    return found


def _vllm_timings(spent: Counters) -> Json | None:
    """Of the one request between two readings; None where the metrics are not there."""
    prefill, decode, n_prompt, n_generated = (spent.get(name, 0.0) for name in _VLLM_SUMS)
    if not prefill or not decode:
        return None
    return {"prompt_per_second": n_prompt / prefill, "predicted_per_second": (n_generated - 1) / decode}


# --- llama-cpp-python's server: no usage while streaming ----------------------------------------------


def _recount(http: httpx.Client, url: str, body: Json, reply: Reply) -> Json | None:
    """The usage of the same request, not streamed, whose seed gives the same answer.

    Where it does not, as rounding may differ once the server knows the prompt, its tokenizer counts the answer's text.
    """

    def count(text: str) -> int:
        path = f"{url}/extras/tokenize/count"
        found = http.post(path, json={"model": body.get("model"), "input": text}).raise_for_status().json()["count"]
        return int(found)

    again = {key: value for key, value in body.items() if key not in ("stream", "stream_options")}
    try:
        answer = http.post(f"{url}/v1/chat/completions", json=again).raise_for_status().json()
        usage = dict(answer["usage"])
        if answer["choices"][0]["message"].get("content") != reply.answer.content or reply.answer.tool_calls:
            ended = reply.answer.finish_reason != "length"  # the end-of-turn token is generated too
            usage["completion_tokens"] = count(written(reply)) - count("") + ended
        return {**usage, "recounted": True}
    except (httpx.HTTPError, ValueError, KeyError, TypeError, IndexError):
        return None


def written(reply: Reply) -> str:
    """All text of an answer, as far as the client saw it."""

    def call_text(call: ToolCall) -> str:
        return call.name + call.arguments

    return reply.answer.reasoning + reply.answer.content + "".join(map(call_text, reply.answer.tool_calls))


def _build(facts: Facts) -> str:
    return str(facts.props.get("build_info") or "")


def _owner(facts: Facts) -> str:
    listed = facts.models.get("data")
    return str(listed[0].get("owned_by")) if isinstance(listed, list) and listed and isinstance(listed[0], dict) else ""


OTHER = Engine("OpenAI-compatible server", lambda facts: True)
ENGINES = (
    Engine("Stride", lambda f: _build(f).startswith("stride"), timed="timings of each answer"),
    Engine("llama-server", lambda f: "default_generation_settings" in f.props, timed="timings of each answer"),
    Engine(
        "Ollama", lambda f: "version" in f.ollama_version, timed="durations of each answer", chat_path="/api/chat",
        translate=_ollama_body, recorder=OllamaRecorder,
    ),
    Engine(
        "LM Studio", lambda f: isinstance(f.lm_studio_models.get("data"), list), timed="stats of each answer",
        chat_path="/api/v0/chat/completions", recorder=LMStudioRecorder,
    ),
    Engine("vLLM", lambda f: _owner(f) == "vllm", timed="metrics, read around each request", counters=_vllm_counters),
    Engine("llama-cpp-python", lambda f: _owner(f) == "me", recount=_recount),
    OTHER,
)  # fmt: skip
"""In the order in which they are tried: Stride and others speak Ollama's language too."""


def recognise(http: httpx.Client, url: str) -> tuple[Engine, Facts]:
    """What answers at an address."""
    paths = ("/props", "/v1/models", "/version", "/api/version", "/api/v0/models")
    facts = Facts(*(_json(http, url + path) for path in paths))
    return next(engine for engine in ENGINES if engine.recognise(facts)), facts


def _json(http: httpx.Client, url: str) -> Json:
    """A JSON object that a server may or may not offer; empty if not."""
    try:
        found = http.get(url).raise_for_status().json()
    except (httpx.HTTPError, ValueError):
        return {}
    return sound(found) if isinstance(found, dict) else {}

"""Answers as Ollama's clients read them: one JSON object, or one on each line."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, Literal

from stride.server import errors, sse
from stride.server.wire import chat_logprobs
from stride.types import (
    ChosenToken,
    Completion,
    ContentDelta,
    Finish,
    FinishReason,
    ReasoningDelta,
    StreamedEvent,
    Timings,
    TokensDelta,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)

NDJSON = sse.Framing(
    frame=lambda value: sse.to_json(value) + b"\n",
    ping=b"",  # a line must be an answer
    end=b"",
    media_type="application/x-ndjson",
    error=errors.ollama,
)


class Times:
    """What a request's time went into, in nanoseconds; it begins now."""

    def __init__(self) -> None:
        self._started = time.perf_counter_ns()
        self._load = 0

    def loaded(self) -> None:
        """The model is there."""
        self._load = time.perf_counter_ns() - self._started

    def told(self) -> dict[str, int]:
        return {"total_duration": time.perf_counter_ns() - self._started, "load_duration": self._load}


class OllamaAnswer:
    """One answer of ``/api/chat`` or ``/api/generate``. A tool call is told when it is complete.

    Args:
        times: when its request came, and what that waited for its model.
    """

    framing = NDJSON

    def __init__(self, model: str, form: Literal["chat", "generate"], times: Times) -> None:
        self._model = model
        self._form = form
        self._times = times
        self._call: ToolCallStart | None = None
        self._arguments = ""
        self._tokens: list[ChosenToken] = []

    def opening(self) -> list[dict[str, Any]]:
        return []

    def delta(self, event: StreamedEvent) -> list[dict[str, Any]]:
        match event:
            case TokensDelta(tokens):
                self._tokens += tokens
                return []
            case ToolCallDelta(_, arguments):
                self._arguments += arguments
                return []
            case ToolCallStart():
                chunks = self._called()
                self._call = event
                return chunks
            case ReasoningDelta(text):
                return [*self._called(), self._chunk(thinking=text)]
            case ContentDelta(text):
                return [*self._called(), self._chunk(text)]

    def closing(self, finish: Finish, include_usage: bool) -> list[dict[str, Any]]:
        return [*self._called(), {**self._chunk(), **self._end(finish.reason, finish.usage, finish.timings)}]

    def whole(self, completion: Completion) -> dict[str, Any]:
        self._tokens += completion.tokens
        said = completion.message
        calls = [_call(i, call.id, call.name, call.arguments) for i, call in enumerate(said.tool_calls)]
        end = self._end(completion.finish_reason, completion.usage, completion.timings)
        return {**self._chunk(completion.text, said.reasoning or "", calls), **end}

    def without_words(self, reason: Literal["load", "unload"]) -> dict[str, Any]:
        """The answer to nobody's words: the model is there, or may go."""
        return {**self._chunk(), "done": True, "done_reason": reason}

    def _called(self) -> list[dict[str, Any]]:
        """The call that is complete by now."""
        if self._call is None:
            return []
        call = _call(self._call.index, self._call.id, self._call.name, self._arguments)
        self._call, self._arguments = None, ""
        return [self._chunk(calls=[call])]

    def _chunk(
        self, content: str = "", thinking: str = "", calls: list[dict[str, Any]] | None = None
    ) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        chunk: dict[str, Any] = {"model": self._model, "created_at": now}
        more: dict[str, Any] = {"thinking": thinking} if thinking else {}
        if calls:
            more["tool_calls"] = calls
        if self._form == "chat":
            chunk["message"] = {"role": "assistant", "content": content, **more}
        else:
            chunk |= {"response": content, **more}
        if self._tokens:
            chunk["logprobs"] = chat_logprobs(self._tokens)["content"]
            self._tokens = []
        return {**chunk, "done": False}

    def _end(self, reason: FinishReason, usage: Usage, timings: Timings) -> dict[str, Any]:
        return {
            "done": True,
            "done_reason": "length" if reason == "length" else "stop",
            **self._times.told(),
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": round(1e6 * timings.prompt_ms),
            "eval_count": usage.completion_tokens,
            "eval_duration": round(1e6 * timings.predicted_ms),
        }


def _call(index: int, call_id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": call_id, "function": {"index": index, "name": name, "arguments": sse.JsonText(arguments or "{}")}}

"""Answers as OpenAI's and llama-server's clients read them: whole, or in chunks."""

from __future__ import annotations

import secrets
import string
import time
from dataclasses import dataclass, field
from typing import Any

from stride import __version__
from stride.types import (
    Completion,
    ContentDelta,
    Delta,
    Finish,
    FinishReason,
    ReasoningDelta,
    Timings,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)

FINGERPRINT = f"stride-{__version__}"
_ALPHANUMERIC = string.ascii_letters + string.digits


def new_id(prefix: str) -> str:
    return prefix + "".join(secrets.choice(_ALPHANUMERIC) for _ in range(32))


def usage(counts: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": counts.prompt_tokens,
        "completion_tokens": counts.completion_tokens,
        "total_tokens": counts.total_tokens,
        "prompt_tokens_details": {"cached_tokens": counts.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": counts.reasoning_tokens},
    }


def timings(measured: Timings) -> dict[str, Any]:
    drafts = {"draft_n": measured.draft_n, "draft_n_accepted": measured.draft_n_accepted}
    return {
        "cache_n": measured.cache_n,
        "prompt_n": measured.prompt_n,
        "prompt_ms": measured.prompt_ms,
        "prompt_per_token_ms": measured.prompt_ms / max(1, measured.prompt_n),
        "prompt_per_second": measured.prompt_per_second,
        "predicted_n": measured.predicted_n,
        "predicted_ms": measured.predicted_ms,
        "predicted_per_token_ms": measured.predicted_ms / max(1, measured.predicted_n),
        "predicted_per_second": measured.predicted_per_second,
        **{name: value for name, value in drafts.items() if value is not None},
    }


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """The wire form of one answer of ``/v1/chat/completions``."""

    model: str
    id: str = field(default_factory=lambda: new_id("chatcmpl-"))
    created: int = field(default_factory=lambda: int(time.time()))

    def opening(self) -> list[dict[str, Any]]:
        """The chunks before the first event."""
        return [self._chunk({"role": "assistant", "content": None})]

    def delta(self, event: Delta) -> list[dict[str, Any]]:
        """The chunks of an event: one, or none."""
        return [self._chunk(_delta(event))]

    def closing(self, finish: Finish, include_usage: bool) -> list[dict[str, Any]]:
        """The last chunks: the reason, then the usage where it was asked for. The very last has the timings."""
        chunks = [self._chunk({}, finish.reason)]
        if include_usage:
            chunks.append({**self._envelope("chat.completion.chunk"), "choices": [], "usage": usage(finish.usage)})
        chunks[-1]["timings"] = timings(finish.timings)
        return chunks

    def whole(self, completion: Completion) -> dict[str, Any]:
        """The answer in one piece."""
        said = completion.message
        calls = said.tool_calls
        message: dict[str, Any] = {"role": "assistant", "content": said.content or (None if calls else "")}
        if said.reasoning:
            message |= {"reasoning_content": said.reasoning, "reasoning": said.reasoning}
        if calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in calls
            ]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": completion.finish_reason}
        return {
            **self._envelope("chat.completion"),
            "choices": [choice],
            "usage": usage(completion.usage),
            "timings": timings(completion.timings),
        }

    def _envelope(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
        }

    def _chunk(self, delta: dict[str, Any], reason: FinishReason | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self._envelope("chat.completion.chunk"), "choices": [choice]}


def _delta(event: Delta) -> dict[str, Any]:
    """Reasoning goes out under both names that clients look for."""
    match event:
        case ContentDelta(text):
            return {"content": text}
        case ReasoningDelta(text):
            return {"reasoning_content": text, "reasoning": text}
        case ToolCallStart(index, call_id, name):
            function = {"name": name, "arguments": ""}
            return {"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": function}]}
        case ToolCallDelta(index, arguments):
            return {"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}


@dataclass(frozen=True, slots=True)
class TextAnswer:
    """The wire form of one answer of ``/v1/completions``."""

    model: str
    id: str = field(default_factory=lambda: new_id("cmpl-"))
    created: int = field(default_factory=lambda: int(time.time()))

    def opening(self) -> list[dict[str, Any]]:
        return []

    def delta(self, event: Delta) -> list[dict[str, Any]]:
        assert isinstance(event, ContentDelta), "a plain completion is content only"
        return [self._object(event.text)]

    def closing(self, finish: Finish, include_usage: bool) -> list[dict[str, Any]]:
        chunks = [self._object("", finish.reason)]
        if include_usage:
            chunks.append({**self._object(""), "choices": [], "usage": usage(finish.usage)})
        chunks[-1]["timings"] = timings(finish.timings)
        return chunks

    def whole(self, completion: Completion) -> dict[str, Any]:
        answer = self._object(completion.text, completion.finish_reason)
        return {**answer, "usage": usage(completion.usage), "timings": timings(completion.timings)}

    def _object(self, content: str, reason: FinishReason | None = None) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
            "choices": [{"index": 0, "text": content, "logprobs": None, "finish_reason": reason}],
        }


Answer = ChatAnswer | TextAnswer

"""Answers as Anthropic's clients read them: content blocks, whole or as named events."""

from __future__ import annotations

from typing import Any

from stride.server import errors, sse
from stride.server.wire import new_id
from stride.types import (
    Completion,
    ContentDelta,
    Finish,
    FinishReason,
    ReasoningDelta,
    StreamedEvent,
    TokensDelta,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)

PING = {"type": "ping"}
FRAMING = sse.Framing(frame=sse.named_frame, ping=sse.named_frame(PING), end=b"", error=errors.anthropic)

Block = dict[str, Any]


class MessagesAnswer:
    """One answer of ``/v1/messages``.

    Args:
        prompt_tokens: told at the beginning of a stream.
        max_tokens: what the request allowed; where the answer ends before, the context was full.
        shows_thinking: without it, thinking is told by pings alone.
    """

    framing = FRAMING

    def __init__(self, model: str, prompt_tokens: int, max_tokens: int, shows_thinking: bool) -> None:
        self._model = model
        self._prompt_tokens = prompt_tokens
        self._max_tokens = max_tokens
        self._shows_thinking = shows_thinking
        self._id = new_id("msg_")
        self._index = -1  # of the block that is open, or was last
        self._open: str | None = None  # its type

    def opening(self) -> list[dict[str, Any]]:
        return [
            {"type": "message_start", "message": self._message([], None, None, Usage(self._prompt_tokens))},
            PING,
        ]

    def delta(self, event: StreamedEvent) -> list[dict[str, Any]]:
        match event:
            case TokensDelta():
                return []
            case ReasoningDelta(text):
                return (
                    self._piece(_thinking(""), "thinking_delta", "thinking", text) if self._shows_thinking else [PING]
                )
            case ContentDelta(text):
                return self._piece(_text(""), "text_delta", "text", text)
            case ToolCallStart(_, call_id, name):
                return [*self._stop(), self._start(_tool_use(call_id, name, {}))]
            case ToolCallDelta(_, arguments):
                return [self._delta("input_json_delta", "partial_json", arguments)]

    def closing(self, finish: Finish, include_usage: bool) -> list[dict[str, Any]]:
        reason = self._reason(finish.reason, finish.stop, finish.usage)
        delta = {"stop_reason": reason, "stop_sequence": finish.stop, "stop_details": None}
        return [
            *self._stop(),
            {"type": "message_delta", "delta": delta, "usage": _usage(finish.usage)},
            {"type": "message_stop"},
        ]

    def whole(self, completion: Completion) -> dict[str, Any]:
        blocks: list[Block] = []
        for event in completion.events:
            match event:
                case ReasoningDelta(text) if self._shows_thinking:
                    _extend(blocks, _thinking(text), "thinking")
                case ContentDelta(text):
                    _extend(blocks, _text(text), "text")
                case ToolCallStart(_, call_id, name):
                    blocks.append(_tool_use(call_id, name, ""))
                case ToolCallDelta(_, arguments):
                    blocks[-1]["input"] += arguments
        for block in blocks:
            if block["type"] == "tool_use":
                block["input"] = sse.JsonText(block["input"] or "{}")
        reason = self._reason(completion.finish_reason, completion.stop, completion.usage)
        return self._message(blocks, reason, completion.stop, completion.usage)

    def _message(self, blocks: list[Block], reason: str | None, stop: str | None, usage: Usage) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": blocks,
            "stop_reason": reason,
            "stop_sequence": stop,
            "stop_details": None,
            "usage": _usage(usage),
        }

    def _reason(self, reason: FinishReason, stop: str | None, usage: Usage) -> str:
        match reason:
            case "tool_calls":
                return "tool_use"
            case "stop":
                return "end_turn" if stop is None else "stop_sequence"
            case "length":
                full = usage.completion_tokens < self._max_tokens
                return "model_context_window_exceeded" if full else "max_tokens"

    # --- blocks of a stream ---

    def _piece(self, block: Block, kind: str, name: str, text: str) -> list[dict[str, Any]]:
        """A piece of text, in the open block where that is of its kind, else in a new one."""
        begin = [] if self._open == block["type"] else [*self._stop(), self._start(block)]
        return [*begin, self._delta(kind, name, text)]

    def _start(self, block: Block) -> dict[str, Any]:
        self._index += 1
        self._open = block["type"]
        return {"type": "content_block_start", "index": self._index, "content_block": block}

    def _delta(self, kind: str, name: str, text: str) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self._index, "delta": {"type": kind, name: text}}

    def _stop(self) -> list[dict[str, Any]]:
        """The end of the open block. Clients send thinking back only where it was signed; nothing here checks that."""
        if self._open is None:
            return []
        signature = [self._delta("signature_delta", "signature", "")] if self._open == "thinking" else []
        self._open = None
        return [*signature, {"type": "content_block_stop", "index": self._index}]


def _extend(blocks: list[Block], block: Block, name: str) -> None:
    """Add a text to the last block where that is of its kind, else as a block of its own."""
    if blocks and blocks[-1]["type"] == block["type"]:
        blocks[-1][name] += block[name]
    else:
        blocks.append(block)


def _thinking(text: str) -> Block:
    return {"type": "thinking", "thinking": text, "signature": ""}


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


def _tool_use(call_id: str, name: str, arguments: Any) -> Block:
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}


def _usage(counts: Usage) -> dict[str, Any]:
    """Here, tokens from the cache are not among those of the input."""
    return {
        "input_tokens": counts.prompt_tokens - counts.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": counts.cached_tokens,
        "output_tokens": counts.completion_tokens,
        "output_tokens_details": {"thinking_tokens": counts.reasoning_tokens},
    }

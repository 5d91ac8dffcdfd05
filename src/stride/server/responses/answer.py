"""Answers as clients of OpenAI's Responses read them: output items, whole or as numbered events."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from stride.server import errors, sse
from stride.server.responses.items import Item
from stride.server.responses.request import ResponsesRequest
from stride.server.wire import logprob, new_id
from stride.types import (
    ChosenToken,
    Completion,
    ContentDelta,
    Finish,
    FinishReason,
    ReasoningDelta,
    SamplingParams,
    StreamedEvent,
    TokensDelta,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)

FRAMING = sse.Framing(frame=sse.named_frame, end=b"")
Event = dict[str, Any]
Keep = Callable[[dict[str, Any]], object]


class ResponsesAnswer:
    """One answer of ``/v1/responses``; ``keep`` is given the whole response once it has ended."""

    def __init__(self, model: str, asked: ResponsesRequest, params: SamplingParams, keep: Keep) -> None:
        self.framing = replace(FRAMING, error=self._failed)
        self._keep = keep
        self._sequence = 0
        self._output: list[Item] = []
        self._is_open = False  # the last item of the output
        self._tokens: list[ChosenToken] = []
        self._response: dict[str, Any] = {
            "id": new_id("resp_"),
            "object": "response",
            "created_at": int(time.time()),
            "completed_at": None,
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": asked.metadata or {},
            "model": model,
            "output": [],
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": asked.previous_response_id,
            "reasoning": {"effort": asked.reasoning.effort if asked.reasoning else None, "summary": None},
            "store": asked.store is not False,
            "temperature": params.temperature,
            "text": {"format": _format(asked)},
            "tool_choice": _echo(asked.tool_choice) or "auto",
            "tools": asked.tools or [],
            "top_logprobs": asked.top_logprobs or 0,
            "top_p": params.top_p,
            "truncation": "disabled",
            "usage": None,
        }

    def opening(self) -> list[Event]:
        return [
            self._event("response.created", response=dict(self._response)),
            self._event("response.in_progress", response=dict(self._response)),
        ]

    def delta(self, event: StreamedEvent) -> list[Event]:
        match event:
            case TokensDelta(tokens):
                self._tokens += tokens
                return []
            case ReasoningDelta(text):
                self._tokens = []  # what is told are the text's
                begin = self._begin("reasoning")
                self._part()["text"] += text
                return [*begin, self._piece("response.reasoning_text.delta", delta=text)]
            case ContentDelta(text):
                begin = self._begin("message")
                if begin:
                    self._tokens = _ending(self._tokens, text)
                told = self._logprobs()
                self._part()["text"] += text
                self._part()["logprobs"] += told
                return [*begin, self._piece("response.output_text.delta", delta=text, logprobs=told)]
            case ToolCallStart(_, call_id, name):
                self._tokens = []
                return [*self._close(), self._add(_function_call(call_id, name, ""))]
            case ToolCallDelta(_, arguments):
                self._tokens = []
                self._output[-1]["arguments"] += arguments
                return [self._item_event("response.function_call_arguments.delta", delta=arguments)]

    def closing(self, finish: Finish, include_usage: bool) -> list[Event]:
        status = _status(finish.reason)
        events = self._close(status)
        response = self._ended(finish.reason, finish.usage)
        return [*events, self._event(f"response.{status}", response=response)]

    def whole(self, completion: Completion) -> dict[str, Any]:
        for event in completion.events:
            self.delta(event)
        self._close(_status(completion.finish_reason))
        return self._ended(completion.finish_reason, completion.usage)

    def _ended(self, reason: FinishReason, usage: Usage) -> dict[str, Any]:
        status = _status(reason)
        cut = status == "incomplete"
        self._response |= {
            "status": status,
            "completed_at": None if cut else int(time.time()),
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": self._output,
            "usage": _usage(usage),
        }
        self._keep(self._response)
        return self._response

    def _failed(self, error: Exception) -> Event:
        problem = errors.body(error)["error"]
        failure = {"code": problem["type"], "message": problem["message"]}
        return self._event(
            "response.failed", response={**self._response, "status": "failed", "error": failure, "output": self._output}
        )

    # --- items of a stream ---

    def _event(self, kind: str, **more: Any) -> Event:
        event = {"type": kind, "sequence_number": self._sequence, **more}
        self._sequence += 1
        return event

    def _item_event(self, kind: str, **more: Any) -> Event:
        return self._event(kind, item_id=self._output[-1]["id"], output_index=len(self._output) - 1, **more)

    def _piece(self, kind: str, **more: Any) -> Event:
        return self._item_event(kind, content_index=0, **more)

    def _part(self) -> dict[str, Any]:
        """The open item's text."""
        part: dict[str, Any] = self._output[-1]["content"][0]
        return part

    def _begin(self, kind: str) -> list[Event]:
        """Open an item of text, unless the one that is open is of this kind."""
        if self._is_open and self._output[-1]["type"] == kind:
            return []
        item = _reasoning("") if kind == "reasoning" else _message("", [])
        events = [*self._close(), self._add({**item, "content": []})]
        self._output[-1]["content"] = item["content"]
        return [*events, self._piece("response.content_part.added", part=_copy(self._part()))]

    def _add(self, item: Item) -> Event:
        self._output.append(item)
        self._is_open = True
        return self._event("response.output_item.added", output_index=len(self._output) - 1, item=dict(item))

    def _close(self, status: str = "completed") -> list[Event]:
        """The end of the open item."""
        if not self._is_open:
            return []
        self._is_open = False
        item = self._output[-1]
        item["status"] = status
        events = []
        match item["type"]:
            case "function_call":
                kind = "response.function_call_arguments.done"
                events.append(self._item_event(kind, name=item["name"], arguments=item["arguments"]))
            case "reasoning":
                events.append(self._piece("response.reasoning_text.done", text=self._part()["text"]))
            case "message":
                part = self._part()
                events.append(self._piece("response.output_text.done", text=part["text"], logprobs=part["logprobs"]))
        if item["type"] != "function_call":
            events.append(self._piece("response.content_part.done", part=_copy(self._part())))
        return [*events, self._event("response.output_item.done", output_index=len(self._output) - 1, item=item)]

    def _logprobs(self) -> list[dict[str, Any]]:
        """Of the tokens that have not been told."""
        tokens, self._tokens = self._tokens, []
        return [{**logprob(token.chosen), "top_logprobs": [logprob(other) for other in token.top]} for token in tokens]


def _ending(tokens: Sequence[ChosenToken], text: str) -> list[ChosenToken]:
    """The last tokens, that make a text; those before it end a thought."""
    n_bytes = len(text.encode())
    start = len(tokens)
    while start and n_bytes > 0:
        start -= 1
        n_bytes -= len(tokens[start].chosen.text)
    return list(tokens[start:])


def _status(reason: FinishReason) -> str:
    return "incomplete" if reason == "length" else "completed"


def _reasoning(text: str) -> Item:
    return {
        "id": new_id("rs_"),
        "type": "reasoning",
        "status": "in_progress",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": text}],
        "encrypted_content": None,
    }


def _message(text: str, logprobs: Sequence[dict[str, Any]]) -> Item:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}
    return {"id": new_id("msg_"), "type": "message", "status": "in_progress", "role": "assistant", "content": [part]}


def _function_call(call_id: str, name: str, arguments: str) -> Item:
    return {
        "id": new_id("fc_"),
        "type": "function_call",
        "status": "in_progress",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
    }


def _copy(part: dict[str, Any]) -> dict[str, Any]:
    """A part as it stands; its lists grow on."""
    return {name: list(value) if isinstance(value, list) else value for name, value in part.items()}


def _format(asked: ResponsesRequest) -> Any:
    return _echo(asked.text.format) if asked.text and asked.text.format else {"type": "text"}


def _echo(value: Any) -> Any:
    """What the request said."""
    return value if value is None or isinstance(value, str) else value.model_dump(by_alias=True, exclude_none=True)


def _usage(counts: Usage) -> dict[str, Any]:
    return {
        "input_tokens": counts.prompt_tokens,
        "input_tokens_details": {"cached_tokens": counts.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": counts.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning_tokens},
        "total_tokens": counts.total_tokens,
    }

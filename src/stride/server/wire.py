"""Answers as OpenAI's and llama-server's clients read them: whole, or in chunks."""

from __future__ import annotations

import codecs
import secrets
import string
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from stride import __version__
from stride.server import sse
from stride.types import (
    ChosenToken,
    Completion,
    ContentDelta,
    Delta,
    Finish,
    FinishReason,
    ReasoningDelta,
    StreamedEvent,
    Timings,
    TokenLogprob,
    TokensDelta,
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


def input_tokens(n: int) -> dict[str, Any]:
    """Tokens of a prompt, as OpenAI's clients count them."""
    return {"object": "response.input_tokens", "input_tokens": n}


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


def logprob(token: TokenLogprob) -> dict[str, Any]:
    """A token as OpenAI's chat clients read it; bytes that are no whole character show as U+FFFD."""
    return {"token": token.text.decode(errors="replace"), "logprob": number(token.logprob), "bytes": list(token.text)}


LOWEST_LOGPROB = -9999.0
"""OpenAI's for a token that cannot come: JSON has no infinity."""


def number(logprob: float | None) -> float | None:
    """A log probability in JSON."""
    return None if logprob is None else max(logprob, LOWEST_LOGPROB)


def chat_logprobs(tokens: Iterable[ChosenToken]) -> dict[str, Any]:
    """``choices[].logprobs`` of chat completions."""
    content = [{**logprob(token.chosen), "top_logprobs": [logprob(other) for other in token.top]} for token in tokens]
    return {"content": content, "refusal": None}


def text_logprobs(tokens: Iterable[ChosenToken], offsets: Offsets) -> dict[str, Any]:
    """``choices[].logprobs`` of plain completions. A token is told among the likeliest even if it is none of them."""
    logprobs: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for token in tokens:
        shown = logprob(token.chosen)
        top: dict[str, Any] = {}
        for other in (*map(logprob, token.top), shown):
            top.setdefault(other["token"], other["logprob"])  # parts of characters look alike: the likeliest counts
        logprobs["tokens"].append(shown["token"])
        logprobs["token_logprobs"].append(shown["logprob"])
        logprobs["top_logprobs"].append(None if shown["logprob"] is None else top)
        logprobs["text_offset"].append(offsets.next(token.chosen.text))
    return logprobs


class Offsets:
    """At which character of a text each token begins; of one that begins inside a character, that of its beginning.

    ``echo``: the text's beginning, if it is known; a space that the vocabulary puts before its first word is not of it.
    """

    def __init__(self, echo: str = "") -> None:
        self._at = 0
        self._may_add_space = echo != "" and not echo.startswith(" ")
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def next(self, data: bytes) -> int:
        """Where the token of these bytes begins, which follows the last one."""
        begin = self._at
        self._at += len(self._decoder.decode(data)) - (self._may_add_space and data.startswith(b" "))
        self._may_add_space = False
        return begin


@dataclass(slots=True)
class Envelope:
    """What all choices of one answer share."""

    model: str
    id: str
    created: int = field(default_factory=lambda: int(time.time()))

    def around(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        }


class OpenAIAnswer(Protocol):
    """One choice in OpenAI's form."""

    @property
    def framing(self) -> sse.Framing: ...

    def opening(self) -> list[dict[str, Any]]: ...

    def delta(self, event: StreamedEvent) -> list[dict[str, Any]]: ...

    def closing(self, finish: Finish, include_usage: bool) -> list[dict[str, Any]]: ...

    def usage_chunk(self, counts: Usage) -> dict[str, Any]: ...

    def whole(self, completion: Completion) -> dict[str, Any]: ...


class ChatAnswer:
    """One choice of ``/v1/chat/completions``."""

    framing = sse.OPENAI

    def __init__(self, envelope: Envelope, index: int = 0) -> None:
        self.envelope = envelope
        self._index = index
        self._tokens: list[ChosenToken] = []  # those whose text has not been sent

    def opening(self) -> list[dict[str, Any]]:
        """The chunks before the first event."""
        return [self._chunk({"role": "assistant", "content": None})]

    def delta(self, event: StreamedEvent) -> list[dict[str, Any]]:
        """The chunks of an event: one, or none."""
        if isinstance(event, TokensDelta):
            self._tokens += event.tokens
            return []
        return [self._chunk(_delta(event))]

    def closing(self, finish: Finish, include_usage: bool) -> list[dict[str, Any]]:
        """The last chunks: the reason, then the usage where it was asked for. The very last has the timings."""
        chunks = [self._chunk({}, finish.reason)]
        if include_usage:
            chunks.append(self.usage_chunk(finish.usage))
        chunks[-1]["timings"] = timings(finish.timings)
        return chunks

    def usage_chunk(self, counts: Usage) -> dict[str, Any]:
        return {**self.envelope.around("chat.completion.chunk", []), "usage": usage(counts)}

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
        choice = {
            "index": self._index,
            "message": message,
            "logprobs": chat_logprobs(completion.tokens) if completion.tokens else None,
            "finish_reason": completion.finish_reason,
        }
        return {
            **self.envelope.around("chat.completion", [choice]),
            "usage": usage(completion.usage),
            "timings": timings(completion.timings),
        }

    def _chunk(self, delta: dict[str, Any], reason: FinishReason | None = None) -> dict[str, Any]:
        logprobs = None
        if self._tokens:
            logprobs, self._tokens = chat_logprobs(self._tokens), []
        choice = {"index": self._index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return self.envelope.around("chat.completion.chunk", [choice])


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


class TextAnswer:
    """One choice of ``/v1/completions``, which begins with the prompt where that is to be echoed.

    ``tells_prompt``: the first tokens that come are the prompt's.
    """

    framing = sse.OPENAI

    def __init__(self, envelope: Envelope, index: int = 0, *, echo: str = "", tells_prompt: bool = False) -> None:
        self.envelope = envelope
        self._echo = echo
        self._waits_for_prompt = tells_prompt
        self._index = index
        self._tokens: list[ChosenToken] = []
        self._offsets = Offsets(echo)

    def opening(self) -> list[dict[str, Any]]:
        return [self._object(self._echo)] if self._echo and not self._waits_for_prompt else []

    def delta(self, event: StreamedEvent) -> list[dict[str, Any]]:
        if isinstance(event, TokensDelta):
            self._tokens += event.tokens
            is_prompt, self._waits_for_prompt = self._waits_for_prompt, False
            return [self._object(self._echo)] if is_prompt else []
        assert isinstance(event, ContentDelta), "a plain completion is content only"
        return [self._object(event.text)]

    def closing(self, finish: Finish, include_usage: bool) -> list[dict[str, Any]]:
        chunks = [self._object("", finish.reason)]
        if include_usage:
            chunks.append(self.usage_chunk(finish.usage))
        chunks[-1]["timings"] = timings(finish.timings)
        return chunks

    def usage_chunk(self, counts: Usage) -> dict[str, Any]:
        return {**self.envelope.around("text_completion", []), "usage": usage(counts)}

    def whole(self, completion: Completion) -> dict[str, Any]:
        self._tokens = list(completion.tokens)
        answer = self._object(self._echo + completion.text, completion.finish_reason)
        return {**answer, "usage": usage(completion.usage), "timings": timings(completion.timings)}

    def _object(self, content: str, reason: FinishReason | None = None) -> dict[str, Any]:
        logprobs = None
        if self._tokens:
            logprobs, self._tokens = text_logprobs(self._tokens, self._offsets), []
        choice = {"index": self._index, "text": content, "logprobs": logprobs, "finish_reason": reason}
        return self.envelope.around("text_completion", [choice])


class OpenAIChoices:
    """The choices of one request (``n``, or several prompts), which share an envelope and a usage.

    A prompt counts once, however many choices continue it; ``n`` of them do.
    """

    def __init__(self, answers: Sequence[OpenAIAnswer], n: int = 1) -> None:
        self.answers = answers
        self._n = n
        self._usages: dict[int, Usage] = {}

    def closing(self, index: int, finish: Finish, include_usage: bool) -> list[dict[str, Any]]:
        self._usages[index] = finish.usage
        is_alone = len(self.answers) == 1
        chunks = self.answers[index].closing(finish, include_usage and is_alone)
        if include_usage and not is_alone and len(self._usages) == len(self.answers):
            chunks.append(self.answers[0].usage_chunk(self._total()))
        return chunks

    def whole(self, completions: Sequence[Completion]) -> dict[str, Any]:
        self._usages = {index: completion.usage for index, completion in enumerate(completions)}
        wholes = [answer.whole(completion) for answer, completion in zip(self.answers, completions, strict=True)]
        return {
            **wholes[0],
            "choices": [choice for whole in wholes for choice in whole["choices"]],
            "usage": usage(self._total()),
        }

    def _total(self) -> Usage:
        usages = [self._usages[index] for index in range(len(self.answers))]
        return Usage(
            prompt_tokens=sum(counts.prompt_tokens for counts in usages[:: self._n]),
            completion_tokens=sum(counts.completion_tokens for counts in usages),
            cached_tokens=sum(counts.cached_tokens for counts in usages[:: self._n]),
            reasoning_tokens=sum(counts.reasoning_tokens for counts in usages),
        )

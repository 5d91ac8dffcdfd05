"""A streaming client that reads the clock when bytes arrive."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from stride.types import ToolCall

Clock = Callable[[], float]
HEADERS = {"Accept-Encoding": "identity", "Connection": "close"}
"""No connection is used twice: llama-server closes idle ones, at times just when the next request is sent."""
LONGEST_SECONDS = 1800.0
"""Of one answer, of which something comes now and then."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said, its pieces joined."""

    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds from sending the request to an arrival; None for what never came.

    ``first_token`` counts a token of any kind: reasoning, content or part of a tool call; ``first_answer`` leaves out
    reasoning. ``last_token`` is the last of these or the finish reason, whichever came later: servers count the
    end-of-turn token, and only the finish reason shows it.
    """

    first_byte: float | None = None
    first_token: float | None = None
    first_answer: float | None = None
    last_token: float | None = None
    end: float | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """One request's outcome. ``usage`` and ``timings`` are the server's own; ``error`` is why the run failed.

    ``arrivals``: when reasoning, content or parts of tool calls came, in seconds from sending the request.
    """

    answer: Answer
    times: Times
    usage: Mapping[str, Any] | None
    timings: Mapping[str, Any] | None
    arrivals: tuple[float, ...] = ()
    error: str | None = None


def ask(
    http: httpx.Client,
    url: str,
    body: Mapping[str, Any],
    clock: Clock = time.perf_counter,
    recorder: Callable[[float], Recorder] | None = None,
) -> Reply:
    """POST a chat completion and record its stream. A failure of the server is the reply's ``error``."""
    record = (recorder or Recorder)(clock())
    try:
        with http.stream("POST", url, json=dict(body), headers=HEADERS) as response:
            if response.status_code != httpx.codes.OK:
                response.read()
                return record.reply(clock(), f"HTTP {response.status_code}: {error_text(response.text)}")
            for chunk in response.iter_raw():
                record.feed(clock(), chunk)
                if clock() - record.sent > LONGEST_SECONDS:
                    return record.reply(clock(), f"the answer took longer than {LONGEST_SECONDS:.0f} s")
    except httpx.HTTPError as error:
        return record.reply(clock(), f"{type(error).__name__}: {error}")
    return record.reply(clock())


def ask_whole(http: httpx.Client, url: str, body: Mapping[str, Any], clock: Clock = time.perf_counter) -> Reply:
    """The same for a body that asks for the answer in one piece."""
    recorder = Recorder(clock())
    try:
        response = http.post(url, json=dict(body), headers=HEADERS)
    except httpx.HTTPError as error:
        return recorder.reply(clock(), f"{type(error).__name__}: {error}")
    if response.status_code != httpx.codes.OK:
        return recorder.reply(clock(), f"HTTP {response.status_code}: {error_text(response.text)}")
    recorder.feed_whole(clock(), response.content)
    return recorder.reply(clock())


def error_text(text: str) -> str:
    """The message inside an OpenAI-style error body, or the start of the body."""
    try:
        error = json.loads(text)["error"]
        message = error["message"] if isinstance(error, dict) else error
    except (ValueError, KeyError, TypeError):
        message = text
    return " ".join(str(message).split())[:300]


def sound(value: Any) -> Any:
    """JSON whose text can be written down: halves of a surrogate pair, which servers may cut apart, are joined, and
    replaced where the other half is missing.
    """
    match value:
        case str():
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case Mapping():
            return {sound(key): sound(item) for key, item in value.items()}
        case list():
            return [sound(item) for item in value]
    return value


class EventParser:
    """Server-sent events from bytes cut anywhere: LF, CRLF or CR, comments, several data lines."""

    def __init__(self) -> None:
        self._line = b""
        self._data: list[bytes] = []
        self._after_cr = False

    def feed(self, chunk: bytes) -> Iterator[str]:
        """The data of each event that this chunk completes."""
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        *lines, self._line = (self._line + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                yield b"\n".join(self._data).decode("utf-8", "replace")
                self._data = []


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class Recorder:
    """Turns (time, bytes) into a reply. ``sent`` is the time of the request, on the same clock."""

    sent: float
    _events: EventParser = field(default_factory=EventParser)
    _times: dict[str, float] = field(default_factory=dict)
    _content: list[str] = field(default_factory=list)
    _reasoning: list[str] = field(default_factory=list)
    _calls: dict[int, _Call] = field(default_factory=dict)
    _finish_reason: str | None = None
    _usage: Mapping[str, Any] | None = None
    _timings: Mapping[str, Any] | None = None
    _arrivals: list[float] = field(default_factory=list)
    _done: bool = False
    _error: str | None = None

    def feed(self, now: float, chunk: bytes) -> None:
        """Take bytes that arrived at ``now``."""
        self._times.setdefault("first_byte", now - self.sent)
        for data in self._events.feed(chunk):
            if data == "[DONE]":
                self._done = True
                continue
            self._take_guarded(now - self.sent, data)

    def feed_whole(self, now: float, completion: bytes) -> None:
        """Take an answer that was not streamed: its message is all of its pieces."""
        self._times.setdefault("first_byte", now - self.sent)
        try:
            payload = json.loads(completion)
            choices = [choice | {"delta": choice["message"]} for choice in payload.get("choices") or ()]
            self._take(now - self.sent, payload | {"choices": choices})
        except (ValueError, TypeError, AttributeError, KeyError):
            self._error = self._error or f"the server sent no completion: {completion[:100]!r}"

    def reply(self, now: float, error: str | None = None) -> Reply:
        """The whole, at the end of the stream (or at its failure, named in ``error``)."""
        error = error or self._error
        if error is None and not self._done and self._finish_reason is None:
            error = "the stream ended before the answer did"
        calls = tuple(ToolCall(sound(c.id), sound(c.name), sound(c.arguments)) for _, c in sorted(self._calls.items()))
        content, reasoning = sound("".join(self._content)), sound("".join(self._reasoning))
        answer = Answer(content, reasoning, calls, sound(self._finish_reason))
        times = Times(**self._times, end=now - self.sent)
        return Reply(answer, times, sound(self._usage), sound(self._timings), tuple(self._arrivals), sound(error))

    def _take_guarded(self, at: float, data: str) -> None:
        try:
            self._take(at, json.loads(data))
        except (ValueError, TypeError, AttributeError):
            self._error = self._error or f"the server sent an event that is no completion chunk: {data[:100]}"

    def _take(self, at: float, payload: dict[str, Any]) -> None:
        if payload.get("error"):
            self._error = self._error or error_text(json.dumps(payload))
        self._usage = _object(payload.get("usage")) or self._usage
        self._timings = _object(payload.get("timings")) or self._timings
        for choice in payload.get("choices") or ():
            delta = choice.get("delta") or {}
            reasoning = delta.get("reasoning_content") or delta.get("reasoning")
            content, calls = delta.get("content"), delta.get("tool_calls")
            if reasoning:
                self._reasoning.append(_text(reasoning))
            if content:
                self._content.append(_text(content))
            for call in calls or ():
                self._take_call(call)
            if content or calls:
                self._times.setdefault("first_answer", at)
            if reasoning or content or calls:
                self._arrivals.append(round(at, 6))
                self._times.setdefault("first_token", at)
                self._times["last_token"] = at
            if choice.get("finish_reason"):
                self._finish_reason = _text(choice["finish_reason"])
                self._times["last_token"] = at

    def _take_call(self, delta: Mapping[str, Any]) -> None:
        """Some servers send whole calls without an index: each is a call of its own."""
        index = delta.get("index")
        call = self._calls.setdefault(len(self._calls) if index is None else index, _Call())
        function = delta.get("function") or {}
        call.id = call.id or _text(delta.get("id") or "")
        call.name += function.get("name") or ""
        arguments = function.get("arguments") or ""
        call.arguments += arguments if isinstance(arguments, str) else json.dumps(arguments)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.100} is no text")
    return value


def _object(value: Any) -> Mapping[str, Any] | None:
    if value is not None and not isinstance(value, dict):
        raise TypeError(f"{value!r:.100} is no object")
    return value

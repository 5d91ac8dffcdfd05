"""One request from both sides: tokens become visible text on the engine's thread, events on the reader's."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace

from stride.chat.stop import StopStrings
from stride.chat.stream import StreamParser, collect
from stride.chat.tokenizer import Tokenizer
from stride.engine import Engine, Failed, Finished, Output, Request
from stride.types import (
    Completion,
    ContentDelta,
    Delta,
    Event,
    Finish,
    LogitsMask,
    SamplingParams,
    Timings,
    ToolCallStart,
)


class Stream:
    """One request's events, for `for` and `async for`; the last is `Finish`. Leaving the loop early: call `cancel`.

    The engine's thread turns tokens into visible text and finds stop strings, so that generation ends with the token
    that completes one; the reader's thread splits the text into events.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        prompt_ids: list[int],
        params: SamplingParams,
        parser: StreamParser | None = None,
        mask: LogitsMask | None = None,
        cache_scope: str = "",
    ) -> None:
        """Submit the request; without a parser all text is content.

        ``mask`` restricts it to a grammar; ``cache_scope``: see `Request`.

        Raises:
            RequestError: the engine refuses it.
        """
        self._engine = engine
        self._parser = parser
        self._detokenizer = tokenizer.detokenizer(keep=parser.shown_tokens if parser else ())
        self._stops = StopStrings(params.stop)
        self._outputs: queue.SimpleQueue[str | Output] = queue.SimpleQueue()
        self._notify: Callable[[], object] | None = None
        self._reasoning_tokens = 0
        self._called_tools = False
        self.prompt_tokens = len(prompt_ids)
        self._request = Request(
            prompt_ids=prompt_ids,
            params=params,
            deliver=self._put,
            stop=self._take,
            mask=mask,
            eos_ids=tokenizer.eos_ids,
            cache_scope=cache_scope,
        )
        engine.submit(self._request)

    def cancel(self) -> None:
        """Stop generating; the place is free within one step, and reading on raises `GenerationError`."""
        self._engine.cancel(self._request)

    @property
    def timings(self) -> Timings:
        """Counts and times so far; meaningful once the first event has come."""
        return self._request.finished("stop").timings

    def result(self) -> Completion:
        """Wait for the end and give the whole.

        Raises:
            StrideError: generation failed.
        """
        deltas: list[Delta] = []
        for event in self:
            if isinstance(event, Finish):
                return Completion(collect(deltas), event.reason, event.usage, event.timings)
            deltas.append(event)
        raise AssertionError("a stream ends with Finish or an error")

    # On the engine's thread:

    def _take(self, token_id: int) -> bool:
        text, ends = self._stops.push(self._detokenizer.push(token_id))
        self._put(text)
        return ends

    def _put(self, output: str | Output) -> None:
        self._outputs.put(output)
        if self._notify is not None:
            self._notify()

    # On the reader's thread:

    def __iter__(self) -> Iterator[Event]:
        while True:
            for event in self._events(self._outputs.get()):
                yield event
                if isinstance(event, Finish):
                    return

    async def __aiter__(self) -> AsyncIterator[Event]:
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()
        self._notify = lambda: loop.call_soon_threadsafe(arrived.set)
        try:
            while True:
                while self._outputs.empty():
                    await arrived.wait()
                    arrived.clear()
                for event in self._events(self._outputs.get()):
                    yield event
                    if isinstance(event, Finish):
                        return
        finally:
            self._notify = None

    def _events(self, output: str | Output) -> Iterator[Event]:
        match output:
            case str():
                self._reasoning_tokens += self._parser is not None and self._parser.in_reasoning
                yield from self._deltas(output)
            case Failed(error):
                raise error
            case Finished(reason, usage, timings):
                last = self._stops.push(self._detokenizer.flush())[0] + self._stops.flush()
                yield from self._deltas(last)
                if self._parser is not None:
                    yield from self._noting_tools(self._parser.finish())
                usage = replace(usage, reasoning_tokens=self._reasoning_tokens)
                yield Finish("tool_calls" if self._called_tools and reason == "stop" else reason, usage, timings)

    def _deltas(self, text: str) -> Iterator[Delta]:
        if self._parser is not None:
            yield from self._noting_tools(self._parser.feed(text))
        elif text:
            yield ContentDelta(text)

    def _noting_tools(self, deltas: Sequence[Delta]) -> Sequence[Delta]:
        self._called_tools = self._called_tools or any(isinstance(delta, ToolCallStart) for delta in deltas)
        return deltas

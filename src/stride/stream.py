"""One request from both sides: tokens become visible text on the engine's thread, events on the reader's."""

from __future__ import annotations

import asyncio
import queue
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from stride.chat.stop import StopStrings
from stride.chat.stream import PlainParser, StreamParser, collect
from stride.chat.tokenizer import Tokenizer
from stride.engine import Embedding, Engine, Failed, Finished, Output, PromptLogprobs, Request, Token
from stride.errors import StrideError
from stride.types import (
    ChosenToken,
    Completion,
    Delta,
    Event,
    Finish,
    LogitsMask,
    SamplingParams,
    StreamedEvent,
    Timings,
    TokenLogprob,
    TokensDelta,
)


class Stream:
    """One request's events, for `for` and `async for`; the last is `Finish`. Leaving the loop early: call `cancel`.

    The engine's thread turns tokens into text, reasoning and calls and finds stop strings, so that generation ends with
    the token that completes one; the reader's thread makes events of them.
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
        group: str | None = None,
        tell_prompt_from: int | None = None,
    ) -> None:
        """Make the ``request``, which the caller submits to the engine; without a parser all text is content.

        ``mask`` restricts it to a grammar; ``cache_scope``, ``group``: see `Request`.
        ``tell_prompt_from``: the prompt's tokens from this one on are told as well, with their log probabilities.

        Raises:
            RequestError: a sequence breaker that is no text.
        """
        self._engine = engine
        self._tokenizer = tokenizer
        self._parser = PlainParser() if parser is None else parser
        self._parser.stops = StopStrings(params.stop)
        self._detokenizer = tokenizer.detokenizer(keep=self._parser.shown_tokens)
        self._untold = None if params.logprobs is None else _UntoldTokens()
        self._outputs: queue.SimpleQueue[_Output] = queue.SimpleQueue()
        self._notify: Callable[[], object] | None = None
        self._notified = False
        self._error: StrideError | None = None
        self._reasoning_tokens = 0
        self._tell_prompt_from = tell_prompt_from or 0
        self.prompt_tokens = len(prompt_ids)
        self.request = Request(
            prompt_ids=prompt_ids,
            params=params,
            deliver=self._end,
            stop=self._take,
            mask=mask,
            eos_ids=tokenizer.eos_ids,
            dry_breakers=tokenizer.sequence_breakers(params.dry_sequence_breakers) if params.dry_multiplier else {},
            cache_scope=cache_scope,
            group=group,
            prompt_logprobs=tell_prompt_from is not None,
        )

    def cancel(self) -> None:
        """Stop generating; the place is free within one step, and reading on raises `GenerationError`."""
        self._engine.cancel(self.request)

    @property
    def timings(self) -> Timings:
        """Counts and times so far; meaningful once the first event has come."""
        return self.request.finished("stop").timings

    def result(self) -> Completion:
        """Wait for the end and give the whole.

        Raises:
            StrideError: generation failed.
        """
        return completion(self)

    # On the engine's thread:

    def _take(self, token: Token) -> bool:
        decoded = self._detokenizer.push(token.token_id)
        self._reasoning_tokens += self._parser.in_reasoning
        deltas = self._parser.feed(decoded)
        told = () if self._untold is None else self._untold.push(token, len(decoded), self._parser.n_held)
        self._put((deltas, told))
        return self._parser.stops.found is not None

    def _end(self, output: Output) -> None:
        if not isinstance(output, Token | Embedding):  # tokens came through `_take`; nothing is pooled here
            self._put(output)

    def _put(self, output: _Output) -> None:
        self._outputs.put(output)
        if self._notify is not None and not self._notified:
            self._notified = True
            self._notify()

    # On the reader's thread:

    def subscribe(self, notify: Callable[[], object]) -> None:
        """Have this called, on the engine's thread, when there may be something for `arrived` to give."""
        self._notify = notify

    def arrived(self) -> list[Event]:
        """The events that have come since the last call; never waits.

        Raises:
            StrideError: generation failed, and all events before that have been given.
        """
        self._notified = False  # before looking: what comes from now on notifies again
        if self._error is not None:
            raise self._error
        events: list[Event] = []
        try:
            while not self._outputs.empty():
                events += self._events(self._outputs.get())
        except StrideError as error:
            if not events:
                raise
            self._error = error
        return events

    def __iter__(self) -> Iterator[Event]:
        while True:
            for event in self._events(self._outputs.get()):
                yield event
                if isinstance(event, Finish):
                    return

    async def __aiter__(self) -> AsyncIterator[Event]:
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()
        self.subscribe(lambda: loop.call_soon_threadsafe(arrived.set))
        while True:
            arrived.clear()
            for event in self.arrived():
                yield event
                if isinstance(event, Finish):
                    return
            await arrived.wait()

    def _events(self, output: _Output) -> Iterator[Event]:
        match output:
            case (deltas, tokens):
                if tokens:
                    yield TokensDelta(tuple(map(self._chosen, tokens)))
                yield from deltas
            case PromptLogprobs(logprobs):
                start = self._tell_prompt_from
                first, *others = self.request.prompt_ids[start:]
                tokens = [Token(*pair) for pair in zip(others, logprobs[start:], strict=True)]
                yield TokensDelta((ChosenToken(self._logprob(first, None)), *map(self._chosen, tokens)))
            case Failed(error):
                raise error
            case Finished(reason, usage, timings):
                deltas = self._parser.feed(self._detokenizer.flush()) + self._parser.finish()
                stop = self._parser.stops.found
                rest = () if stop is not None or self._untold is None else self._untold.rest()
                if rest:
                    yield TokensDelta(tuple(map(self._chosen, rest)))
                yield from deltas
                usage = replace(usage, reasoning_tokens=self._reasoning_tokens)
                called = self._parser.ends_in_calls and reason == "stop"
                yield Finish("tool_calls" if called else reason, usage, timings, stop)

    def _chosen(self, token: Token) -> ChosenToken:
        assert token.logprobs is not None
        top = tuple(self._logprob(*pair) for pair in token.logprobs.top)
        return ChosenToken(self._logprob(token.token_id, token.logprobs.logprob), top)

    def _logprob(self, token_id: int, logprob: float | None) -> TokenLogprob:
        return TokenLogprob(token_id, self._tokenizer.token_bytes(token_id), logprob)


_Output = PromptLogprobs | tuple[Sequence[Delta], Sequence[Token]] | Finished | Failed
"""What is told of the prompt, what is said with the tokens behind it, or an end."""


class _UntoldTokens:
    """Tokens of which no text has been shown yet: part of a character, or of what may become a stop string."""

    def __init__(self) -> None:
        self._tokens: deque[tuple[int, Token]] = deque()  # with the place of their text
        self._n_decoded = 0

    def push(self, token: Token, n_decoded: int, n_held: int) -> list[Token]:
        """Add a token, the length of what it decoded to, and of all text that is held back; gives those whose text
        has begun before that."""
        self._tokens.append((self._n_decoded, token))
        self._n_decoded += n_decoded
        told = []
        while self._tokens and self._tokens[0][0] < self._n_decoded - n_held:
            told.append(self._tokens.popleft()[1])
        return told

    def rest(self) -> list[Token]:
        """All that are left, at an end that is no stop string."""
        return [token for _, token in self._tokens]


def completion(events: Iterable[Event]) -> Completion:
    """The whole answer that a stream's events add up to.

    Raises:
        StrideError: the stream failed.
    """
    deltas: list[Delta] = []
    tokens: list[ChosenToken] = []
    before: list[StreamedEvent] = []
    for event in events:
        match event:
            case Finish(reason, usage, timings, stop):
                return Completion(collect(deltas), reason, usage, timings, stop, tuple(tokens), tuple(before))
            case TokensDelta():
                tokens += event.tokens
            case _:
                deltas.append(event)
        before.append(event)
    raise AssertionError("a stream ends with Finish or an error")

"""Vectors of texts: each is a request to the engine, whose hidden states are pooled."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import islice
from time import perf_counter
from typing import cast, get_args

import numpy as np

from stride.engine import Embedding, Engine, Failed, Finished, Output, Request
from stride.errors import DeadlineError, RequestError, StrideError
from stride.ops.api import FloatArray, IntArray
from stride.types import Pooling, SamplingParams, Timings, Usage

EUCLIDEAN, UNCHANGED = 2, -1
"""Norms that `normalized` makes 1: the usual one, and none."""
_LARGEST_INT16 = 32760.0  # of llama.cpp's norm 0
_PARAMS = SamplingParams(max_tokens=0, cache_prompt=False)


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """The vectors of some texts: float32 [texts, n_embd], as they were pooled."""

    vectors: FloatArray
    usage: Usage
    timings: Timings


class Embeddings:
    """Texts that are being embedded. ``future`` will have an `Embedded`, or the error of the first text that failed.

    As many texts as the engine computes together are with it at a time; each that ends gives its place to the next, so
    that a long list neither fills the queue nor loses its turn to others in the middle.
    """

    def __init__(self, engine: Engine, prompts: Sequence[IntArray], pooling: Pooling, cache_scope: str = "") -> None:
        """Submit the first of the prompts, of which there must be one, in the turn of a ``cache_scope``.

        Raises:
            StrideError: the engine refuses it.
        """
        self._engine = engine
        self._requests = [
            Request(ids, _PARAMS, partial(self._take, index), pooling=pooling, cache_scope=cache_scope)
            for index, ids in enumerate(prompts)
        ]
        self._vectors: FloatArray | None = None  # [texts, n_embd], once there is one
        self._started = perf_counter()
        self._n_unfinished = len(prompts)
        self._n_tokens = 0
        self._milliseconds = 0.0
        self.future: Future[Embedded] = Future()
        self.future.set_running_or_notify_cancel()  # nobody cancels the future itself from here on
        n_first = engine.config.n_parallel
        self._waiting = iter(self._requests[n_first:])  # the engine's thread alone goes on with them
        try:
            for request in islice(self._requests, n_first):
                engine.submit(request)
        except StrideError:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Stop; the places are free within one step, and the future fails, unless it is done."""
        for request in self._requests:  # those that are submitted later end at once
            self._engine.cancel(request)

    def result(self) -> Embedded:
        """Wait for the vectors.

        Raises:
            StrideError: a text failed.
        """
        try:
            return self.future.result()
        except BaseException:
            self.cancel()
            raise

    # On the engine's thread:

    def _take(self, index: int, output: Output) -> None:
        match output:
            case Embedding(vector):
                if self._vectors is None:
                    self._vectors = np.empty((len(self._requests), len(vector)), np.float32)
                self._vectors[index] = vector
            case Failed(error):
                self._fail(error)
            case Finished(_, usage, timings):
                self._n_tokens += usage.prompt_tokens
                self._milliseconds += timings.prompt_ms
                self._go_on()

    def _go_on(self) -> None:
        """A text is done: submit the next, or tell that it was the last."""
        self._n_unfinished -= 1
        most = self._engine.config.request_seconds
        if self._n_unfinished == 0 and self._vectors is not None:
            timings = Timings(prompt_n=self._n_tokens, prompt_ms=self._milliseconds)
            self.future.set_result(Embedded(self._vectors, Usage(prompt_tokens=self._n_tokens), timings))
        elif perf_counter() - self._started > most:
            self._fail(DeadlineError(f"the request took longer than {most:g} s"))
        elif (request := next(self._waiting, None)) is not None and not self.future.done():
            try:
                self._engine.submit(request, takes_over=True)
            except StrideError as error:
                self._fail(error)

    def _fail(self, error: StrideError) -> None:
        if not self.future.done():
            self.future.set_exception(error)
            self.cancel()


def check_pooling(value: str) -> Pooling:
    """A way to pool, by its name.

    Raises:
        RequestError: there is none of that name.
    """
    for pooling in get_args(Pooling):
        if value == pooling:
            return cast("Pooling", pooling)
    raise RequestError(f"pooling is {value!r}, but must be one of {', '.join(get_args(Pooling))}", field="pooling")


def normalized(vectors: FloatArray, norm: int) -> FloatArray:
    """Vectors [n, d] divided by a norm of each, as llama.cpp numbers them: 1 and more are p-norms (2: Euclidean), 0
    makes the largest magnitude 32760, -1 changes nothing. A vector of zeros remains one.

    Raises:
        RequestError: there is no such norm.
    """
    if norm < UNCHANGED:
        raise RequestError(f"the norm is {norm}, but must be at least {UNCHANGED}", field="norm")
    if norm == UNCHANGED:
        return vectors
    values = vectors.astype(np.float64)
    largest = np.abs(values).max(axis=-1, keepdims=True)
    values = np.divide(values, largest, out=np.zeros_like(values), where=largest > 0)
    if norm == 0:
        values *= _LARGEST_INT16
    else:
        sums = (np.abs(values) ** norm).sum(axis=-1, keepdims=True) ** (1 / norm)
        np.divide(values, sums, out=values, where=sums > 0)
    return np.asarray(values, np.float32)

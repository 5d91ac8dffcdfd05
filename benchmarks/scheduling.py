"""Time a step costs outside the kernels, in the engine and in the decoder. Ends in one JSON line.

The engine's (scheduling, batch, sampling, delivery) is the time between two calls of a model that does nothing, on the
engine's own thread; the decoder's is that of the demo model with a backend that gives every operation what it gave in
the first step.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np

from stride import demo, ops
from stride.engine import Engine, EngineConfig, Output, Request, Token
from stride.gguf import open_gguf
from stride.models import Session, load_model
from stride.ops.api import Backend, Batch, FloatArray, IntArray, KVType
from stride.types import SamplingParams

N_TOKENS = 1000
CASES = [
    (n_sequences, n_ctx, n_vocab, sampling)
    for n_sequences in (1, 8)
    for n_ctx, n_vocab, sampling in ((8192, 100, "greedy"), (8192, 128_896, "default"), (262_144, 100, "greedy"))
]
SAMPLING: dict[str, dict[str, Any]] = {"greedy": {"temperature": 0.0}, "default": {"seed": 1}}


class Nothing:
    """A model of no work that notes how long it was not called."""

    def __init__(self, n_vocab: int) -> None:
        self.n_vocab = n_vocab
        self.n_embd = 0
        self.windows = (None, 512)
        self.pauses: list[tuple[int, float]] = []
        self._logits = np.random.default_rng(0).standard_normal((8, n_vocab)).astype(np.float32) * 3
        self._left = 0.0

    def new_cache(self, n_pages: Sequence[int], kind: KVType) -> None:
        return None

    def page_bytes(self, kind: KVType) -> tuple[int, ...]:
        return (1, 1)

    def hidden(self, batch: Batch, cache: None) -> None:
        if self._left:
            self.pauses.append((len(batch.outputs), time.perf_counter() - self._left))

    def logits(self, hidden: None, rows: IntArray) -> FloatArray:
        self._left = time.perf_counter()
        return self._logits[: len(rows)]

    def states(self, hidden: None, rows: IntArray) -> FloatArray:
        return np.empty((len(rows), 0), np.float32)

    residual = states


def median_us(n_sequences: int, n_ctx: int, n_vocab: int, sampling: str) -> float:
    """Median time between the ends and starts of two model calls, with every sequence decoding."""
    model = Nothing(n_vocab)
    # Whole prompts in one step, so that nobody has finished when the last one starts.
    engine = Engine(model, EngineConfig(n_ctx=n_ctx, n_parallel=n_sequences, chunk=n_sequences * n_ctx))
    params = SamplingParams(max_tokens=N_TOKENS, **SAMPLING[sampling])
    prompt = [1] * (n_ctx - N_TOKENS - 1)
    ended = threading.Semaphore(0)

    def deliver(output: Output) -> None:
        if not isinstance(output, Token):
            ended.release()

    for _ in range(n_sequences):
        engine.submit(Request(prompt, params, deliver))
    for _ in range(n_sequences):
        ended.acquire()
    engine.close()
    return 1e6 * float(np.median([pause for n, pause in model.pauses if n == n_sequences]))


class Replay:
    """Passes one step's operations on to a backend; from then on each gives at once what it gave there."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._results: list[Any] = []
        self._next: Iterator[Any] | None = None

    def rewind(self) -> None:
        """Begin a step of the same operations again."""
        self._next = iter(self._results)

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._backend, name)
        if name == "kv_pool":
            return operation
        return self._record(operation) if self._next is None else self._give

    def _record(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._results.append(operation(*args, **kwargs))
            return self._results[-1]

        return call

    def _give(self, *args: Any, **kwargs: Any) -> Any:
        assert self._next is not None
        return next(self._next)


def decoder_us() -> tuple[float, float]:
    """The demo model, one token a step: the median of a step without its operations, and of a whole one."""
    with open_gguf(demo.path()) as file:
        backend = ops.load("cpu")
        decoder = load_model(file, backend)
    replay = Replay(backend)
    without, whole = Session(decoder.on(cast("Backend", replay)), N_TOKENS + 1), Session(decoder, N_TOKENS + 1)
    without.feed([1])

    def step(session: Session) -> float:
        replay.rewind()
        start = time.perf_counter()
        session.feed([1])
        return time.perf_counter() - start

    times = [(step(without), step(whole)) for _ in range(N_TOKENS)]
    a, b = 1e6 * np.median(np.array(times), axis=0)
    return float(a), float(b)


def main() -> None:
    without, whole = decoder_us()
    print(f"demo model, one token: {without:.1f} µs outside the operations of {whole:.1f} µs per step")
    results: list[dict[str, Any]] = [{"model": "demo", "median_us": round(without, 1), "step_us": round(whole, 1)}]
    for n_sequences, n_ctx, n_vocab, sampling in CASES:
        us = round(median_us(n_sequences, n_ctx, n_vocab, sampling), 1)
        print(f"{n_sequences} sequences, context {n_ctx}, vocabulary {n_vocab}, {sampling}: {us:.1f} µs per step")
        results.append(
            {"sequences": n_sequences, "n_ctx": n_ctx, "n_vocab": n_vocab, "sampling": sampling, "median_us": us}
        )
    print(json.dumps({"benchmark": "scheduling", "results": results}))


if __name__ == "__main__":
    main()

"""Time a step costs outside the model: scheduling, batch, sampling, delivery. Ends in one JSON line.

Measured as the time between two calls of a model that does nothing, on the engine's own thread.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from stride.engine import Engine, EngineConfig, Output, Request, Token
from stride.ops.api import Batch, FloatArray, KVType
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
        self.windows = (None, 512)
        self.pauses: list[tuple[int, float]] = []
        self._logits = np.random.default_rng(0).standard_normal((8, n_vocab)).astype(np.float32) * 3
        self._left = 0.0

    def new_cache(self, n_pages: Sequence[int], kind: KVType) -> None:
        return None

    def forward(self, batch: Batch, cache: None) -> FloatArray:
        if self._left:
            self.pauses.append((len(batch.outputs), time.perf_counter() - self._left))
        logits = self._logits[: len(batch.outputs)]
        self._left = time.perf_counter()
        return logits


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


def main() -> None:
    results = []
    for n_sequences, n_ctx, n_vocab, sampling in CASES:
        us = round(median_us(n_sequences, n_ctx, n_vocab, sampling), 1)
        print(f"{n_sequences} sequences, context {n_ctx}, vocabulary {n_vocab}, {sampling}: {us:.1f} µs per step")
        results.append(
            {"sequences": n_sequences, "n_ctx": n_ctx, "n_vocab": n_vocab, "sampling": sampling, "median_us": us}
        )
    print(json.dumps({"benchmark": "scheduling", "results": results}))


if __name__ == "__main__":
    main()

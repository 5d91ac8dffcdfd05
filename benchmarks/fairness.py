"""A long prompt beside sequences that decode: how much slower their tokens come. Ends in one JSON line.

    python benchmarks/fairness.py [-m MODEL] [-n 16384] [--sequences 1,4]

Gaps between the tokens of each decoding sequence, before the long prompt comes and while it is processed, and how long
a short prompt that comes in the middle of it waits for its first token. Where the model knows less, so long is it.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from typing import Any

import numpy as np

from stride import LLM
from stride.engine import Failed, Output, Request, Token
from stride.types import SamplingParams

SHORT = 64
TOKENS_BEFORE = 100


class Client:
    """A request, and when it was told of each token."""

    def __init__(self, llm: LLM, n_prompt: int, n_gen: int, seed: int) -> None:
        self.times: list[float] = []
        self.changed = threading.Condition()
        self.ended = False
        prompt = np.random.default_rng(seed).integers(0, llm.config.n_vocab, n_prompt).tolist()
        params = SamplingParams(temperature=10, seed=seed, max_tokens=n_gen, ignore_eos=True, cache_prompt=False)
        self.request = Request(prompt, params, self._deliver)
        self.submitted = time.perf_counter()
        llm.engine.submit(self.request)

    def _deliver(self, output: Output) -> None:
        with self.changed:
            if isinstance(output, Token):
                self.times.append(time.perf_counter())
            else:
                self.ended = True
                self.failure = output.error if isinstance(output, Failed) else None
            self.changed.notify_all()

    def wait(self, n_tokens: int) -> None:
        """Until it has so many tokens."""
        with self.changed:
            self.changed.wait_for(lambda: self.ended or len(self.times) >= n_tokens)
        assert len(self.times) >= n_tokens, self.failure

    def gaps(self, start: float, end: float) -> list[float]:
        """Milliseconds between tokens of a time."""
        inside = [moment for moment in self.times if start <= moment <= end]
        return (1e3 * np.diff(inside)).tolist()


def measure(llm: LLM, n_sequences: int, n_long: int, n_ctx: int) -> dict[str, Any]:
    """Gaps before and during a long prompt, beside so many decoding sequences."""
    decoding = [Client(llm, SHORT, n_ctx - SHORT - 1, seed) for seed in range(n_sequences)]
    for client in decoding:
        client.wait(8)
    start = time.perf_counter()
    for client in decoding:
        client.wait(8 + TOKENS_BEFORE)
    long = Client(llm, n_long, 1, 100)
    while long.request.n_computed < n_long // 4:
        time.sleep(0.001)
    short = Client(llm, SHORT, 1, 101)
    short.wait(1)
    computed_meanwhile = long.request.n_computed
    long.wait(1)
    for client in decoding:
        llm.engine.cancel(client.request)
    before = np.concatenate([client.gaps(start, long.submitted) for client in decoding])
    during = np.concatenate([client.gaps(long.submitted, long.times[0]) for client in decoding])
    return {
        "sequences": n_sequences,
        "gap_ms_before": {"mean": before.mean(), "p50": np.median(before), "p95": np.quantile(before, 0.95)},
        "gap_ms_during": {"mean": during.mean(), "p50": np.median(during), "p95": np.quantile(during, 0.95)},
        "slower": during.mean() / before.mean(),
        "long_prompt_per_second": n_long / (long.times[0] - long.submitted),
        "short_prompt_ms": 1e3 * (short.times[0] - short.submitted),
        "long_prompt_left_then": 1 - computed_meanwhile / n_long,
    }


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    return round(float(value), 3) if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", help="default: the demo model")
    parser.add_argument("-n", "--n-long", type=int, default=16384, metavar="N", help="tokens of the long prompt")
    parser.add_argument("--sequences", default="1,4", metavar="N,…", help="decoding sequences")
    parser.add_argument("-t", "--threads", type=int, metavar="N")
    given = parser.parse_args()
    counts = [int(part) for part in given.sequences.split(",")]
    n_ctx = given.n_long + 512
    results = []
    with LLM(given.model, n_ctx=n_ctx, n_parallel=max(counts) + 2, threads=given.threads) as llm:
        n_long = min(given.n_long, llm.n_ctx - 512)
        for n in counts:
            result = rounded(measure(llm, n, n_long, llm.n_ctx))
            results.append(result)
            print(
                f"{n} decoding: gaps of {result['gap_ms_before']['mean']:.1f} ms before, "
                f"{result['gap_ms_during']['mean']:.1f} ms beside the long prompt ({result['slower']:.2f} times; "
                f"p95 {result['gap_ms_before']['p95']:.1f} and {result['gap_ms_during']['p95']:.1f}), "
                f"which is read at {result['long_prompt_per_second']:.0f} tok/s; a short prompt took "
                f"{result['short_prompt_ms']:.0f} ms, with {100 * result['long_prompt_left_then']:.0f} % of the long "
                "one still to do",
                flush=True,
            )
        print(json.dumps({"benchmark": "fairness", "model": llm.name, "n_long": n_long, "results": results}))


if __name__ == "__main__":
    main()

"""Tokens per second of sequences that decode together (continuous batching), in llama-batched-bench's JSON.

    python benchmarks/batched.py -m MODEL --sequences 1,2,4,8

Counted from when every sequence has its first token until the first of them ends. Scheduling and sampling are in it;
tokens are drawn almost at random, so that the sequences choose different experts.
"""

from __future__ import annotations

import argparse
import json
import threading
import time

import numpy as np

from stride import LLM
from stride.engine import Failed, Output, Request, Token
from stride.types import SamplingParams

TEMPERATURE = 10.0


def decode_rate(llm: LLM, n_sequences: int, n_prompt: int, n_gen: int) -> float:
    """Tokens per second of all sequences together while all of them decode."""
    rng = np.random.default_rng(0)
    times: list[list[float]] = [[] for _ in range(n_sequences)]
    ended = threading.Semaphore(0)
    failures: list[Failed] = []

    def request(number: int) -> Request:
        def deliver(output: Output) -> None:
            if isinstance(output, Token):
                times[number].append(time.perf_counter())
                return
            if isinstance(output, Failed):
                failures.append(output)
            ended.release()

        params = SamplingParams(temperature=TEMPERATURE, seed=number, max_tokens=n_gen + 1, ignore_eos=True)
        return Request(rng.integers(0, llm.config.n_vocab, n_prompt).tolist(), params, deliver)

    for number in range(n_sequences):
        llm.engine.submit(request(number))
    for _ in range(n_sequences):
        ended.acquire()
    if failures:
        raise failures[0].error
    start, end = max(one[0] for one in times), min(one[-1] for one in times)
    return sum(start < moment <= end for one in times for moment in one) / (end - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", help="default: the demo model")
    parser.add_argument("--sequences", default="1,2,4,8", metavar="N,…")
    parser.add_argument("-p", "--n-prompt", type=int, default=128, metavar="N")
    parser.add_argument("-n", "--n-gen", type=int, default=32, metavar="N")
    parser.add_argument("-t", "--threads", type=int, metavar="N")
    given = parser.parse_args()
    counts = [int(part) for part in given.sequences.split(",")]
    n_ctx = given.n_prompt + given.n_gen + 1
    with LLM(given.model, n_ctx=n_ctx, n_parallel=max(counts), threads=given.threads) as llm:
        for n in counts:
            rate = decode_rate(llm, n, given.n_prompt, given.n_gen)
            print(
                json.dumps({"pp": given.n_prompt, "tg": given.n_gen, "pl": n, "speed_tg": round(rate, 3)}), flush=True
            )


if __name__ == "__main__":
    main()

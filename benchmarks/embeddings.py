"""How fast texts become vectors, beside reading the same tokens as prompts. Ends in one JSON line.

    python benchmarks/embeddings.py [-m MODEL] [--tokens 512] [--texts 16] [--repeats 5]

Tokens per second of texts of so many tokens, one at a time and all in one call, for each way to pool, and of prompts of
that many tokens that one token is generated for. The medians of interleaved repeats; nothing is taken from a cache.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np

from stride import LLM
from stride.embeddings import Embeddings
from stride.types import Pooling

POOLINGS: tuple[Pooling, ...] = ("last", "mean")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", help="GGUF file; default: the demo model")
    parser.add_argument("--tokens", type=int, default=512, help="of each text")
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("-np", "--parallel", type=int, default=4)
    options = parser.parse_args()
    with LLM(options.model, n_ctx=options.tokens + 1, n_parallel=options.parallel, cache_ram=0) as llm:
        random = np.random.default_rng(0)
        texts = list(random.integers(3, llm.config.n_vocab, (options.texts, options.tokens), dtype=np.int32))

        def prompts() -> None:
            for text in texts:
                llm.generate(text.tolist(), max_tokens=1, temperature=0)

        ways: dict[str, Callable[[], object]] = {"prompts": prompts}
        for pooling in POOLINGS:
            ways[f"{pooling}, one at a time"] = lambda p=pooling: [
                Embeddings(llm.engine, [text], p).result() for text in texts
            ]
            ways[f"{pooling}, one call"] = lambda p=pooling: Embeddings(llm.engine, texts, p).result()
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for repeat in range(options.repeats + 1):
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                if repeat:  # the first round warms up
                    seconds[name].append(time.perf_counter() - start)
        n_tokens = options.texts * options.tokens
        rates = {name: n_tokens / statistics.median(times) for name, times in seconds.items()}
        print(f"{llm.name}: {options.texts} texts of {options.tokens} tokens on {llm.backend.name}")
        for name, rate in rates.items():
            print(f"{name:24} {rate:9.0f} tokens/s")
        print(json.dumps({"tokens_per_second": {name: round(rate, 1) for name, rate in rates.items()}}))


if __name__ == "__main__":
    main()

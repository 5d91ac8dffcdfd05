"""What drafting brings on a model: acceptance by position, tokens per step, and the speed-up at 1 and 8 sequences.

    python benchmarks/drafting.py [-m MODEL] [--draft heads|lookup|FILE] [-n 256] [-r 5] [--plain-engine]

Generation goes by turns with and without drafts, so that what disturbs, disturbs both. With --plain-engine what goes
without is another engine, in which drafting is off altogether: what it costs to have it on is seen, too.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from stride import LLM
from stride.bench.drafting import measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model")
    parser.add_argument("--draft", default="auto")
    parser.add_argument("--draft-max", type=int)
    parser.add_argument("-n", "--n-gen", type=int, default=256)
    parser.add_argument("-r", "--repeats", type=int, default=5)
    parser.add_argument("--sequences", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--plain-engine", action="store_true")
    asked = parser.parse_args()
    most = max(asked.sequences)
    with LLM(asked.model, n_ctx=2048, n_parallel=most, draft=asked.draft, draft_max=asked.draft_max) as llm:
        print(f"{llm.info['name']} on {llm.backend.name}, drafting: {llm.info['drafting']}")
        plain = LLM(asked.model, n_ctx=2048, n_parallel=most, draft="off") if asked.plain_engine else None
        for n_sequences in asked.sequences:
            result = measure(llm, asked.n_gen, asked.repeats, n_sequences, plain=plain)
            print(result, flush=True)
            print(json.dumps(asdict(result)))
        if plain is not None:
            plain.close()


if __name__ == "__main__":
    main()

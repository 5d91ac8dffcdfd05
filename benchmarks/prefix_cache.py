"""A conversation of many tokens: what each turn's prompt costs beside the first one's. Ends in one JSON line.

    python benchmarks/prefix_cache.py [-m MODEL] [-n 16384]

The first user message has that many tokens, or as many as the model's context has room for; short questions follow.
Each answer goes back into the conversation, its reasoning too, which the model's template drops once another question
follows. The prompt times are the engine's own.
With --cache-dir the last turn is asked once more, of a model that was loaded anew.
"""

from __future__ import annotations

import argparse
import json
import random
from typing import Any

from stride import LLM
from stride.types import Timings

WORDS = [
    "the",
    "of",
    "a",
    "to",
    "in",
    "is",
    "on",
    "by",
    "it",
    "or",
    "be",
    "at",
    "as",
    "an",
    "we",
    "us",
    "if",
    "my",
    "do",
    "no",
]
QUESTION = "And what follows from that, in your opinion? Please answer in one sentence."


def long_message(llm: LLM, n_tokens: int) -> str:
    """About so many tokens of words in random order."""
    chooser = random.Random(0)
    words = [chooser.choice(WORDS) for _ in range(n_tokens)]
    per_word = len(llm.tokenize(" ".join(words[:1000]))) / len(words[:1000])
    return " ".join(words[: int(n_tokens / per_word)])


def ask(llm: LLM, messages: list[dict[str, Any]], n_gen: int) -> tuple[dict[str, Any], Timings]:
    """The next turn's message, and its timings."""
    done = llm.chat(messages, max_tokens=n_gen, temperature=1.0, seed=1)
    answer = {"role": "assistant", "content": done.message.content or "", "reasoning": done.message.reasoning}
    return answer, done.timings


def row(name: str, timings: Timings, first: Timings) -> dict[str, Any]:
    """One turn as figures, printed."""
    share = timings.prompt_ms / first.prompt_ms
    print(
        f"{name:>8}: {timings.cache_n + timings.prompt_n:6d} prompt tokens, {timings.cache_n:6d} of them known, "
        f"{timings.prompt_n:6d} computed in {timings.prompt_ms:9.1f} ms: {100 * share:6.2f} % of the first",
        flush=True,
    )
    return {
        "turn": name,
        "cache_n": timings.cache_n,
        "prompt_n": timings.prompt_n,
        "prompt_ms": round(timings.prompt_ms, 2),
        "of_first": round(share, 5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", help="default: the demo model")
    parser.add_argument("-n", "--n-history", type=int, default=16384, metavar="N", help="tokens of the first message")
    parser.add_argument("--turns", type=int, default=4, metavar="N")
    parser.add_argument("--n-gen", type=int, default=128, metavar="N", help="tokens of each answer")
    parser.add_argument("--cache-ram", type=int, metavar="MiB")
    parser.add_argument("--cache-dir", metavar="DIR")
    parser.add_argument("-t", "--threads", type=int, metavar="N")
    given = parser.parse_args()
    n_turns = given.turns * (given.n_gen + 200)
    arguments: dict[str, Any] = {
        "n_ctx": given.n_history + n_turns + 1024,
        "threads": given.threads,
        "cache_ram": given.cache_ram,
        "cache_dir": given.cache_dir,
    }
    results = []
    with LLM(given.model, **arguments) as llm:
        name, windows = llm.name, llm.config.windows
        n_history = min(given.n_history, llm.n_ctx - n_turns - 256)
        messages: list[dict[str, Any]] = [{"role": "user", "content": long_message(llm, n_history)}]
        first = None
        for turn in range(1, given.turns + 1):
            answer, timings = ask(llm, messages, given.n_gen)
            first = first or timings
            results.append(row(f"turn {turn}", timings, first))
            messages += [answer, {"role": "user", "content": QUESTION}]
    if given.cache_dir is not None:
        with LLM(given.model, **arguments) as llm:
            results.append(row("restart", ask(llm, messages[:-2], given.n_gen)[1], first or Timings()))
    print(json.dumps({"benchmark": "prefix_cache", "model": name, "windows": windows, "results": results}))


if __name__ == "__main__":
    main()

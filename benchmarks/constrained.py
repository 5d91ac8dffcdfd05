"""Speed of generation under a grammar against free generation, in pairs. Ends in one JSON line.

    python benchmarks/constrained.py -m MODEL

Three grammars over one prompt: free text in which a tool may be called (the mask forbids next to nothing), calls of
that tool (XML or JSON in the model's own format), and a JSON schema. A ratio below 0.95 would be too slow. It
depends on the vocabulary: synthetic models have a real one with `synthesize.py --tekken`.
"""

from __future__ import annotations

import argparse
import json

from stride import LLM
from stride.bench.statistics import Summary, summarize
from stride.chat.answer_grammar import answer_grammar, text_grammar
from stride.chat.constraints import Constraints, TextFormat
from stride.chat.grammar import Grammar
from stride.chat.parsers import STEP_XML
from stride.stream import Stream
from stride.types import LogitsMask, SamplingParams, Tool

WORDS = {"type": "array", "items": {"type": "string", "maxLength": 40}, "minItems": 100_000}
TOOL = Tool("note", parameters={"type": "object", "properties": {"words": WORDS, "n": {"type": "integer"}}})
PROMPT = "Write down what comes to mind, in many words."


def compiled(llm: LLM) -> dict[str, Grammar]:
    """The grammar of each case."""
    tool_format = llm.tool_format if llm.tool_format.shapes else STEP_XML
    grammars = {
        "free text with tools": answer_grammar(tool_format, [TOOL], Constraints(), in_reasoning=True),
        "calls": answer_grammar(tool_format, [TOOL], Constraints("required"), in_reasoning=False),
        "json": text_grammar(TextFormat.json_schema({"type": "object", "properties": {"w": WORDS}, "required": ["w"]})),
    }
    return {name: llm.masks.grammars.compile(grammar, name) for name, grammar in grammars.items() if grammar}


def rate(llm: LLM, mask: LogitsMask | None, n_gen: int, seed: int) -> tuple[float, int]:
    """Tokens per second after the first, and how many tokens there were."""
    params = SamplingParams(seed=seed, max_tokens=n_gen, ignore_eos=mask is None)
    timings = Stream(llm.engine, llm.tokenizer, llm.tokenize(PROMPT), params, mask=mask).result().timings
    return timings.decoded_per_second, timings.predicted_n


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", help="default: the demo model")
    parser.add_argument("-n", "--n-gen", type=int, default=128, metavar="N")
    parser.add_argument("-r", "--rounds", type=int, default=9, metavar="N")
    parser.add_argument("-t", "--threads", type=int, metavar="N")
    given = parser.parse_args()
    rates: dict[str, list[tuple[float, float]]] = {}  # constrained and free, one right after the other
    with LLM(given.model, n_ctx=given.n_gen + 64, threads=given.threads) as llm:
        grammars = compiled(llm)
        for seed in range(-1, given.rounds):  # the first round warms up
            for name, grammar in grammars.items():
                mask = grammar.mask()
                order = (mask, None) if seed % 2 else (None, mask)
                pair = [rate(llm, each, given.n_gen, max(seed, 0)) for each in order]
                (speed, n), (free, _) = pair if seed % 2 else pair[::-1]
                if seed >= 0 and n >= given.n_gen // 2:
                    rates.setdefault(name, []).append((speed, free))
        model = llm.name
    report: dict[str, dict[str, object]] = {}
    for name, pairs in rates.items():
        speeds, against = summarize([speed for speed, _ in pairs]), summarize([speed / free for speed, free in pairs])
        assert speeds is not None
        assert against is not None
        print(f"{name:22s}{speeds.median:9.1f} tok/s   {_interval(against)} of free   ({speeds.n} rounds)")
        report[name] = {
            "tok_s": round(speeds.median, 2),
            "ratio": round(against.median, 4),
            "interval": [round(against.low, 4), round(against.high, 4)],
        }
    print(json.dumps({"benchmark": "constrained", "model": model, "n_gen": given.n_gen, "results": report}))


def _interval(summary: Summary) -> str:
    return f"{summary.median:.3f} ({summary.low:.3f} to {summary.high:.3f})"


if __name__ == "__main__":
    main()

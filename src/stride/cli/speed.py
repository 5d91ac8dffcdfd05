"""Prompt and generation speed, measured as llama-bench does: random tokens, a warm-up, then repeats.

-p, -n and -d take several values with commas: stride speed -p 128,512,2048 -n 32 -d 0,4096

These are measured without drafting. What that brings depends on the text, so that a question is answered with and
without it by turns: tokens per second, the speed-up, and the share of tokens guessed right at each position.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from stride.cli import options

if TYPE_CHECKING:
    from stride.ops.profile import OperationTimes


def _numbers(text: str, name: str) -> list[int]:
    from stride.errors import RequestError

    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = [-1]
    if min(values) < 0:
        raise RequestError(f"{name} is {text!r}, but must be numbers of tokens, with commas between", field=name)
    return values


def _print_profile(label: str, total: float, times: dict[str, OperationTimes]) -> None:
    print(f"\n{label}: {1e3 * total:.1f} ms\n")
    print("| operation | calls | ms | share | GB/s |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, one in sorted(times.items(), key=lambda item: -item[1].seconds):
        rate = f"{one.bytes_per_second / 1e9:.1f}" if one.n_bytes else ""
        print(f"| {name} | {one.calls} | {1e3 * one.seconds:.2f} | {one.seconds / total:.1%} | {rate} |")
    rest = total - sum(one.seconds for one in times.values())
    print(f"| outside operations | | {1e3 * rest:.2f} | {rest / total:.1%} | |")


def command(
    model: options.Model = None,
    n_prompt: Annotated[str, typer.Option("-p", "--n-prompt", metavar="N,…", help="Prompt lengths.")] = "512",
    n_gen: Annotated[str, typer.Option("-n", "--n-gen", metavar="N,…", help="Tokens generated.")] = "128",
    n_depth: Annotated[str, typer.Option("-d", "--n-depth", metavar="N,…", help="Tokens of context before.")] = "0",
    repeats: Annotated[int, typer.Option("-r", "--repetitions", metavar="N", help="Samples per test.", min=1)] = 5,
    threads: options.Threads = None,
    backend: options.BackendName = "auto",
    cache_type: options.CacheType = "f16",
    memory: options.Memory = None,
    draft: options.Draft = "auto",
    draft_max: options.DraftMax = None,
    show_profile: Annotated[
        bool, typer.Option("--profile", help="Time and GB/s of each operation, of one run of each test.")
    ] = False,
    output: Annotated[str, typer.Option("-o", "--output", help="md or json.")] = "md",
) -> None:
    from stride.bench import drafting
    from stride.bench.speed import measure, profile, tests
    from stride.errors import RequestError

    if output not in ("md", "json"):
        raise RequestError(f"-o is {output!r}, but must be md or json", field="output")
    plan = tests(_numbers(n_prompt, "-p"), _numbers(n_gen, "-n"), _numbers(n_depth, "-d"))
    if not plan:
        raise RequestError("there is nothing to measure: give -p or -n")
    if show_profile and output != "md":
        raise RequestError("--profile prints tables: leave out -o json", field="output")
    results = []
    asked = options.drafting(draft, draft_max)
    with options.load(model, backend=backend, threads=threads, kv_type=cache_type, memory=memory, **asked) as llm:
        if show_profile:
            for test in plan:
                _print_profile(test.label, *profile(llm, test))
            return
        if output == "md":
            print("| model | size | params | backend | test | t/s |")
            print("| --- | ---: | ---: | --- | ---: | ---: |")
        for number, test in enumerate(plan, 1):
            if sys.stderr.isatty():
                print(f"\rtest {number} of {len(plan)}: {test.label} ", end="", file=sys.stderr, flush=True)
            result = measure(llm, test, repeats)
            results.append(result.as_json())
            if sys.stderr.isatty():
                print("\r\033[K", end="", file=sys.stderr, flush=True)
            if output == "md":
                print(
                    f"| {result.model_type} | {result.model_size / 2**30:.2f} GiB "
                    f"| {result.model_n_params / 1e9:.2f} B | {result.backends} "
                    f"| {test.label} | {result.avg_ts:.2f} ± {result.stddev_ts:.2f} |",
                    flush=True,
                )
        generated = [test.n_gen for test in plan if test.n_gen]
        if generated and llm.draft_kind != "off":
            found = drafting.measure(llm, generated[0], repeats)
            if output == "md":
                print(f"\ndrafting, by {llm.info['drafting']}:\n{found}")
            for row in results:
                if row["n_gen"] == generated[0]:
                    row["drafting"] = asdict(found)
        if (counts := llm.streaming) is not None:
            options.print_streaming(counts)
    if output == "json":
        print(json.dumps(results, indent=2))

"""What it costs to verify drafts: a step of n tokens of one sequence beside a step of one token.

    python benchmarks/verify_cost.py MODEL.gguf [--accept .89,.76,.69] [--llama-bench PATH]

Each round runs steps of every length, in an order that rotates, with tokens at random and the logits of all of them; a
ratio is the median of the ratios within rounds, with its 95 % bootstrap interval. Beside it stands the ratio of the
bytes that the steps read, of experts those that this file's router chose: tokens at random hardly share any, so it is
the most that text can cost. Where the file has draft heads, a draft of n - 1 tokens is timed too, each head on as many
tokens as a step may accept.

With --accept, what share of drafts is accepted at each position (of those whose predecessors were), the speed-up over
steps of one token follows. A file of a few layers has too large a share of output head; --layers counts the parts of a
model of more: `full=12,window=33,dense=3,experts=42` is Step 3.5 Flash. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from limits import BANDWIDTH_BYTES

from stride import _cpu
from stride.bench.machine import cpu_name
from stride.bench.statistics import Summary, summarize
from stride.gguf import open_gguf
from stride.load import model_path
from stride.models import Decoder, load_model
from stride.models.decoder import Cache
from stride.ops.api import PAGE_TOKENS, Backend, Batch
from stride.ops.cpu import CpuBackend
from stride.ops.profile import bytes_read

PEER_EVERY = 3
random = np.random.default_rng(0)
Parts = dict[str, float]
Runs = dict[int, list[float]]
"""Seconds of each run, by tokens."""


@dataclass(frozen=True)
class Call:
    """One operation of a step."""

    name: str
    seconds: float
    n_bytes: int


class Recorder:
    """Passes every operation on to a backend and notes it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.calls: list[Call] = []

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._backend, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = operation(*args, **kwargs)
            seconds = time.perf_counter() - start
            self.calls.append(Call(name, seconds, bytes_read(name, args, kwargs)))
            return result

        return call if callable(operation) else operation


@dataclass
class Step:
    """A step of ``n_tokens`` of each of ``n_rows`` sequences, or a draft of so many: what each run of it took."""

    n_rows: int
    n_tokens: int
    run: Callable[[Decoder], None]
    seconds: list[float] = field(default_factory=list)
    recorded: list[list[Call]] = field(default_factory=list)

    def measure(self, decoder: Decoder, recorder: Recorder, repeats: int) -> None:
        recorded = decoder.on(cast("Backend", recorder))
        for _ in range(repeats):
            recorder.calls = []
            start = time.perf_counter()
            self.run(recorded)
            self.seconds.append(time.perf_counter() - start)
            self.recorded.append(recorder.calls)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def n_bytes(self) -> float:
        return statistics.fmean(sum(call.n_bytes for call in calls) for calls in self.recorded)

    def by(self, key: Callable[[Sequence[Call]], Iterator[str]], value: Callable[[Call], float]) -> list[Parts]:
        """For each run the calls' values, added up by what ``key`` says of each call."""
        runs = []
        for calls in self.recorded:
            totals: Parts = defaultdict(float)
            for part, call in zip(key(calls), calls, strict=True):
                totals[part] += value(call)
            runs.append(totals)
        return runs


def medians(runs: Sequence[Parts]) -> Parts:
    return {part: statistics.median(one[part] for one in runs) for part in runs[0]}


def names(calls: Sequence[Call]) -> Iterator[str]:
    return (call.name for call in calls)


def seconds_of(call: Call) -> float:
    return call.seconds


def bytes_of(call: Call) -> float:
    return call.n_bytes


def owners(decoder: Decoder) -> list[str]:
    """The parts that a step goes through: each begins with a norm."""
    found = []
    for block in decoder.blocks:
        found.append("full" if block.config.window is None else "window")
        found.append("dense" if block.router is None else "experts")
    return [*found, "head"]


def parts_of(decoder: Decoder) -> Callable[[Sequence[Call]], Iterator[str]]:
    """Names the part that each call belongs to; what comes before the first norm is the head's too."""

    def parts(calls: Sequence[Call]) -> Iterator[str]:
        part, following = "head", iter(owners(decoder))
        for call in calls:
            if call.name == "norm":
                part = next(following)
            yield part

    return parts


class Sequences:
    """Sequences with random keys and values up to the context, and steps of tokens that follow it."""

    def __init__(self, decoder: Decoder, n: int, context: int, most_tokens: int) -> None:
        self._decoder, self._context = decoder, context
        n_pages = -(-(context + most_tokens) // PAGE_TOKENS)
        self._cache: Cache = decoder.new_cache([n * n_pages] * len(decoder.windows), "f16")
        self._pages = np.arange(n * n_pages, dtype=np.int32).reshape(n, n_pages)
        for pool in self._cache.pools:
            values = random.standard_normal(pool.page_bytes // 2).astype(np.float16).view(np.uint8)
            for page in range(n * n_pages):
                decoder.ops.write_page(pool, page, values)

    def _batch(self, n_rows: int, n_tokens: int, outputs: Sequence[int]) -> Batch:
        n = n_rows * n_tokens
        return Batch(
            token_ids=random.integers(0, self._decoder.n_vocab, n).astype(np.int32),
            positions=np.tile(np.arange(self._context, self._context + n_tokens, dtype=np.int32), n_rows),
            row_starts=np.arange(0, n + 1, n_tokens, dtype=np.int32),
            page_tables=(self._pages[:n_rows],) * len(self._decoder.windows),
            outputs=np.array(outputs, np.int32),
        )

    def step(self, n_rows: int, n_tokens: int) -> Step:
        def run(decoder: Decoder) -> None:
            decoder.forward(self._batch(n_rows, n_tokens, range(n_rows * n_tokens)), self._cache)

        return Step(n_rows, n_tokens, run)

    def draft(self, n_drafts: int) -> Step:
        """The first heads one after the other, each on ``n_drafts + 1`` tokens, for the logits of the last."""
        n = n_drafts + 1
        hidden = random.standard_normal((n, self._decoder.n_embd), np.float32)

        def run(decoder: Decoder) -> None:
            state = hidden.copy()
            for index in range(n_drafts):
                state, _ = decoder.draft(index, state, self._batch(1, n, [n - 1]), self._cache)

        return Step(1, n_drafts, run)


def ratio(above: Sequence[float], below: Sequence[float]) -> Summary:
    """Of pairs: the median ratio and its interval."""
    found = summarize([a / b for a, b in zip(above, below, strict=True)])
    assert found is not None
    return found


def show(summary: Summary) -> str:
    return f"{summary.median:.2f} [{summary.low:.2f}, {summary.high:.2f}]"


@dataclass
class Peer:
    """llama-bench on prompts as long as the steps: seconds of each. It has no context, and computes
    the logits of the last token only."""

    path: str
    model: str
    threads: int
    lengths: Sequence[int]
    seconds: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))

    def measure(self) -> None:
        argv = [self.path, "-m", self.model, "-t", str(self.threads), "-lm", "none", "-r", "5", "-o", "json"]
        argv += ["-p", ",".join(map(str, self.lengths)), "-n", "0"]
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
        for row in json.loads(done.stdout):
            self.seconds[int(row["n_prompt"])].append(1e-9 * statistics.median(row["samples_ns"]))


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def shares(text: str) -> list[float]:
    values = [float(part) for part in text.split(",")]
    if not all(0 <= value <= 1 for value in values):
        raise argparse.ArgumentTypeError(f"{text!r} are no shares from 0 to 1")
    return values


def layer_counts(text: str) -> Parts:
    found = {name: float(n) for name, _, n in (part.partition("=") for part in text.split(","))}
    if unknown := sorted(found.keys() - {"full", "window", "dense", "experts"}):
        raise argparse.ArgumentTypeError(f"no part {', '.join(unknown)}; known are full, window, dense, experts")
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL.gguf")
    parser.add_argument("-c", "--context", type=int, default=512, metavar="N", help="tokens before (default 512)")
    parser.add_argument("-n", "--tokens", type=numbers, default=[1, 2, 3, 4, 8], metavar="N,…", help="of each sequence")
    parser.add_argument("-s", "--sequences", type=numbers, default=[1], metavar="N,…", help="that run together")
    parser.add_argument("-a", "--accept", type=shares, metavar="P,…", help="acceptance by position")
    parser.add_argument("-l", "--layers", type=layer_counts, metavar="PART=N,…", help="count the parts of this model")
    parser.add_argument("-t", "--threads", type=int, metavar="N")
    parser.add_argument("-r", "--rounds", type=int, default=9, metavar="N")
    parser.add_argument("--repeats", type=int, default=4, metavar="N", help="steps of one length in a round")
    parser.add_argument(
        "--llama-bench", metavar="PATH", help=f"its prompts of as many tokens too, after each {PEER_EVERY}rd round"
    )
    given = parser.parse_args()
    if 1 not in given.tokens:
        parser.error("argument --tokens: 1 is what others are compared with")
    return given


def measure(
    decoder: Decoder, steps: Sequence[Step], drafts: Sequence[Step], given: argparse.Namespace, peer: Peer | None
) -> list[float]:
    """Fill the steps; the read bandwidth at each round."""
    recorder, bandwidths = Recorder(decoder.ops), []
    everything = [*steps, *drafts]
    for one in everything:
        one.run(decoder)
    for number in range(given.rounds):
        bandwidths.append(_cpu.read_bandwidth(BANDWIDTH_BYTES, decoder.ops.n_threads))
        turn = number % len(everything)
        for one in everything[turn:] + everything[:turn]:
            one.measure(decoder, recorder, given.repeats)
        if peer is not None and number % PEER_EVERY == 0:
            peer.measure()
    return bandwidths


def baseline(steps: Sequence[Step], step: Step) -> Step:
    return next(one for one in steps if one.n_rows == step.n_rows and one.n_tokens == 1)


def print_steps(steps: Sequence[Step]) -> None:
    print("\n| sequences | tokens of each | ms | times one | bytes allow | GB | GB/s |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for one in steps:
        base = baseline(steps, one)
        print(
            f"| {one.n_rows} | {one.n_tokens} | {1e3 * one.median:.2f} | {show(ratio(one.seconds, base.seconds))} "
            f"| {one.n_bytes / base.n_bytes:.2f} | {one.n_bytes / 1e9:.2f} | {one.n_bytes / one.median / 1e9:.1f} |"
        )


def print_table(first: str, steps: Sequence[Step], key: Callable[[Sequence[Call]], Iterator[str]]) -> None:
    """Milliseconds and gigabytes per second of each part, a column for each step."""
    print(f"\n| {first} | " + " | ".join(f"{one.n_rows} x {one.n_tokens}" for one in steps) + " |")
    print("| --- |" + " ---: |" * len(steps))
    columns = [(medians(one.by(key, seconds_of)), medians(one.by(key, bytes_of))) for one in steps]
    for part in sorted(columns[0][0], key=lambda part: -columns[0][0][part]):
        cells = []
        for seconds, n_bytes in columns:
            rate = f" ({n_bytes[part] / seconds[part] / 1e9:.0f} GB/s)" if n_bytes[part] else ""
            cells.append(f"{1e3 * seconds[part]:.2f}{rate}")
        print(f"| {part} | " + " | ".join(cells) + " |")


def as_model(runs: Sequence[Parts], held: Mapping[str, int], wanted: Parts) -> list[float]:
    """Seconds of a step of a model that has so many of each part, from those of the parts that the file holds."""
    factors = {part: wanted.get(part, float(part == "head")) / n for part, n in held.items()}
    return [sum(factors[part] * seconds for part, seconds in one.items()) for one in runs]


def print_speed_ups(title: str, acceptance: Sequence[float], steps: Runs, drafts: Runs) -> list[dict[str, float]]:
    """Over steps of one token, for every number of drafts whose step and acceptance are known."""
    costs = {n: ratio(seconds, steps[1]).median for n, seconds in steps.items()}
    print(f"\n{title}: times one, {', '.join(f'{n} tokens {cost:.2f}' for n, cost in costs.items())}\n")
    print("| drafts | tokens a step | verifying, times one | drafting, times one | speed-up | of free drafts |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    rows = []
    for n in range(1, len(acceptance) + 1):
        if n + 1 not in costs:
            continue
        tokens, cost = 1 + float(np.cumprod(acceptance[:n]).sum()), costs[n + 1]
        row, cells = {"drafts": n, "tokens": tokens, "cost": cost, "speed_up_of_free_drafts": tokens / cost}, "- | -"
        if n in drafts:
            draft = ratio(drafts[n], steps[1]).median
            row |= {"draft_cost": draft, "speed_up": tokens / (cost + draft)}
            cells = f"{draft:.2f} | {row['speed_up']:.2f}"
        print(f"| {n} | {tokens:.2f} | {cost:.2f} | {cells} | {tokens / cost:.2f} |")
        rows.append(row)
    return rows


def main() -> None:
    given = arguments()
    with open_gguf(model_path(given.model)) as file:
        decoder = load_model(file, CpuBackend(given.threads, model=file.paths))
    sequences = Sequences(decoder, max(given.sequences), given.context, max(given.tokens))
    steps = [sequences.step(n_rows, n) for n_rows in given.sequences for n in given.tokens]
    drafts = [sequences.draft(n) for n in range(1, len(decoder.draft_heads) + 1)]
    peer = None
    if given.llama_bench:
        peer = Peer(given.llama_bench, given.model, decoder.ops.n_threads, given.tokens)
    bandwidths = measure(decoder, steps, drafts, given, peer)

    print(f"{cpu_name()}, {decoder.ops.name}; {given.rounds} rounds after {given.context} tokens", end="; ")
    print(f"read bandwidth {min(bandwidths) / 1e9:.1f} to {max(bandwidths) / 1e9:.1f} GB/s")
    print_steps(steps)
    part = parts_of(decoder)
    by_part = [one.by(part, seconds_of) for one in steps]
    print_table("operation, ms", steps, names)
    print_table("part, ms", steps, part)
    for one in drafts:
        print(f"\na draft of {one.n_tokens}: {1e3 * one.median:.2f} ms, {one.n_bytes / 1e9:.2f} GB")
    if peer is not None:
        shown = [f"{n} tokens {show(ratio(peer.seconds[n], peer.seconds[1]))}" for n in given.tokens]
        print(
            f"\nllama-bench, times one: {', '.join(shown)}; one token {1e3 * statistics.median(peer.seconds[1]):.2f} ms"
        )

    speed_ups = []
    if given.accept:
        measured = {one.n_tokens: one.seconds for one in steps if one.n_rows == 1}
        of_drafts = {one.n_tokens: one.seconds for one in drafts}
        speed_ups.append(print_speed_ups("This file", given.accept, measured, of_drafts))
        if given.layers:
            held = Counter(owners(decoder))
            whole = {
                one.n_tokens: as_model(runs, held, given.layers)
                for one, runs in zip(steps, by_part, strict=True)
                if one.n_rows == 1
            }
            speed_ups.append(print_speed_ups("From its parts, the whole model", given.accept, whole, of_drafts))
    report = {
        "benchmark": "verify_cost",
        "model": model_path(given.model).name,
        "cpu": cpu_name(),
        "backend": decoder.ops.name,
        "context": given.context,
        "bandwidth": bandwidths,
        "steps": [
            {"sequences": one.n_rows, "tokens": one.n_tokens, "seconds": one.seconds, "bytes": one.n_bytes}
            | {"parts": medians(runs)}
            for one, runs in zip(steps, by_part, strict=True)
        ],
        "drafts": [{"drafts": one.n_tokens, "seconds": one.seconds, "bytes": one.n_bytes} for one in drafts],
        "peer_seconds": peer.seconds if peer is not None else None,
        "speed_ups": speed_ups,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()

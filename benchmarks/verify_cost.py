"""What it costs to verify drafts: a step of n tokens of one sequence beside a step of one token.

    python benchmarks/verify_cost.py MODEL.gguf [--accept .89,.76,.69] [--llama-bench PATH]

Each round runs steps of every length, in an order that rotates, with tokens at random and the logits of all of them; a
ratio is the median of the rounds' ratios with its 95 % bootstrap interval. Beside it stands the ratio of the bytes that
the steps read, of experts those that this file's router chose: tokens at random hardly share any, so it is the most
that text can cost. Where the file has draft heads, a draft of n - 1 tokens is timed too, each head on as many tokens as
a step may accept.

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
from collections import defaultdict
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

random = np.random.default_rng(0)
Parts = dict[str, float]


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
    """A step of ``n_tokens`` of each of ``n_rows`` sequences, or a draft of so many: what rounds of it took."""

    n_rows: int
    n_tokens: int
    run: Callable[[Decoder], None]
    seconds: list[float] = field(default_factory=list)
    recorded: list[list[Call]] = field(default_factory=list)

    def measure(self, decoder: Decoder, recorder: Recorder, repeats: int) -> None:
        start = time.perf_counter()
        for _ in range(repeats):
            self.run(decoder)
        self.seconds.append((time.perf_counter() - start) / repeats)
        recorder.calls = []
        self.run(decoder.on(cast("Backend", recorder)))
        self.recorded.append(recorder.calls)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def n_bytes(self) -> float:
        return statistics.fmean(sum(call.n_bytes for call in calls) for calls in self.recorded)

    def by(self, key: Callable[[Sequence[Call]], Iterator[str]], value: Callable[[Call], float]) -> Parts:
        """Medians over the rounds of the calls' values, added up by what ``key`` says of each call."""
        sums = []
        for calls in self.recorded:
            totals: Parts = defaultdict(float)
            for part, call in zip(key(calls), calls, strict=True):
                totals[part] += value(call)
            sums.append(totals)
        return {part: statistics.median(one[part] for one in sums) for part in sums[0]}


def names(calls: Sequence[Call]) -> Iterator[str]:
    return (call.name for call in calls)


def seconds_of(call: Call) -> float:
    return call.seconds


def bytes_of(call: Call) -> float:
    return call.n_bytes


def parts_of(decoder: Decoder) -> Callable[[Sequence[Call]], Iterator[str]]:
    """Names the part that a call belongs to; each block norms twice, and the head once."""
    owners = []
    for block in decoder.blocks:
        owners.append("full" if block.config.window is None else "window")
        owners.append("dense" if block.router is None else "experts")

    def parts(calls: Sequence[Call]) -> Iterator[str]:
        part, following = "head", iter([*owners, "head"])
        for call in calls:
            if call.name == "norm":
                part = next(following)
            yield part

    return parts


def counts(decoder: Decoder) -> Parts:
    """How many there are of each part."""
    found: Parts = defaultdict(float, head=1)
    for block in decoder.blocks:
        found["full" if block.config.window is None else "window"] += 1
        found["dense" if block.router is None else "experts"] += 1
    return dict(found)


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


def accepted_tokens(acceptance: Sequence[float]) -> float:
    """What a step with a draft gives on average: the accepted ones and the one that the model adds."""
    return 1 + float(np.cumprod(acceptance).sum()) if acceptance else 1.0


@dataclass
class Peer:
    """llama-bench on prompts as long as the steps: tokens per second, which become seconds of a step."""

    path: str
    model: str
    context: int
    threads: int
    lengths: Sequence[int]
    seconds: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))

    def measure(self) -> None:
        argv = [self.path, "-m", self.model, "-t", str(self.threads), "-lm", "none", "-r", "5", "-o", "json"]
        argv += ["-p", ",".join(map(str, self.lengths)), "-n", "0", "-d", str(self.context)]
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
    parser.add_argument("--llama-bench", metavar="PATH", help="its prompts of the same lengths, in rounds between")
    parser.add_argument("--peer-rounds", type=int, default=3, metavar="N")
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
        if (
            peer is not None
            and number * given.peer_rounds // given.rounds != (number + 1) * given.peer_rounds // given.rounds
        ):
            peer.measure()
    return bandwidths


def print_steps(steps: Sequence[Step]) -> None:
    print("\n| sequences | tokens of each | ms | times one | bytes allow | GB | GB/s |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for one in steps:
        base = baseline(steps, one)
        print(
            f"| {one.n_rows} | {one.n_tokens} | {1e3 * one.median:.2f} | {show(ratio(one.seconds, base.seconds))} "
            f"| {one.n_bytes / base.n_bytes:.2f} | {one.n_bytes / 1e9:.2f} | {one.n_bytes / one.median / 1e9:.1f} |"
        )


def baseline(steps: Sequence[Step], step: Step) -> Step:
    return next(one for one in steps if one.n_rows == step.n_rows and one.n_tokens == 1)


def print_table(first: str, steps: Sequence[Step], tables: Sequence[Parts], rates: Sequence[Parts]) -> None:
    """Milliseconds and gigabytes per second of each part, a column for each step."""
    print(f"\n| {first} | " + " | ".join(f"{one.n_rows} x {one.n_tokens}" for one in steps) + " |")
    print("| --- |" + " ---: |" * len(steps))
    for part in sorted(tables[0], key=lambda part: -tables[0][part]):
        cells = []
        for seconds, n_bytes in zip(tables, rates, strict=True):
            rate = f" ({n_bytes[part] / seconds[part] / 1e9:.0f} GB/s)" if n_bytes[part] else ""
            cells.append(f"{1e3 * seconds[part]:.2f}{rate}")
        print(f"| {part} | " + " | ".join(cells) + " |")


def as_model(by_part: Parts, held: Parts, wanted: Parts) -> float:
    """Seconds of a step of a model that has so many of each part, from those of the parts that the file holds."""
    return sum(
        seconds / held[part] * wanted.get(part, 1.0 if part == "head" else 0.0) for part, seconds in by_part.items()
    )


def print_speed_ups(
    title: str, acceptance: Sequence[float], steps: Mapping[int, float], drafts: Mapping[int, float]
) -> list[dict[str, float]]:
    """Over steps of one token, for every number of drafts whose step and acceptance are known."""
    print(f"\n{title}\n\n| drafts | tokens a step | step, ms | draft, ms | speed-up | where drafts cost nothing |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    rows = []
    for n in range(1, len(acceptance) + 1):
        if n + 1 not in steps:
            continue
        tokens, step, draft = accepted_tokens(acceptance[:n]), steps[n + 1], drafts.get(n)
        free = tokens * steps[1] / step
        row = {"drafts": n, "tokens": tokens, "step_seconds": step, "speed_up_of_free_drafts": free}
        cells = "- | -"
        if draft is not None:
            row |= {"draft_seconds": draft, "speed_up": tokens * steps[1] / (step + draft)}
            cells = f"{1e3 * draft:.2f} | {row['speed_up']:.2f}"
        print(f"| {n} | {tokens:.2f} | {1e3 * step:.2f} | {cells} | {free:.2f} |")
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
        peer = Peer(given.llama_bench, given.model, given.context, decoder.ops.n_threads, given.tokens)
    bandwidths = measure(decoder, steps, drafts, given, peer)

    print(f"{cpu_name()}, {decoder.ops.name}; {given.rounds} rounds after {given.context} tokens", end="; ")
    print(f"read bandwidth {min(bandwidths) / 1e9:.1f} to {max(bandwidths) / 1e9:.1f} GB/s")
    print_steps(steps)
    part = parts_of(decoder)
    by_name = [one.by(names, seconds_of) for one in steps]
    by_part = [one.by(part, seconds_of) for one in steps]
    print_table("operation, ms", steps, by_name, [one.by(names, bytes_of) for one in steps])
    print_table("part, ms", steps, by_part, [one.by(part, bytes_of) for one in steps])
    for one in drafts:
        print(f"\na draft of {one.n_tokens}: {1e3 * one.median:.2f} ms, {one.n_bytes / 1e9:.2f} GB", end="")
    print()
    if peer is not None:
        shown = [f"{n} tokens {show(ratio(peer.seconds[n], peer.seconds[1]))}" for n in given.tokens]
        print(
            f"\nllama-bench, times one: {', '.join(shown)}; one token {1e3 * statistics.median(peer.seconds[1]):.2f} ms"
        )

    speed_ups = []
    if given.accept:
        alone = [i for i, one in enumerate(steps) if one.n_rows == 1]
        draft_seconds = {one.n_tokens: one.median for one in drafts}
        measured = {steps[i].n_tokens: steps[i].median for i in alone}
        speed_ups.append(print_speed_ups("This file:", given.accept, measured, draft_seconds))
        if given.layers:
            held = counts(decoder)
            scaled = {steps[i].n_tokens: as_model(by_part[i], held, given.layers) for i in alone}
            ratios = ", ".join(f"{n} tokens {seconds / scaled[1]:.2f}" for n, seconds in scaled.items())
            title = f"A model of {given.layers}, from its parts; times one: {ratios}"
            speed_ups.append(print_speed_ups(title, given.accept, scaled, draft_seconds))
    report = {
        "benchmark": "verify_cost",
        "model": model_path(given.model).name,
        "cpu": cpu_name(),
        "backend": decoder.ops.name,
        "context": given.context,
        "bandwidth": bandwidths,
        "steps": [
            {
                "sequences": one.n_rows,
                "tokens": one.n_tokens,
                "seconds": one.seconds,
                "bytes": one.n_bytes,
                "parts": parts,
            }
            for one, parts in zip(steps, by_part, strict=True)
        ],
        "drafts": [{"drafts": one.n_tokens, "seconds": one.seconds, "bytes": one.n_bytes} for one in drafts],
        "peer_seconds": peer.seconds if peer is not None else None,
        "speed_ups": speed_ups,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()

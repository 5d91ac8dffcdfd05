"""Stride beside llama.cpp and ik_llama.cpp on one model: interleaved rounds, ratios, share of the limits.

    python benchmarks/compare.py -m MODEL --llama-bench PATH --ik-llama-bench PATH

Each round probes memory bandwidth and the peak of int8 multiply-adds, then runs every engine once on every test, one
process at a time, in an order that rotates. Prompts are read from an empty context, generation is measured at each
depth of -d. Peers read the model into memory as Stride does: mapped, their first tests would wait for the disk.
Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
from limits import BANDWIDTH_BYTES, Work, read_work

from stride import _cpu
from stride.bench.machine import machine
from stride.bench.statistics import Summary, summarize
from stride.gguf import open_gguf
from stride.load import model_path
from stride.ops import packed
from stride.ops.cpu import choose_isa, default_threads

BATCHED_PROMPT = 128
CALM = 0.1
"""Share of the processors that others may take without disturbing."""
ATTEMPTS = 3
Rates = dict[str, float]


@dataclass(frozen=True)
class Plan:
    """What to measure; `labels` are the tests in the order of the table."""

    model: str
    prompts: Sequence[int]
    n_gen: int
    depths: Sequence[int]
    sequences: Sequence[int]
    threads: int

    @property
    def labels(self) -> list[str]:
        return (
            [prompt_label(n) for n in self.prompts]
            + [generation_label(self.n_gen, depth) for depth in self.depths]
            + [batched_label(self.n_gen, n) for n in self.sequences]
        )


def prompt_label(n_prompt: int) -> str:
    return f"pp{n_prompt}"


def generation_label(n_gen: int, depth: int) -> str:
    return f"tg{n_gen} @ {depth}"


def batched_label(n_gen: int, sequences: int) -> str:
    return f"tg{n_gen} x {sequences}"


@dataclass(frozen=True)
class Command:
    """One process, the tests it is asked for, and how its output becomes tokens per second by test."""

    argv: list[str]
    labels: list[str]
    read: Callable[[str], Rates]


@dataclass(frozen=True)
class Run:
    """An engine's turn in a round: tokens per second by test, and the machine meanwhile."""

    rates: Rates
    seconds: float
    bandwidth: float
    others: float
    """Share of the processors' time that other processes took."""


@dataclass
class Engine:
    """``runs`` has one for each round; ``discarded`` those that other processes disturbed."""

    name: str
    commands: list[Command]
    runs: list[Run] = field(default_factory=list)
    discarded: list[Run] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    version: str = "unknown"

    def run(self, plan: Plan, timeout: float) -> Run:
        """Every command once, between two probes of the bandwidth."""
        before = _cpu.read_bandwidth(BANDWIDTH_BYTES, plan.threads)
        start, (all_busy, own_busy) = time.monotonic(), busy_seconds()
        rates: Rates = {}
        for command in self.commands:
            rates |= self._rates(command, timeout)
        seconds, (all_after, own_after) = time.monotonic() - start, busy_seconds()
        others = max(0.0, (all_after - all_busy) - (own_after - own_busy)) / (seconds * (psutil.cpu_count() or 1))
        after = _cpu.read_bandwidth(BANDWIDTH_BYTES, plan.threads)
        return Run(rates, seconds, (before + after) / 2, others)

    def _rates(self, command: Command, timeout: float) -> Rates:
        """What a process measured; what it did not is in ``failures``."""
        try:
            done = subprocess.run(command.argv, capture_output=True, text=True, timeout=timeout, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            self.failures.append(str(error))
            return {}
        if done.returncode != 0:
            ending = " ".join(done.stderr.split()[-60:])
            self.failures.append(f"{shlex.join(command.argv)}: exit status {done.returncode}: {ending}")
            return {}
        if built := re.search(r'"build_commit": "([^"]+)",\s+"build_number": (\d+)', done.stdout):
            self.version = f"{built[1]} ({built[2]})"
        try:
            rates = command.read(done.stdout)
        except (ValueError, KeyError) as error:
            self.failures.append(f"{shlex.join(command.argv)}: unreadable output: {error!r}")
            return {}
        if missing := [label for label in command.labels if label not in rates]:
            self.failures.append(f"{shlex.join(command.argv)}: no result for {', '.join(missing)}")
        return rates

    def rates(self, label: str) -> list[float | None]:
        return [run.rates.get(label) for run in self.runs]

    def median(self, label: str) -> float | None:
        known = [rate for rate in self.rates(label) if rate is not None]
        return statistics.median(known) if known else None


def busy_seconds() -> tuple[float, float]:
    """Processor time of the whole machine, and of this process and its children."""
    machine_times, own = psutil.cpu_times(), os.times()
    idle = machine_times.idle + getattr(machine_times, "iowait", 0.0)
    return sum(machine_times) - idle, sum(own[:4])


# --- the engines ---


def bench_rates(output: str) -> Rates:
    """llama-bench's rows, Stride's and ik_llama.cpp's too; the latter puts a depth into n_prompt (its -gp tests)."""
    rates = {}
    for row in json.loads(output):
        n_prompt, n_gen, rate = int(row["n_prompt"]), int(row["n_gen"]), float(row["avg_ts"])
        depth = int(row["n_depth"]) if "n_depth" in row else (n_prompt if n_gen else 0)
        rates[generation_label(n_gen, depth) if n_gen else prompt_label(n_prompt)] = rate
    return rates


def batched_rates(output: str) -> Rates:
    """The JSON lines of llama-batched-bench, and of batched.py."""
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return {batched_label(int(row["tg"]), int(row["pl"])): float(row["speed_tg"]) for row in rows}


def bench_commands(argv: list[str], plan: Plan) -> list[Command]:
    """llama-bench's lists, Stride's too, in two processes: with -d, prompts would be measured at every depth."""
    shallow = single_depth(argv, plan)
    commands = [shallow] if shallow.labels else []
    if deep := [depth for depth in plan.depths if depth]:
        options = ["-p", "0", "-n", str(plan.n_gen), "-d", ",".join(map(str, deep))]
        labels = [generation_label(plan.n_gen, depth) for depth in deep]
        commands.append(Command([*argv, *options], labels, bench_rates))
    return commands


def single_depth(argv: list[str], plan: Plan) -> Command:
    """All that starts from an empty context."""
    prompts = ",".join(map(str, plan.prompts)) or "0"
    n_gen = plan.n_gen if 0 in plan.depths else 0
    labels = [prompt_label(n) for n in plan.prompts] + ([generation_label(n_gen, 0)] if n_gen else [])
    return Command([*argv, "-p", prompts, "-n", str(n_gen)], labels, bench_rates)


def batched_command(argv: list[str], plan: Plan) -> Command:
    return Command(argv, [batched_label(plan.n_gen, n) for n in plan.sequences], batched_rates)


def stride_engine(plan: Plan, flags: list[str]) -> Engine:
    model = ["-m", plan.model, "-t", str(plan.threads)]
    commands = bench_commands([sys.executable, "-m", "stride", "speed", *model, "-r", "1", "-o", "json", *flags], plan)
    if plan.sequences:
        argv = [sys.executable, str(Path(__file__).with_name("batched.py")), *model, "-p", str(BATCHED_PROMPT)]
        argv += ["-n", str(plan.n_gen), "--sequences", ",".join(map(str, plan.sequences))]
        commands.append(batched_command(argv, plan))
    return Engine("stride", commands)


def llama_engine(plan: Plan, bench: str, batched: str | None, flags: list[str]) -> Engine:
    model = ["-m", plan.model, "-t", str(plan.threads), *flags]
    commands = bench_commands([bench, *model, "-r", "1", "-o", "json"], plan)
    if batched and plan.sequences:
        context = max(plan.sequences) * (BATCHED_PROMPT + plan.n_gen)
        argv = [batched, *model, "-npp", str(BATCHED_PROMPT), "-ntg", str(plan.n_gen), "-c", str(context)]
        argv += ["-npl", ",".join(map(str, plan.sequences)), "--output-format", "jsonl"]
        commands.append(batched_command(argv, plan))
    return Engine("llama.cpp", commands)


def ik_engine(plan: Plan, bench: str, flags: list[str]) -> Engine:
    model = ["-m", plan.model, "-t", str(plan.threads), *flags]
    command = single_depth([bench, *model, "-r", "1", "-o", "json"], plan)
    argv, labels = list(command.argv), list(command.labels)
    for depth in filter(None, plan.depths):
        argv += ["-gp", f"{depth},{plan.n_gen}"]
        labels.append(generation_label(plan.n_gen, depth))
    return Engine(" ".join(["ik_llama.cpp", *flags]), [Command(argv, labels, bench_rates)])


# --- the run and its report ---


def shares(engine: Engine, plan: Plan, work: Work, peaks: Sequence[float]) -> dict[str, float]:
    """Median over rounds of what an engine reached: prompts of the integer peak, generation of the bandwidth."""

    def median(label: str, limits: Sequence[float]) -> None:
        parts = [rate / limit for rate, limit in zip(engine.rates(label), limits, strict=True) if rate is not None]
        if parts:
            found[label] = statistics.median(parts)

    found: dict[str, float] = {}
    for n in plan.prompts:
        median(prompt_label(n), [peak / work.prompt_macs(n) for peak in peaks])
    for depth in plan.depths:
        n_bytes = work.generation_bytes[depth]
        median(generation_label(plan.n_gen, depth), [run.bandwidth / n_bytes for run in engine.runs])
    return found


def paired_ratio(label: str, engine: Engine, peer: Engine) -> Summary | None:
    """Of the rounds in which both have a rate: the median ratio and its bootstrap interval."""
    pairs = zip(engine.rates(label), peer.rates(label), strict=True)
    return summarize([a / b for a, b in pairs if a is not None and b is not None])


def wait_for_calm(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and psutil.cpu_percent(interval=2) > 100 * CALM:
        pass


def run_rounds(
    engines: list[Engine], plan: Plan, rounds: int, timeout: float, patience: float
) -> tuple[list[float], list[float]]:
    """Fill the engines' runs; (multiply-adds per second at the peak, load average) of each round.

    With patience, a run that others disturbed is discarded and repeated; after ``ATTEMPTS`` it counts all the same.
    """
    peaks, loads = [], []
    for number in range(rounds):
        wait_for_calm(patience)
        peaks.append(_cpu.integer_peak(choose_isa(), plan.threads))
        loads.append(os.getloadavg()[0])
        turn = number % len(engines)
        for engine in engines[turn:] + engines[:turn]:
            for attempt in range(1, ATTEMPTS + 1):
                wait_for_calm(patience)
                run = engine.run(plan, timeout)
                print(f"round {number + 1}, {engine.name}, {describe(run, plan)}", file=sys.stderr, flush=True)
                if run.others <= CALM or not patience or attempt == ATTEMPTS:
                    engine.runs.append(run)
                    break
                engine.discarded.append(run)
    return peaks, loads


def describe(run: Run, plan: Plan) -> str:
    rates = ", ".join(f"{label} {show(run.rates.get(label))}" for label in plan.labels)
    return f"{run.seconds:.0f} s, {run.bandwidth / 1e9:.1f} GB/s, others {run.others:.0%}: {rates}"


def show(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.1f}"


def show_ratio(summary: Summary | None) -> str:
    return "-" if summary is None else f"{summary.median:.2f} [{summary.low:.2f}, {summary.high:.2f}]"


def print_table(engines: list[Engine], plan: Plan, shared: dict[str, dict[str, float]]) -> None:
    peers = engines[1:]
    print("\n| test | " + " | ".join(engine.name for engine in engines), end="")
    print("".join(f" | stride / {peer.name}" for peer in peers) + " |")
    print("| --- |" + " ---: |" * (len(engines) + len(peers)))
    for label in plan.labels:
        cells = []
        for engine in engines:
            share = shared[engine.name].get(label)
            cells.append(show(engine.median(label)) + (f" ({share:.0%})" if share is not None else ""))
        cells += [show_ratio(paired_ratio(label, engines[0], peer)) for peer in peers]
        print(f"| {label} | " + " | ".join(cells) + " |")
    print(
        "\nMedian tokens per second; in parentheses the share of the limit: for pp the peak of int8 multiply-adds"
        "\nwould allow, for tg the read bandwidth over the bytes per token. Ratios: median of the rounds' ratios, 95 %"
        f"\nbootstrap interval. pp: prompt; tg{plan.n_gen} @ n: generation after n tokens; x n: n sequences together."
        "\n-: not measured."
    )


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--llama-bench", metavar="PATH")
    parser.add_argument("--llama-batched-bench", metavar="PATH", help="for --sequences")
    parser.add_argument("--ik-llama-bench", metavar="PATH")
    parser.add_argument("--stride-flags", type=shlex.split, default=[], metavar="FLAGS", help="more for stride speed")
    parser.add_argument(
        "--llama-flags", type=shlex.split, default=["-lm", "none"], metavar="FLAGS", help="default: -lm none"
    )
    parser.add_argument(
        "--ik-flags",
        type=shlex.split,
        action="append",
        metavar="FLAGS",
        help="more for ik's llama-bench; given twice, it runs twice. Default: -mmp 0",
    )
    parser.add_argument("-p", "--prompts", type=numbers, default=[16, 64, 512, 2048], metavar="N,…")
    parser.add_argument("-n", "--n-gen", type=int, default=32, metavar="N")
    parser.add_argument("-d", "--depths", type=numbers, default=[0, 4096], metavar="N,…")
    parser.add_argument("--sequences", type=numbers, default=[], metavar="N,…", help="sequences that decode together")
    parser.add_argument("-t", "--threads", type=int, default=default_threads(), metavar="N")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument(
        "--patience",
        type=float,
        default=0,
        metavar="SECONDS",
        help="wait so long for other processes to be quiet, and repeat what they disturbed",
    )
    parser.add_argument("--timeout", type=float, default=1800, metavar="SECONDS", help="for one process")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    plan = Plan(given.model, given.prompts, given.n_gen, given.depths, given.sequences, given.threads)
    engines = [stride_engine(plan, given.stride_flags)]
    if given.llama_bench:
        engines.append(llama_engine(plan, given.llama_bench, given.llama_batched_bench, given.llama_flags))
    if given.ik_llama_bench:
        engines += [ik_engine(plan, given.ik_llama_bench, flags) for flags in given.ik_flags or [["-mmp", "0"]]]
    work = read_work(plan.model, plan.depths, plan.n_gen)
    peaks, loads = run_rounds(engines, plan, given.rounds, given.timeout, given.patience)
    shared = {engine.name: shares(engine, plan, work, peaks) for engine in engines}
    runs = [run for engine in engines for run in engine.runs]
    bandwidths, others = [run.bandwidth for run in runs], [run.others for run in runs]
    n_discarded = sum(len(engine.discarded) for engine in engines)

    facts = machine()
    with open_gguf(model_path(plan.model)) as file:
        is_packed = packed.find(file.paths)[0] is not None
    print(f"{facts['cpu']}, {plan.threads} threads, {choose_isa()}; extension built by {_cpu.compiler}", end="; ")
    print(f"stride reads {'the packed copy' if is_packed else 'the file'}")
    for engine in engines:
        print(f"{engine.name}: build {engine.version}")
        for command in engine.commands:
            print(f"    {shlex.join(command.argv)}")
    print(f"bandwidth {min(bandwidths) / 1e9:.1f} to {max(bandwidths) / 1e9:.1f} GB/s", end="; ")
    print(f"integer peak {min(peaks) / 1e9:.0f} to {max(peaks) / 1e9:.0f} GMAC/s", end="; ")
    print(f"load average before each round {', '.join(f'{load:.1f}' for load in loads)}")
    print(
        f"other processes took {statistics.median(others):.0%} of the processors, at most {max(others):.0%}", end="; "
    )
    print(f"disturbed runs that were discarded: {n_discarded}")
    print_table(engines, plan, shared)
    for engine in engines:
        for failure in engine.failures:
            print(f"\nFAILED {engine.name}: {failure}")
    print(json.dumps({**report(engines, plan, work, peaks, loads, shared, facts), "packed_copy": is_packed}))


def report(
    engines: list[Engine],
    plan: Plan,
    work: Work,
    peaks: list[float],
    loads: list[float],
    shared: dict[str, dict[str, float]],
    facts: dict[str, Any],
) -> dict[str, Any]:
    def ratios(peer: Engine) -> dict[str, dict[str, float]]:
        found = ((label, paired_ratio(label, engines[0], peer)) for label in plan.labels)
        return {label: {"median": one.median, "low": one.low, "high": one.high} for label, one in found if one}

    return {
        "benchmark": "compare",
        "model": Path(plan.model).name,
        "machine": facts,
        "threads": plan.threads,
        "isa": choose_isa(),
        "compiler": _cpu.compiler,
        "bytes_per_token": dict(work.generation_bytes),
        "macs_per_token": work.token_macs,
        "peak_macs_per_second": peaks,
        "load_average": loads,
        "engines": [
            {
                "name": engine.name,
                "version": engine.version,
                "commands": [command.argv for command in engine.commands],
                "runs": [asdict(run) for run in engine.runs],
                "discarded": [asdict(run) for run in engine.discarded],
                "share_of_limit": shared[engine.name],
                "stride_ratio": None if engine is engines[0] else ratios(engine),
                "failures": engine.failures,
            }
            for engine in engines
        ],
    }


if __name__ == "__main__":
    main()

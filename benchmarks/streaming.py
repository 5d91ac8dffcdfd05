"""Experts streamed from disk under budgets of memory: speed beside what disk and memory allow. Ends in one JSON line.

    python benchmarks/streaming.py -m MODEL [--memory 4G,8G,12G] [-p 2048] [-n 32] [--llama-bench PATH]

Each budget has a process of its own, in a control group that gives it no more memory than that (and 3 %), where the
machine's control groups can be written. Printed are:

* the largest resident set, of the budget;
* generation, and its ceiling: the disk's rate (of the probe at the start) over the bytes that were missing per token,
  or the speed with all experts in memory (one token again and again, whose experts are all there), if that is less;
* a prompt, and the time to read once what it wanted and was missing, at the disk's rate.

With --llama-bench, llama.cpp runs the same prompt and generation with its memory map in a control group of the same
memory. Tokens are drawn by chance, so that experts are, too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from stride import LLM
from stride.gguf import open_gguf
from stride.memory import parse_size, size

CGROUPS = Path("/sys/fs/cgroup")
SPARE = 1.03


def memory_group(name: str, n_bytes: int) -> Path | None:
    """A control group with so much memory; None where none can be made."""
    for folder, limit in ((CGROUPS / "memory", "memory.limit_in_bytes"), (CGROUPS, "memory.max")):
        group = folder / name
        try:
            group.mkdir(exist_ok=True)
            (group / limit).write_text(str(n_bytes))
        except OSError:
            continue
        return group
    return None


def run_within(group: Path | None, command: list[str], timeout: float) -> str:
    """What a command prints, run in a control group."""

    def enter() -> None:
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=timeout, preexec_fn=enter)
    return done.stdout


def peak_bytes() -> int:
    """The largest resident set of this process so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    raise RuntimeError("the system does not say how large the resident set was")


def measure(model: str, memory: str, n_prompt: int, n_gen: int) -> dict[str, Any]:
    """One budget, in this process."""
    rng = np.random.default_rng(1)
    with LLM(model, memory=memory, n_ctx=n_prompt + 2 * n_gen + 64, cache_ram=0) as llm:
        session = llm.session(n_prompt + 2 * n_gen + 64)
        stream = getattr(llm.backend, "stream", None)
        n_vocab = llm.config.n_vocab

        def timed(token_ids: list[int]) -> float:
            start = time.perf_counter()
            for token_id in token_ids:
                session.feed([token_id])
            return time.perf_counter() - start

        def counts() -> np.ndarray:
            c = llm.streaming
            if c is None:
                return np.zeros(6)
            return np.array([c.hits, c.misses, c.read_bytes, c.waited_seconds, c.expected, c.came_true], float)

        result: dict[str, Any] = {"memory": memory, "budget": parse_size(memory), "streamed": llm.plan.streamed}
        if n_prompt:
            before, start = counts(), time.perf_counter()
            session.feed(rng.integers(0, n_vocab, n_prompt).tolist())
            result["prompt_seconds"] = time.perf_counter() - start
            spent = counts() - before
            result |= {"prompt_read_bytes": spent[2], "prompt_waited": spent[3], "prompt_misses": spent[1]}
        if n_gen:
            timed(rng.integers(0, n_vocab, max(8, n_gen // 2)).tolist())  # the cache of a run under way
            before = counts()
            result["token_seconds"] = timed(rng.integers(0, n_vocab, n_gen).tolist()) / n_gen
            spent = (counts() - before) / n_gen
            result |= {
                "hit_rate": spent[0] / max(1e-9, spent[0] + spent[1] + spent[5]),
                "token_read_bytes": spent[2],
                "token_waited": spent[3],
                "token_missed_experts": spent[1] + spent[5],
                "expected": spent[4],
                "came_true": spent[5],
            }
            session.rewind(n_prompt)
            timed([7])
            times = []
            for _ in range(8):
                session.rewind(n_prompt)
                times.append(timed([7]))
            result["resident_token_seconds"] = float(np.median(times))
        result["peak_bytes"] = peak_bytes()
        if stream is not None:
            result |= {
                "disk": stream.disk.bytes_per_second,
                "direct": stream.disk.direct,
                "readers": stream.disk.n_readers,
                "block_bytes": stream.disk.block_bytes,
                "n_experts": sum(layer[0].tensor.shape[0] for layer in stream.layers),
                "experts_bytes": sum(place.tensor.n_bytes for layer in stream.layers for place in layer),
            }
    return result


def forget_cached(model: str) -> None:
    """What the system's cache holds of the files; it counts for the control group that read it first."""
    with open_gguf(model) as parts:
        paths = parts.paths
    for path in paths:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def llama_bench(program: str, model: str, n_bytes: int, n_prompt: int, n_gen: int, timeout: float) -> dict[str, Any]:
    """llama.cpp's own benchmark, one run of each, in a control group of so much memory."""
    forget_cached(model)
    group = memory_group("stride-bench-peer", n_bytes)
    command = [program, "-m", model, "-p", str(n_prompt), "-n", str(n_gen), "-r", "1", "-t", str(os.cpu_count())]
    rows = json.loads(run_within(group, [*command, "-o", "json"], timeout))
    return {
        ("peer_prompt_seconds" if row["n_prompt"] else "peer_token_seconds"): row["avg_ns"]
        / 1e9
        / (1 if row["n_prompt"] else n_gen)
        for row in rows
    }


def describe(found: dict[str, Any]) -> str:
    """A budget's figures for people, with the ceilings that they are measured against."""
    lines = [
        f"{found['memory']}: resident set {size(found['peak_bytes'])}, {found['peak_bytes'] / found['budget']:.1%} of "
        f"the budget; experts {size(found['streamed'])}"
    ]
    disk = found.get("disk")
    if disk:
        lines.append(
            f"  disk {disk / 1e9:.2f} GB/s, {'past the cache' if found['direct'] else 'through the cache'}, "
            f"{found['readers']} readers of {found['block_bytes'] >> 10} KiB"
        )
    if "token_seconds" in found:
        rate = 1 / found["token_seconds"]
        ceiling = 1 / found["resident_token_seconds"]
        missed = found["token_missed_experts"] * found.get("experts_bytes", 0) / max(1, found.get("n_experts", 0))
        if disk and missed:
            ceiling = min(ceiling, disk / missed)
        found["of_ceiling"] = rate / ceiling
        resident = 1 / found["resident_token_seconds"]
        lines += [
            f"  generation {rate:.2f} tok/s, {rate / ceiling:.0%} of the ceiling of {ceiling:.2f}; all in memory "
            f"{resident:.2f} tok/s; {found['hit_rate']:.0%} hits, {found['token_read_bytes'] / 1e6:.0f} MB a token,",
            f"  {1e3 * found['token_waited']:.0f} of {1e3 * found['token_seconds']:.0f} ms waited; "
            f"{found['came_true']:.1f} of {found['expected']:.1f} expected came true",
        ]
    if "prompt_seconds" in found:
        once = found["prompt_read_bytes"] / disk if disk else 0.0
        lines.append(
            f"  prompt {found['prompt_seconds']:.2f} s; reading {found['prompt_read_bytes'] / 1e9:.2f} GB once "
            f"{once:.2f} s; waited {found['prompt_waited']:.2f} s"
        )
    if "peer_token_seconds" in found and "token_seconds" in found:
        lines.append(
            f"  llama.cpp {1 / found['peer_token_seconds']:.3f} tok/s: "
            f"{found['peer_token_seconds'] / found['token_seconds']:.1f}x"
        )
    if "peer_prompt_seconds" in found:
        lines.append(f"  llama.cpp prompt {found['peer_prompt_seconds']:.1f} s")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--memory", default="4G,8G", help="budgets, with commas between")
    parser.add_argument("-p", "--n-prompt", type=int, default=2048)
    parser.add_argument("-n", "--n-gen", type=int, default=32)
    parser.add_argument("--llama-bench", help="that program of llama.cpp")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for each process")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(measure(args.model, args.memory, args.n_prompt, args.n_gen)))
        return
    results = []
    for memory in args.memory.split(","):
        budget = parse_size(memory)
        command = [sys.executable, __file__, "--worker", "-m", args.model, "--memory", memory]
        command += ["-p", str(args.n_prompt), "-n", str(args.n_gen)]
        group = memory_group("stride-bench", int(SPARE * budget))
        found = json.loads(run_within(group, command, args.timeout).splitlines()[-1])
        found["limited"] = group is not None
        if args.llama_bench:
            found |= llama_bench(args.llama_bench, args.model, budget, args.n_prompt, args.n_gen, args.timeout)
        results.append(found)
        print(describe(found), flush=True)
    print(json.dumps({"benchmark": "streaming", "model": args.model, "results": results}))


if __name__ == "__main__":
    main()

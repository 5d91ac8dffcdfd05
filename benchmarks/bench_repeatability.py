"""Whether `stride bench` says the same twice: pairs of short measurements of the same targets, and how often their
intervals overlap.

    python benchmarks/bench_repeatability.py FOLDER -- -m X.gguf --launch 'llama-server -m X.gguf --port {port}'

What follows ``--`` is given to `stride bench`. Every measurement starts its servers anew and is kept in FOLDER; called
again, this goes on from there, so that a machine need not be free for all of it at once (``--seconds``). One JSON line
for each target and figure: of how many pairs the intervals overlap, the same for any two of all measurements, and the
variation of medians between measurements beside that of the repeats within one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from stride.bench.measures import MEASURES, Measure
from stride.bench.statistics import Summary
from stride.bench.store import Store

HEADLINES = ("generation", "prompt", "first_token")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5, help="of each measurement")
    parser.add_argument("--test", default="speed")
    parser.add_argument("--seconds", type=float, help="begin no measurement that would end later")
    parser.add_argument("bench", nargs="+", metavar="ARGUMENT", help="of stride bench: the targets")
    given = parser.parse_args()
    folders = [given.folder / f"{number:03}" for number in range(2 * given.pairs)]
    began, longest = time.monotonic(), 0.0
    for folder in folders:
        if folder.exists():
            continue
        started = time.monotonic()
        if given.seconds is not None and started - began + longest > given.seconds:
            break
        measure(folder, ["--test", given.test, "--repeats", str(given.repeats), *given.bench])
        longest = max(longest, time.monotonic() - started)
    for result in overlaps([Store.open(folder) for folder in folders if folder.exists()]):
        print(json.dumps(result))


def measure(folder: Path, arguments: Sequence[str]) -> None:
    """A short measurement, as anybody would make it. It does not go into the history."""
    history = {**os.environ, "STRIDE_HISTORY": os.fspath(folder.parent / "history.sqlite3")}
    partial = folder.with_suffix(".partial")  # an interrupted one has its report too
    command = [sys.executable, "-m", "stride", "bench", "--out", os.fspath(partial), *arguments]
    done = subprocess.run(command, env=history, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: status {done.returncode}: {done.stderr[-2000:]}")
    partial.rename(folder)


def overlaps(stores: Sequence[Store]) -> list[dict[str, object]]:
    found = []
    for index, target in enumerate(stores[0].results.targets if stores else ()):
        for key in HEADLINES:
            measure, targets = MEASURES[key], [store.results.targets[index] for store in stores]
            values = [measure.values(target) for target in targets]
            found.append({"target": target.label, "figure": key, **_row(measure, values)})
    return found


def _row(measure: Measure, values: Sequence[Sequence[float]]) -> dict[str, object]:
    summaries = [found for repeats in values if (found := measure.summarize(repeats))]
    pairs = list(zip(summaries[::2], summaries[1::2], strict=False))
    any_two = list(itertools.combinations(summaries, 2))
    medians = [found.median for found in summaries]
    widths = [(found.high - found.low) / found.median for found in summaries]
    between = statistics.stdev(medians) / statistics.mean(medians) if len(medians) > 1 else 0.0
    return {
        "pairs": len(pairs),
        "overlap": sum(itertools.starmap(overlap, pairs)),
        "any_two": len(any_two),
        "any_two_overlap": round(sum(itertools.starmap(overlap, any_two)) / max(1, len(any_two)), 3),
        "median": measure.write(statistics.median(medians)),
        "interval_width_percent": round(100 * statistics.median(widths), 2),
        "between_percent": round(100 * between, 2),
        "within_percent": round(100 * statistics.median(found.variation or 0.0 for found in summaries), 2),
    }


def overlap(first: Summary, second: Summary) -> bool:
    return first.low <= second.high and second.low <= first.high


if __name__ == "__main__":
    main()

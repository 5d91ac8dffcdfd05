"""Whether `stride bench`'s client and the servers themselves measured the same: both speeds of every answer.

    stride bench --launch 'llama-server -m X.gguf --port {port}' --test speed --repeats 30 --out DIR
    python benchmarks/bench_agreement.py DIR --within 0.02

Generation speed is compared answer by answer, where the server tells its own: client's over server's, less one, both
meant as (n - 1) tokens over the time since the first. One JSON line for each target, of all folders together; status 1
where an answer is off by more than ``--within``, or where there is nothing to compare.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from stride.bench.findings import agreement
from stride.bench.results import Run
from stride.bench.store import Store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="what --out was")
    parser.add_argument("--within", type=float, default=0.02)
    given = parser.parse_args()
    runs: dict[str, list[Run]] = {}
    for folder in given.folders:
        for target in Store.open(folder).results.targets:
            runs.setdefault(target.label, []).extend(run for run in target.runs if run.counted)
    rows = [row(label, counted) for label, counted in runs.items()]
    for found in rows:
        print(json.dumps(found))
    if any(not found["answers"] or found["worst_percent"] > 100 * given.within for found in rows):
        sys.exit(1)


def row(label: str, counted: Sequence[Run]) -> dict[str, float | str]:
    gaps = agreement(counted)
    times = [run.reply.times.end for run in counted if run.reply.times.end is not None]
    return {
        "target": label,
        "answers": len(gaps),
        "in_bursts": sum(run.decode_rate is None for run in counted),
        "median_seconds": round(statistics.median(times), 2) if times else 0.0,
        "median_percent": round(100 * statistics.median(gaps), 3) if gaps else 0.0,
        "lowest_percent": round(100 * min(gaps), 3) if gaps else 0.0,
        "highest_percent": round(100 * max(gaps), 3) if gaps else 0.0,
        "worst_percent": round(100 * max(map(abs, gaps)), 3) if gaps else 0.0,
    }


if __name__ == "__main__":
    main()

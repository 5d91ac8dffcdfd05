"""What each sandbox of this machine costs: to start an empty Python program in it, and to watch it. One JSON line each.

    python benchmarks/sandbox.py --starts 30

``start_ms`` is beyond starting the same program without a sandbox; ``watching_percent`` is of one core.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable

from stride.bench.sandbox import available, launch, workspace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=30)
    parser.add_argument("--watch-seconds", type=float, default=3.0)
    given = parser.parse_args()
    python = [os.fspath(launch.PYTHON), "-I", "-S", "-c"]
    for sandbox in available.SANDBOXES:
        if fault := available.probe(sandbox):
            print(json.dumps({"sandbox": sandbox.name, "fault": fault}))
            continue
        with workspace() as folder:
            plain, inside = [], []
            for _ in range(given.starts):  # taking turns, so that a busy machine is as busy for both
                plain.append(timed(lambda: subprocess.run([*python, "pass"], check=True)))
                inside.append(timed(functools.partial(sandbox.run, [*python, "pass"], folder)))
            with sandbox.start([*python, "import time; time.sleep(3600)"], folder):
                before = time.process_time()
                time.sleep(given.watch_seconds)
                watching = (time.process_time() - before) / given.watch_seconds
        result = {
            "sandbox": sandbox.name,
            "start_ms": round(1000 * (statistics.median(inside) - statistics.median(plain)), 1),
            "plain_start_ms": round(1000 * statistics.median(plain), 1),
            "watching_percent": round(100 * watching, 1),
            "processes_on_the_machine": sum(name.isdigit() for name in os.listdir("/proc")),
        }
        print(json.dumps(result))


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()

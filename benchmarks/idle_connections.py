"""How long /health takes beside thousands of connections that say nothing. Ends in one JSON line.

    python benchmarks/idle_connections.py --connections 10000

starts `stride serve` with the demo model, opens the connections and asks over fresh ones.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import socket
import statistics
import subprocess
import sys
import time

import httpx
import psutil


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--asks", type=int, default=200)
    given = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    process = subprocess.Popen(
        [sys.executable, "-m", "stride", "serve", "--port", "0"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    port, idle = 0, []
    try:
        for line in process.stderr:
            if found := re.search(r"listening on http://127\.0\.0\.1:(\d+)", line):
                port = int(found[1])
            if "ready in" in line:
                break
        before = psutil.Process(process.pid).memory_full_info().uss
        started = time.perf_counter()
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(given.connections)]
        opened = time.perf_counter() - started
        times = []
        for _ in range(given.asks):
            started = time.perf_counter()
            assert httpx.get(f"http://127.0.0.1:{port}/health", timeout=30).status_code == 200
            times.append(1e3 * (time.perf_counter() - started))
        after = psutil.Process(process.pid).memory_full_info().uss
    finally:
        for connection in idle:
            connection.close()
        process.terminate()
        process.wait(timeout=60)
    times.sort()
    result = {
        "connections": given.connections,
        "open_seconds": round(opened, 2),
        "health_ms_median": round(statistics.median(times), 2),
        "health_ms_p99": round(times[int(0.99 * (len(times) - 1))], 2),
        "health_ms_max": round(times[-1], 2),
        "kib_per_connection": round((after - before) / 1024 / given.connections, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

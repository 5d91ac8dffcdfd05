"""How far beyond its limits hostile code gets before it is stopped, in each sandbox of this machine, as JSON lines.

    python benchmarks/sandbox_limits.py --times 5

Limits are kept by looking, many times a second: between two looks, code that tries gets further. ``worst`` and
``median`` are what it had when nothing of it was left, of so many attempts with the default limits (of time: 1 s).
Output beyond the limit is never taken; counted there is what the code got rid of.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stride.bench.sandbox import Ended, Limit, Limits, Sandbox, available, launch, workspace
from stride.bench.sandbox.limits import MIB

LIMITS = Limits(seconds=10)


@dataclass(frozen=True)
class Attack:
    """Code bounded in itself, should the sandbox fail; ``reached`` tells from outside how far it got."""

    limit: Limit
    code: str
    reached: Callable[[Ended, Path], float]
    allowed: float
    limits: Limits = LIMITS


def lines(ended: Ended, folder: Path) -> float:
    return ended.output.count("\n")


def kept(ended: Ended, folder: Path) -> float:
    return sum(1 for _ in folder.iterdir())


def kept_mib(ended: Ended, folder: Path) -> float:
    return sum(path.stat().st_blocks * 512 for path in folder.iterdir()) / MIB


def counted_mib(ended: Ended, folder: Path) -> float:
    return int((folder / "count").read_text()) / MIB


ATTACKS = (
    Attack(
        "memory",
        """
import os
held = []
for _ in range(2048):
    held.append(b"x" * (1 << 20))
    os.write(1, b"\\n")
""",
        lines,
        LIMITS.memory_bytes / MIB,
    ),
    Attack(
        "processes",
        """
import os, select, time
until = time.monotonic() + 3
tickets, box = os.pipe()
os.write(box, b"x" * 2000)
while time.monotonic() < until:
    if select.select([tickets], [], [], 0.1)[0]:
        os.read(tickets, 1)
        try:
            if not os.fork(): os.write(1, b"\\n")
        except OSError: time.sleep(0.01)
""",
        lines,
        LIMITS.processes,
    ),
    Attack(
        "files",
        """
for number in range(50_000):
    open(str(number), "w").close()
""",
        kept,
        LIMITS.disk_files,
    ),
    Attack(
        "disk",
        """
block = b"x" * (1 << 20)
for number in range(64):
    with open(str(number), "wb", buffering=0) as file:
        for _ in range(32): file.write(block)
""",
        kept_mib,
        LIMITS.disk_bytes / MIB,
    ),
    Attack(
        "output",
        """
import os
count = os.open("count", os.O_CREAT | os.O_RDWR)
for number in range(1, 1 << 16):
    os.write(1, b"x" * 4096)
    os.pwrite(count, str(4096 * number).encode(), 0)
""",
        counted_mib,
        LIMITS.output_bytes / MIB,
    ),
    Attack(
        "time",
        """
import signal, time
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    try: signal.signal(number, signal.SIG_IGN)
    except OSError: pass
until = time.monotonic() + 30
while time.monotonic() < until: pass
""",
        lambda ended, folder: ended.seconds,
        1.0,
        Limits(seconds=1),
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    given = parser.parse_args()
    for sandbox in available.SANDBOXES:
        if fault := available.probe(sandbox):
            print(json.dumps({"sandbox": sandbox.name, "fault": fault}))
            continue
        for attack in ATTACKS:
            reached = [attempt(sandbox, attack) for _ in range(given.times)]
            found = {"allowed": attack.allowed, "worst": max(reached), "median": statistics.median(reached)}
            rounded = {name: round(value, 2) for name, value in found.items()}
            print(json.dumps({"sandbox": sandbox.name, "limit": attack.limit, **rounded}), flush=True)


def attempt(sandbox: Sandbox, attack: Attack) -> float:
    """How far it got; an error if another limit stopped it, or none."""
    with workspace() as folder:
        ended = sandbox.run([os.fspath(launch.PYTHON), "-I", "-S", "-c", attack.code], folder, attack.limits)
        if ended.limit != attack.limit:
            raise RuntimeError(f"{sandbox.name}, {attack.limit}: it ended otherwise: {ended}")
        return attack.reached(ended, folder)


if __name__ == "__main__":
    main()

"""What the measurement ran on: the manifest that makes a figure worth comparing."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import psutil

from stride import __version__

INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve")
FINGERPRINT_BYTES = 1 << 20


def cpu_name() -> str:
    """The processor's marketing name, or the architecture where the system does not tell."""
    for line in _cpuinfo():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Hardware") and value.strip():
            return value.strip()
    if platform.system() == "Darwin":
        found = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        )
        if found.stdout.strip():
            return found.stdout.strip()
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """Processor, memory, system and software, as plain data; sizes in bytes."""
    memory = psutil.virtual_memory()
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    return {
        "cpu": cpu_name(),
        "architecture": platform.machine(),
        "cores_physical": psutil.cpu_count(logical=False),
        "cores_logical": psutil.cpu_count(),
        "cores_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count(),
        "instruction_sets": instruction_sets(),
        "memory_bytes": memory.total,
        "memory_available_bytes": memory.available,
        "load_average": list(os.getloadavg()),
        "power": None if battery is None else ("mains" if battery.power_plugged else "battery"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "stride": __version__,
    }


def instruction_sets() -> list[str]:
    """Those of `INSTRUCTION_SETS` that the processor reports (Linux only; empty elsewhere)."""
    for line in _cpuinfo():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            flags = value.split()
            return [name for name in INSTRUCTION_SETS if name in flags]
    return []


def fingerprint(paths: list[Path]) -> str:
    """SHA-256 over each part's size and first MiB: tells files apart without reading a hundred gigabytes."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(path.stat().st_size.to_bytes(8, "little"))
            digest.update(file.read(FINGERPRINT_BYTES))
    return digest.hexdigest()


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text("utf-8", "replace").splitlines() if path.exists() else []

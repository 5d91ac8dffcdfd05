"""What a machine and a model allow: the fastest integer kernel, bytes per generated token, work per prompt token."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stride import _cpu
from stride.gguf import QuantType
from stride.gguf.quants import quantize

BANDWIDTH_BYTES = 256 << 20
"""What bandwidth is probed on: more than any cache of a machine that one person owns."""


class KernelProbe:
    """Multiply-adds per second of the fastest integer kernel, on weights that stay in cache: near the integer peak.

    There is no probe of the bare instruction; this figure is a lower bound of the machine's peak.
    """

    ROWS, COLUMNS, TOKENS, SECONDS = 512, 4096, 64, 0.4

    def __init__(self, threads: int) -> None:
        rng = np.random.default_rng(0)
        self._engine = _cpu.engine(_cpu.isas()[0], threads)
        self._weights = []
        for kind in (QuantType.IQ4_XS, QuantType.Q8_0):
            weight = _cpu.weight(kind, 1, self.ROWS, self.COLUMNS)
            weight.pack(0, 0, quantize(rng.standard_normal((self.ROWS, self.COLUMNS), np.float32), kind))
            self._weights.append(weight)
        self._x = rng.standard_normal((self.TOKENS, self.COLUMNS), np.float32)

    def measure(self) -> float:
        shortest = float("inf")
        end = time.perf_counter() + self.SECONDS
        while time.perf_counter() < end:
            for weight in self._weights:
                start = time.perf_counter()
                self._engine.linear(self._x, (weight,), None)
                shortest = min(shortest, time.perf_counter() - start)
        return self.ROWS * self.COLUMNS * self.TOKENS / shortest


@dataclass(frozen=True)
class Work:
    """What the model asks of the machine: bytes per generated token at each depth, multiply-adds of weights."""

    generation_bytes: Mapping[int, int]
    token_macs: float
    head_macs: float

    def prompt_macs(self, n_prompt: int) -> float:
        """Per token; logits are computed for the last one only. The products of attention are not counted."""
        return self.token_macs + self.head_macs / n_prompt


def read_work(model: str, depths: Sequence[int], n_gen: int) -> Work:
    """From what ``stride inspect`` says of the model."""
    generation_bytes = {}
    for depth in sorted({0, *depths}):
        argv = [sys.executable, "-m", "stride", "inspect", "--json", "-c", str(depth + n_gen), model]
        done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True)
        facts = json.loads(done.stdout)
        memory = facts["memory"]
        cache = memory["cache_full_layers"] + memory["cache_window_layers"]
        generation_bytes[depth] = memory["read_per_token"] + cache
    weights = {role["label"]: role["weights"] for role in facts["roles"]}
    metadata, architecture = facts["metadata"], facts["model"]["architecture"]
    experts = metadata.get(f"{architecture}.expert_count", 1)
    used = metadata.get(f"{architecture}.expert_used_count", 1) / experts
    head = weights.get("output head", weights["token embedding"])
    apart = ("token embedding", "output head", "norms", "draft layers", "routed experts")
    dense = sum(n for role, n in weights.items() if role not in apart)
    return Work(generation_bytes, dense + used * weights.get("routed experts", 0), head)

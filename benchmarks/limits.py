"""What a model asks of a machine: bytes per generated token, multiply-adds per prompt token."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BANDWIDTH_BYTES = 256 << 20
"""What bandwidth is probed on: more than any cache of a machine that one person owns."""


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

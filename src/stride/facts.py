"""What there is to say about a model that is loaded, for people and reports."""

from __future__ import annotations

import math
from typing import Any

from stride import estimate, memory
from stride.experts import saved
from stride.gguf import census
from stride.load import Loaded
from stride.ops.api import StreamCounts
from stride.ops.bandwidth import read_bandwidth
from stride.ops.machine import Machine


def notes(loaded: Loaded) -> list[str]:
    """What people should know about how a model was loaded, such as types that were converted."""
    found = list(loaded.backend.notes)
    asked = loaded.options.n_ctx
    if asked and asked > loaded.plan.n_ctx:
        found.append(f"the context is {loaded.plan.n_ctx} tokens, all that the model was made for")
    return found


def expectation(loaded: Loaded) -> str | None:
    """How fast a model whose experts stay on disk will be, and why; None where all are in memory. Measures a moment.

    Raises:
        StrideError: what is known of the model's routing cannot be read.
    """
    counts, shape = loaded.backend.streaming, loaded.config.experts
    if counts is None or shape is None:
        return None
    bandwidth, threads = read_bandwidth()
    machine = Machine(bandwidth, None, counts.disk_rate, disk_is_direct=True, threads=threads)
    needs = estimate.read_needs(loaded.file, loaded.config, loaded.backend)
    found = estimate.of_plan(needs, loaded.plan, machine, saved.load(shape))
    return (
        f"expected {found.generation:.2g} tok/s: {found.limit}-bound ({counts.disk_rate / 1e9:.1f} GB/s from disk, "
        f"{bandwidth / 1e9:.0f} GB/s from memory, {found.hit_rate:.0%} hits"
        + ("" if found.is_hit_rate_known else " if all experts are wanted alike")
        + ")"
        + _of_packing(counts, threads)
    )


def _of_packing(counts: StreamCounts, threads: int) -> str:
    """What a packed copy would save: it lies on disk as it does in memory."""
    if math.isinf(counts.pack_rate):
        return ""
    cores = min(1.0, counts.disk_rate / (counts.pack_rate * threads))
    n_bytes = counts.n_experts * counts.slot_bytes
    return f"; a packed copy (stride pack, {memory.size(n_bytes)} for experts) would save {cores:.0%} of the processor"


def info(loaded: Loaded) -> dict[str, Any]:
    """Facts for reports and `/props`."""
    config, plan = loaded.config, loaded.plan
    tensors = loaded.file.tensors.values()
    return {
        "name": config.name,
        "path": str(loaded.path),
        "architecture": config.architecture,
        "quantization": census.grouped(tensors, lambda tensor: tensor.type.label)[0].label,
        "n_vocab": config.n_vocab,
        "n_embd": config.n_embd,
        "n_ctx": plan.n_ctx,
        "n_ctx_train": config.context_length,
        "n_params": sum(math.prod(tensor.shape) for tensor in tensors),
        "file_bytes": loaded.file.n_bytes,
        "kv_bytes": plan.cache,
        "kv_type": plan.kv_type,
        "drafting": loaded.drafting.told,
        "n_parallel": plan.n_parallel,
        "n_batch": loaded.engine.config.chunk,
        "backend": loaded.backend.name,
        "n_threads": loaded.backend.n_threads,
    }

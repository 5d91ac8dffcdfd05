"""How fast a model will run on a machine, before it is there: from its head, and from what the machine can do.

A generated token reads the weights that it uses, and its keys and values: that takes their bytes over the rate at which
memory is read, or, for routed experts that are not in memory, over the rate of the disk, whichever is longer. A prompt
multiplies: that takes its multiply-adds over the rate of int8 products, or reading each expert that it uses
once for each chunk. The shares of those rates that Stride reaches are constants, measured (docs/performance.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stride import memory
from stride.engine import EngineConfig
from stride.errors import InsufficientMemoryError
from stride.experts.saved import Saved
from stride.gguf import GGUFFile
from stride.gguf.census import Work, work
from stride.memory import Experts, Memory, Plan, Wishes
from stride.models.config import ModelConfig
from stride.ops.api import Backend
from stride.ops.machine import Machine

MEMORY_SHARE = 0.88
"""Of the rate at which memory is read, what generation reaches."""
PRODUCTS_SHARE = 0.54
"""Of the rate of int8 products, what prompts reach."""
FLOAT_SHARE = 0.2
"""Multiply-adds of attention, which are of floats, over those of int8 at their peak."""
LAYER_SECONDS = 15e-6
"""A layer of a step beyond its bytes and products: calls, barriers, small operations."""
PROMPT = 2048
"""Tokens of the prompt that is estimated."""
ERROR = 0.2
"""Share by which estimates were off at most where they were compared with what was measured."""

Mode = Literal["resident", "streamed", "too large"]


@dataclass(frozen=True, slots=True)
class Needs:
    """A model as its head describes it: what it takes, and what one token of it asks for."""

    config: ModelConfig
    file_bytes: int
    weights: int
    work: Work


@dataclass(frozen=True, slots=True)
class Estimate:
    """What to expect.

    Attributes:
        mode: all weights in memory, routed experts from disk, or not at all.
        plan: how memory is used; None where it is too little.
        reason: what is lacking, where it is.
        hit_rate: share of the routed experts that a token finds in memory.
        is_hit_rate_known: from a trace that was replayed here; else all experts are taken to be equally likely.
        generation: tokens per second of one sequence at the beginning of its context; None: nothing is known.
        generation_full: the same at the end of it.
        prompt: tokens per second of a prompt of ``prompt_tokens``.
        limit: what generation is limited by.
    """

    mode: Mode
    plan: Plan | None
    reason: str = ""
    hit_rate: float = 1.0
    is_hit_rate_known: bool = False
    generation: float | None = None
    generation_full: float | None = None
    prompt: float | None = None
    prompt_tokens: int = PROMPT
    limit: Literal["memory", "disk", ""] = ""


def read_needs(file: GGUFFile, config: ModelConfig, backend: Backend) -> Needs:
    """From a model's head; no weight is read."""
    weights = backend.held_bytes(*file.tensors.values())
    return Needs(config, file.n_bytes, weights, work(file, backend.held_bytes))


def make(needs: Needs, wishes: Wishes, available: Memory, machine: Machine, known: Saved | None = None) -> Estimate:
    """Plan a model's memory as loading it would, and say how fast it will be then."""
    try:
        plan = memory.plan(needs.config, needs.weights, wishes, EngineConfig().chunk, available, _experts(needs))
    except InsufficientMemoryError as error:
        return Estimate("too large", None, str(error))
    return of_plan(needs, plan, machine, known)


def of_plan(needs: Needs, plan: Plan, machine: Machine, known: Saved | None = None) -> Estimate:
    """How fast a model will be that runs as planned."""
    hit_rate, is_known = _hit_rate(needs, plan, known)
    missed = needs.work.routed_bytes * (1 - hit_rate)
    start = _generation_seconds(needs, plan, machine, 0)
    end = _generation_seconds(needs, plan, machine, plan.n_ctx)
    from_disk = missed / machine.disk
    tokens = min(PROMPT, plan.n_ctx)
    prompt = _prompt_seconds(needs, plan, machine, tokens)
    return Estimate(
        mode="streamed" if plan.streamed else "resident",
        plan=plan,
        hit_rate=hit_rate,
        is_hit_rate_known=is_known,
        generation=1 / max(start, from_disk),
        generation_full=1 / max(end, from_disk),
        prompt=None if prompt is None else tokens / prompt,
        prompt_tokens=tokens,
        limit="disk" if from_disk > start else "memory",
    )


def _experts(needs: Needs) -> Experts | None:
    shape = needs.config.experts
    if shape is None:
        return None
    return Experts(needs.work.expert_bytes, shape.n_keys, needs.work.largest_expert, max(2, shape.top_k))


def _hit_rate(needs: Needs, plan: Plan, known: Saved | None) -> tuple[float, bool]:
    """Share of a token's routed experts that are in memory, and whether a trace says so."""
    shape = needs.config.experts
    if shape is None or not plan.streamed:
        return 1.0, False
    n_slots = min(plan.streamed // needs.work.largest_expert, shape.n_keys)
    return (n_slots / shape.n_keys, False) if known is None else (known.hit_rate(n_slots), True)


def _generation_seconds(needs: Needs, plan: Plan, machine: Machine, depth: int) -> float:
    """Of one token after ``depth`` others, with all its weights in memory."""
    config, rate = needs.config, machine.bandwidth * MEMORY_SHARE
    weights = (needs.work.other_bytes + needs.work.routed_bytes) / rate
    seen = [min(depth, layer.window or depth) for layer in config.layers]
    pages = zip(config.layers, seen, strict=True)
    cache = sum(
        n * layer.n_kv_heads * (layer.key_dim + layer.value_dim) * memory.BYTES_PER_VALUE[plan.kv_type]
        for layer, n in pages
    )
    attention = cache / rate
    if machine.products is not None:
        products = sum(n * _attention_products(config, i) for i, n in enumerate(seen))
        attention = max(attention, products / (machine.products * FLOAT_SHARE))
    return weights + attention + LAYER_SECONDS * len(config.layers)


def _prompt_seconds(needs: Needs, plan: Plan, machine: Machine, tokens: int) -> float | None:
    """Of a prompt; None where nothing is known of the machine's products."""
    if machine.products is None:
        return None
    config, work, n_steps = needs.config, needs.work, -(-tokens // plan.chunk)
    products = tokens * (work.products - work.last_products) + work.last_products + work.head_products
    attended = sum(
        _pairs(tokens, layer.window) * _attention_products(config, i) for i, layer in enumerate(config.layers)
    )
    computing = products / (machine.products * PRODUCTS_SHARE) + attended / (machine.products * FLOAT_SHARE)
    experts = work.expert_bytes * _used_by(config, min(tokens, plan.chunk))  # read by a step
    reading = n_steps * (work.other_bytes + experts) / (machine.bandwidth * MEMORY_SHARE)
    from_disk = n_steps * experts / machine.disk if plan.streamed else 0.0
    return max(computing, reading, from_disk) + n_steps * LAYER_SECONDS * len(config.layers)


def _used_by(config: ModelConfig, tokens: int) -> float:
    """Share of all experts that one of some tokens uses, if all are equally likely."""
    shape = config.experts
    return 0.0 if shape is None else 1 - (1 - shape.top_k / shape.n_experts) ** tokens


def _attention_products(config: ModelConfig, index: int) -> int:
    """Multiply-adds of one token with one other, in one layer."""
    layer = config.layers[index]
    return layer.n_heads * (layer.key_dim + layer.value_dim)


def _pairs(tokens: int, window: int | None) -> int:
    """Of a token and one that it looks at, itself among them."""
    seen = min(tokens, window or tokens)
    return seen * (seen + 1) // 2 + (tokens - seen) * seen

"""How much the engine does at once, and what it tells of itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from stride.errors import RequestError
from stride.ops.api import KVType
from stride.types import SamplingParams

LOGITS_BYTES = 64 << 20
"""Memory of a step's logits after the tokens of prompts, where those are wanted."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How much the engine does at once.

    Attributes:
        n_ctx: tokens of each sequence at most, prompt and output together.
        n_parallel: sequences computed together.
        chunk: tokens computed per step, prompts' included.
        kv_type: how keys and values are stored.
        max_queue: requests that may wait beyond the ``n_parallel`` in work.
        queue_seconds: how long one may wait.
        request_seconds: how long one may take, waiting and all.
        draft_max: tokens drafted for a sequence at a time, at most, where the engine has a drafter.
        cache_bytes: memory for earlier prompts and answers, beyond what the sequences in work can come to need (whose
            memory is used too while they need it not); 0: nothing is kept but for requests of one group.
        cache_dir: a folder that keeps them across restarts.
        cache_identity: what must be equal for them to be of use after one: names the model, and what computes it.
    """

    n_ctx: int = 8192
    n_parallel: int = 4
    chunk: int = 512
    kv_type: KVType = "f16"
    max_queue: int = 64
    queue_seconds: float = math.inf
    request_seconds: float = math.inf
    draft_max: int = 8
    cache_bytes: int = 0
    cache_dir: Path | None = None
    cache_identity: str = ""

    def __post_init__(self) -> None:
        for name, least in (
            ("n_ctx", 2),
            ("n_parallel", 1),
            ("chunk", 1),
            ("max_queue", 0),
            ("draft_max", 0),
            ("cache_bytes", 0),
        ):
            if getattr(self, name) < least:
                raise RequestError(f"{name} is {getattr(self, name)}, but must be at least {least}", field=name)


@dataclass(frozen=True, slots=True)
class EngineMetrics:
    """Counters since the start, and what is going on now. Pages are per cache group.

    ``prompt_tokens`` were computed, ``cached_tokens`` of prompts were not. ``busy_pages`` are held by requests,
    ``cached_pages`` are kept for later ones; a page can be both.
    """

    queued: int
    running: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    busy_pages: tuple[int, ...]
    cached_pages: tuple[int, ...]
    total_pages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SlotState:
    """A request that is running: its place, how far it has come, and how it is sampled."""

    slot: int
    n_prompt: int
    n_computed: int
    n_generated: int
    n_remaining: int
    params: SamplingParams

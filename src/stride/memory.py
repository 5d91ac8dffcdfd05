"""What a model needs and what there is: the plan made before loading, and whether a request may start later.

Weights are read into memory; the cache of keys and values is address space, whose pages are touched as tokens come. A
plan leaves room for all of them. When memory falls short nonetheless, because other programs came, requests wait.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import ClassVar, Literal

import psutil

from stride.engine.config import LOGITS_BYTES
from stride.engine.kv import pages_per_sequence
from stride.errors import InsufficientMemoryError, RequestError
from stride.models.config import DRAFT_LAG, DenseConfig, ModelConfig, MoeConfig
from stride.ops.api import PAGE_TOKENS, KVType
from stride.types import GRAMMAR_BYTES

WEIGHT_OVERHEAD = 1.03
"""Memory of packed weights over their size in the file, at most."""
PROGRAM_BYTES = 80 << 20
"""Memory of the interpreter and its libraries."""
WORKER_BYTES = 16 << 20
"""Memory of the process that renders chat templates."""
TOKEN_BYTES = 640
"""Memory of one token of a vocabulary: its bytes, its merge, its places in the tokenizer's tables and the grammars'."""
STATES, WIDTHS = 6, 2
"""Rows of a token's hidden size, and of its feed-forward's, that a step holds at once."""
LOGITS_COPIES = 4
"""Rows as long as the vocabulary that choosing a token takes besides its logits."""
SPARE_BYTES = 64 << 20
"""Memory that requests leave untouched when they start."""
DEFAULT_CONTEXT = 8192
"""Tokens of context per sequence where the caller names none (less where the model was trained on less)."""
DEFAULT_PARALLEL = 4
"""Sequences computed together, where the caller leaves it to the plan and memory allows it."""
DEFAULT_PREFIXES = 8 << 30
"""Memory for keys and values of earlier requests, where the caller names none and half of what is left is more."""
LEAST_CONTEXT = 512
"""Tokens of context below which a plan is refused, unless they were asked for."""
CONTEXT_STEP = 256
"""Contexts that a plan chooses are multiples of this."""
STREAM_CHUNKS = ({4096: 0.75, 2048: 0.5}, {1024: 0.0, 512: 0.0})
"""Tokens computed per step where experts are streamed, as each step of a prompt reads all its experts; and the share of
what weights that are always in memory leave that experts must get then. The second ones where no first one fits."""
STREAM_MARGIN = 1 << 30
"""Memory that streaming leaves to the rest of the machine where nobody says how much it may take."""
STREAM_PREFIXES = 16
"""Keys and values of earlier requests get one in so many of the bytes that experts could have."""
BYTES_PER_VALUE: dict[KVType, float] = {"f32": 4.0, "f16": 2.0, "q8_0": 34 / 32}
RECENT_SECONDS = 0.02
"""Age at which what the system says of its memory is asked anew."""
CGROUPS = Path("/sys/fs/cgroup")


UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str) -> int:
    """Bytes from ``16G``, ``16GiB``, ``1.5 gb`` or a plain number; units are powers of 1024.

    Raises:
        RequestError: it is none of those.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)I?B?\s*", text.upper())
    if found is None:
        raise RequestError(f"{text!r} is no size: write 16G or 900M", field="memory")
    return int(float(found[1]) * UNITS[found[2]])


# --- what there is ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory that this process may use, in bytes: what is free or can be freed, and all there is."""

    available: int
    total: int


def machine_memory() -> Memory:
    """Of the machine, or of the container where that has less."""
    system = psutil.virtual_memory()
    limits = [Memory(system.available, system.total), *cgroup_limits(_own_cgroups(), CGROUPS)]
    return Memory(min(limit.available for limit in limits), min(limit.total for limit in limits))


def within(memory: Memory, budget: int | None) -> Memory:
    """As if there were no more than a budget."""
    return memory if budget is None else Memory(min(memory.available, budget), min(memory.total, budget))


def cgroup_limits(memberships: str, root: Path) -> Iterator[Memory]:
    """Limits of the control groups that a process is in, and of those around them.

    Args:
        memberships: what ``/proc/self/cgroup`` says: lines of ``id:controllers:path``.
        root: where the groups are mounted; version 1 has the memory controller in a folder of its own.
    """
    for line in memberships.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            names, base = ("memory.max", "memory.current", "inactive_file"), root
        elif "memory" in controllers.split(","):
            names, base = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"), root / "memory"
        else:
            continue
        inner = base / path.lstrip("/")
        for folder in (inner, *inner.parents):
            if (limit := _cgroup_limit(folder, *names)) is not None:
                yield limit
            if folder == base:
                break


def _cgroup_limit(folder: Path, limit_name: str, usage_name: str, reclaimable_name: str) -> Memory | None:
    """The limit of one group; None where there is none, or no such group is to be seen from in here."""
    try:
        limit = (folder / limit_name).read_text().strip()
        usage = int((folder / usage_name).read_text())
        counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    if limit == "max":
        return None
    return Memory(max(0, int(limit) - usage + int(counts.get(reclaimable_name, 0))), int(limit))


def _own_cgroups() -> str:
    try:
        return Path("/proc/self/cgroup").read_text()
    except OSError:  # no Linux
        return ""


# --- what is needed ---------------------------------------------------------------------------


def page_bytes(config: ModelConfig, kind: KVType) -> tuple[int, ...]:
    """Bytes of one page of each cache group, over all its layers."""

    def layer_bytes(heads: int, dims: int) -> int:
        return int(PAGE_TOKENS * heads * dims * BYTES_PER_VALUE[kind])

    return tuple(
        sum(
            layer_bytes(layer.n_kv_heads, layer.key_dim + layer.value_dim)
            for layer in (*config.layers, *config.draft_layers)
            if layer.window == window
        )
        for window in config.windows
    )


def cache_bytes(config: ModelConfig, n_ctx: int, kind: KVType, chunk: int) -> int:
    """Bytes of keys and values that one sequence of ``n_ctx`` tokens comes to hold, ``chunk`` tokens at a time."""
    return sum(
        n_bytes * pages_per_sequence(span, n_ctx, chunk)
        for span, n_bytes in zip(config.spans, page_bytes(config, kind), strict=True)
    )


def split_cache(config: ModelConfig, n_ctx: int, kind: KVType, chunk: int) -> tuple[int, int]:
    """`cache_bytes` of the layers that see everything, and of those with a window."""
    layers, draft_layers = (
        tuple(layer for layer in some if layer.window is None) for some in (config.layers, config.draft_layers)
    )
    full = dataclasses.replace(config, layers=layers, draft_layers=draft_layers)
    whole = cache_bytes(config, n_ctx, kind, chunk)
    seeing_all = cache_bytes(full, n_ctx, kind, chunk)
    return seeing_all, whole - seeing_all


def working_bytes(config: ModelConfig, n_parallel: int, chunk: int, n_drafts: int = 0) -> int:
    """Memory beyond weights, keys and values, at most: what the program itself takes, what the vocabulary takes in
    tokenizer and grammars, a step's activations and logits, with ``n_drafts`` tokens drafted for each sequence, and the
    states that draft heads have yet to read."""
    row = 4 * config.n_vocab
    logits = n_parallel * (1 + n_drafts) * row + LOGITS_COPIES * row + LOGITS_BYTES
    held = 4 * len(config.draft_layers) * config.n_embd * (chunk + n_parallel * DRAFT_LAG)
    program = PROGRAM_BYTES + WORKER_BYTES + GRAMMAR_BYTES + TOKEN_BYTES * config.n_vocab
    return program + step_bytes(config, chunk) + logits + held


def step_bytes(config: ModelConfig, chunk: int) -> int:
    """A step's activations, at most."""
    width = max(_width(layer.ffn) for layer in (*config.layers, *config.draft_layers))
    return 4 * chunk * (STATES * config.n_embd + WIDTHS * width)


def _width(ffn: DenseConfig | MoeConfig) -> int:
    """Of all that a feed-forward computes for one token."""
    return ffn.width if isinstance(ffn, DenseConfig) else ffn.top_k * ffn.width + ffn.shared_width


@dataclass(frozen=True, slots=True)
class Experts:
    """A model's routed experts: what all ``count`` of them take in memory, what one takes as a slot where they are
    streamed, how many slots one token needs at least, and what streaming leaves to the rest of the machine."""

    n_bytes: int
    count: int
    slot_bytes: int
    least: int
    margin: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model is to be run, and the memory that takes in bytes; ``prefixes`` are for earlier prompts, ``draft`` is
    a draft model's, which ``drafting`` names or whatever else drafts.

    Attributes:
        chunk: tokens computed per step.
        streamed: memory for routed experts where they stay on disk, which ``weights`` are without then; 0: all weights
            are in memory.
    """

    n_ctx: int
    n_parallel: int
    kv_type: KVType
    weights: int
    cache: int
    working: int
    available: int
    prefixes: int = 0
    chunk: int = 512
    streamed: int = 0
    draft: int = 0
    drafting: str = ""

    @property
    def packing(self) -> int:
        """Of weights beyond their size in the file, at most."""
        return round(self.weights * (WEIGHT_OVERHEAD - 1))

    @property
    def needed(self) -> int:
        """All of it, at most."""
        return self.weights + self.packing + self.cache + self.working + self.streamed + self.draft

    def __str__(self) -> str:
        experts = f"routed experts {size(self.streamed)} (the others stay on disk), " if self.streamed else ""
        return (
            f"memory: {size(self.needed)} of {size(self.available)} available: weights {size(self.weights)}, {experts}"
            f"keys and values {size(self.cache)}, "
            + (f"the draft model {size(self.draft)}, " if self.draft else "")
            + f"working memory {size(self.packing + self.working)} at most\n"
            f"context: {self.n_ctx} tokens for each of {self.n_parallel} at a time, "
            f"keys and values as {self.kv_type}; earlier ones kept in up to {size(self.prefixes)} more"
            + (f"\ndrafting: {self.drafting}" if self.drafting else "")
        )


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a caller wants of a plan; what is left open is chosen to fit.

    Attributes:
        n_ctx: tokens of context per sequence; None is `DEFAULT_CONTEXT`, or less where that does not fit; 0 is all that
            the model was trained on, or what fits of it.
        n_parallel: sequences computed together; None is `DEFAULT_PARALLEL`, or less where that does not fit.
        kv_type: how keys and values are kept; "auto" is f16, or q8_0 where that alone fits.
        prefixes: bytes for keys and values of earlier requests, at most; None is `DEFAULT_PREFIXES`, or half of what
            the rest leaves; -1 is all that it leaves.
        n_drafts: tokens drafted for a sequence at a time.
        draft_model: the configuration of a model that drafts, and the bytes of its weights.
    """

    n_ctx: int | None = None
    n_parallel: int | None = None
    kv_type: KVType | Literal["auto"] = "auto"
    prefixes: int | None = None
    n_drafts: int = 0
    draft_model: tuple[ModelConfig, int] | None = None


def plan(
    config: ModelConfig, weights: int, wishes: Wishes, chunk: int, memory: Memory, experts: Experts | None = None
) -> Plan:
    """The best plan that fits: first fewer sequences at a time, then smaller keys and values, then less context.

    Where ``experts`` can be streamed, they are rather than that the context is less than half of what is wanted.

    Raises:
        InsufficientMemoryError: none does. Says what is needed, what there is, and what would fit.
    """
    kinds: list[KVType] = ["f16", "q8_0"] if wishes.kv_type == "auto" else [wishes.kv_type]
    counts = range(DEFAULT_PARALLEL, 0, -1) if wishes.n_parallel is None else [wishes.n_parallel]
    trained = config.context_length
    n_ctx = trained if wishes.n_ctx == 0 else min(wishes.n_ctx or DEFAULT_CONTEXT, trained)

    def planned(n_ctx: int, n_parallel: int, kind: KVType) -> Plan:
        return _with_weights(config, weights, wishes, memory, n_ctx, n_parallel, kind, chunk)

    def shortened(n_parallel: int, kind: KVType) -> Plan | None:
        """With the longest context that fits."""
        least, most = 0, n_ctx // CONTEXT_STEP
        while least < most:  # the need grows with the context
            middle = (least + most + 1) // 2
            if planned(middle * CONTEXT_STEP, n_parallel, kind).needed <= memory.available:
                least = middle
            else:
                most = middle - 1
        return planned(least * CONTEXT_STEP, n_parallel, kind) if least * CONTEXT_STEP >= LEAST_CONTEXT else None

    for kind in kinds:
        for n_parallel in counts:
            if (whole := planned(n_ctx, n_parallel, kind)).needed <= memory.available:
                return _with_prefixes(whole, wishes.prefixes)
    smallest = planned(n_ctx, min(counts), kinds[-1])
    less = None if wishes.n_ctx else shortened(smallest.n_parallel, smallest.kv_type)
    # Experts that take less than the margin are no reason to leave one.
    worthwhile = experts is not None and experts.n_bytes > experts.margin
    if experts is not None and worthwhile and (less is None or 2 * less.n_ctx < n_ctx):
        spared = Memory(memory.available - experts.margin, memory.total)
        return _plan_streamed(config, weights, experts, wishes, n_ctx, spared)
    if less is not None:
        return _with_prefixes(less, wishes.prefixes)
    raise InsufficientMemoryError(
        f"{size(smallest.needed)} are needed (weights {size(weights)}, keys and values {size(smallest.cache)} for "
        f"{smallest.n_parallel} × {n_ctx} tokens as {smallest.kv_type}), {size(memory.available)} are available; "
        + _remedy(smallest, shortened),
        could_ever_fit=smallest.needed <= memory.total,
    )


def _with_weights(
    config: ModelConfig,
    weights: int,
    wishes: Wishes,
    memory: Memory,
    n_ctx: int,
    n_parallel: int,
    kind: KVType,
    chunk: int,
) -> Plan:
    """The plan that such choices make, whether it fits or not."""
    cache = n_parallel * cache_bytes(config, n_ctx, kind, chunk)
    working = working_bytes(config, n_parallel, chunk, wishes.n_drafts)
    draft = 0
    if wishes.draft_model is not None:
        smaller, n_bytes = wishes.draft_model
        draft = round(n_bytes * WEIGHT_OVERHEAD) + step_bytes(smaller, chunk)
        draft += n_parallel * cache_bytes(smaller, n_ctx, kind, chunk + wishes.n_drafts)
    return Plan(n_ctx, n_parallel, kind, weights, cache, working, memory.available, chunk=chunk, draft=draft)


def _plan_streamed(
    config: ModelConfig, weights: int, experts: Experts, wishes: Wishes, n_ctx: int, memory: Memory
) -> Plan:
    """The best plan with routed experts on disk: what all else leaves is for those in memory.

    Raises:
        InsufficientMemoryError: it is too little for one token. Says what would do.
    """
    kinds: list[KVType] = ["f16", "q8_0"] if wishes.kv_type == "auto" else [wishes.kv_type]
    counts = range(DEFAULT_PARALLEL, 0, -1) if wishes.n_parallel is None else [wishes.n_parallel]
    least, resident = experts.least * experts.slot_bytes, weights - experts.n_bytes

    def planned(n_ctx: int, n_parallel: int, kind: KVType, chunk: int) -> Plan:
        bare = _with_weights(config, resident, wishes, memory, n_ctx, n_parallel, kind, chunk)
        left = memory.available - bare.needed
        prefixes = min(DEFAULT_PREFIXES, max(0, left - least) // STREAM_PREFIXES)
        if wishes.prefixes is not None and wishes.prefixes >= 0:
            prefixes = min(wishes.prefixes, max(0, left - least))
        slots = min((left - prefixes) // experts.slot_bytes, experts.count)
        return dataclasses.replace(bare, prefixes=prefixes, streamed=slots * experts.slot_bytes)

    contexts = [n_ctx]
    while not wishes.n_ctx and contexts[-1] // 2 >= LEAST_CONTEXT:
        contexts.append(contexts[-1] // 2)
    left = memory.available - resident * WEIGHT_OVERHEAD
    choices: list[Plan] = []
    for chunks in STREAM_CHUNKS:
        for context, kind, n_parallel in itertools.product(contexts, kinds, counts):
            for chunk, share in chunks.items():
                choices.append(planned(context, n_parallel, kind, chunk))
                if choices[-1].streamed >= max(least, min(experts.n_bytes, share * left)):
                    return choices[-1]
    chosen = max(choices, key=lambda one: one.streamed)
    if chosen.streamed < least:
        smallest = min(choices, key=lambda one: one.needed - one.streamed)
        needed = smallest.needed - smallest.streamed + least
        raise InsufficientMemoryError(
            f"{size(memory.available)} are too little even with routed experts streamed from disk: {_at_least(needed)} "
            f"would do (weights {size(smallest.weights + smallest.packing)}, one token's experts {size(least)}, "
            f"keys and values {size(smallest.cache)} for {smallest.n_parallel} × {smallest.n_ctx} tokens as "
            f"{smallest.kv_type}, working memory {size(smallest.working)})",
            could_ever_fit=needed <= memory.total,
        )
    return chosen


def _with_prefixes(chosen: Plan, wish: int | None) -> Plan:
    """A plan that gives some of what it leaves to the keys and values of earlier requests."""
    left = chosen.available - chosen.needed
    most = min(DEFAULT_PREFIXES, left // 2) if wish is None else left if wish < 0 else wish
    return dataclasses.replace(chosen, prefixes=min(most, left))


def _remedy(refused: Plan, shortened: Callable[[int, KVType], Plan | None]) -> str:
    """What would fit instead: the first of more and more that is given up."""
    tries: list[tuple[int, KVType]] = [
        (refused.n_parallel, refused.kv_type),
        (1, refused.kv_type),
        (refused.n_parallel, "q8_0"),
        (1, "q8_0"),
    ]
    for n_parallel, kind in dict.fromkeys(tries):
        if (less := shortened(n_parallel, kind)) is not None:
            several = f" with --parallel {less.n_parallel}" if less.n_parallel != refused.n_parallel else ""
            smaller = f" and keys and values as {kind}" if kind != refused.kv_type else ""
            return f"a context of {less.n_ctx} (-c {less.n_ctx}){several}{smaller} fits"
    return "only a smaller model, or a smaller quantisation of it, fits"


def size(n_bytes: int) -> str:
    """A number of bytes for people."""
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"


def _at_least(n_bytes: int) -> str:
    """As `size`, but rounded up: so much is enough."""
    step = 2**30 // 10 + 1 if n_bytes >= 2**30 else 2**20
    return size(-(-n_bytes // step) * step)


# --- while it runs ----------------------------------------------------------------------------


class _Recent:
    """`machine_memory` as it was a moment ago: asking the system takes longer than all else that an answer does."""

    def __init__(self, ask: Callable[[], Memory] = machine_memory) -> None:
        self._ask = ask
        self._found = Memory(0, 0)
        self._at = -math.inf

    def __call__(self) -> Memory:
        now = perf_counter()
        if now - self._at > RECENT_SECONDS:
            self._found, self._at = self._ask(), now
        return self._found


class Room:
    """Answers an engine whether its requests may start: what all engines of this process still come to touch must fit.

    Called with the pages of each cache group that were never touched and that the engine's requests may come to touch,
    a new one among them. True is a promise, which the engine's next call replaces.
    """

    _promised: ClassVar[dict[Room, int]] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, config: ModelConfig, kind: KVType, memory: Callable[[], Memory] | None = None) -> None:
        self._page_bytes = page_bytes(config, kind)
        self._memory = memory or _Recent()

    def __call__(self, fresh_pages: Sequence[int]) -> bool:
        wanted = sum(n * count for n, count in zip(self._page_bytes, fresh_pages, strict=True))
        with self._lock:
            others = sum(self._promised.values()) - self._promised.get(self, 0)
            if wanted and wanted + others + SPARE_BYTES > self._memory().available:
                return False
            self._promised[self] = wanted
            return True

    def close(self) -> None:
        """Take the promises back."""
        with self._lock:
            self._promised.pop(self, None)

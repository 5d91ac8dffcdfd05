"""The measurement itself: every task on every target, repeat by repeat."""

from __future__ import annotations

import math
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol

import psutil

from stride.bench.client import Reply, ask
from stride.bench.graders import Grade
from stride.bench.memory import Memory, MemorySampler
from stride.bench.targets import Endpoint, ModelFile, Target, TargetError
from stride.bench.tasks import SPEED, Task

WARM_UP_TOKENS = 32
CACHED_TOKENS_ALLOWED = 8
"""The template's own first tokens stand before the nonce, and a server may rightly know them."""


@dataclass(frozen=True, slots=True)
class Run:
    """One request. ``repeat`` 0 is the warm-up. ``fault`` is why its figures do not count."""

    target: str
    task: str
    repeat: int
    seed: int
    nonce: str
    started: str
    reply: Reply
    grade: Grade | None
    fault: str | None

    @property
    def counted(self) -> bool:
        return self.fault is None and self.repeat > 0

    @property
    def prompt_tokens(self) -> int | None:
        return self._count("prompt_tokens", "prompt_n")

    @property
    def completion_tokens(self) -> int | None:
        return self._count("completion_tokens", "predicted_n")

    @property
    def cached_tokens(self) -> int:
        details = (self.reply.usage or {}).get("prompt_tokens_details") or {}
        return details.get("cached_tokens") or (self.reply.timings or {}).get("cache_n") or 0

    @property
    def decode_rate(self) -> float | None:
        """Tokens per second at the client: n - 1 tokens from the first arrival to the last.

        None for an answer that came in one piece, as some servers send tool calls: nobody saw its tokens pass.
        """
        n, times = self.completion_tokens, self.reply.times
        if n is None or n < 2 or self.reply.n_pieces < 2 or times.first_token is None or times.last_token is None:
            return None
        seconds = times.last_token - times.first_token
        return (n - 1) / seconds if seconds > 0 else None

    @property
    def prompt_rate(self) -> float | None:
        """The client's estimate: prompt tokens over the time to the first token, which holds more than the prompt."""
        n, first = self.prompt_tokens, self.reply.times.first_token
        return (n - self.cached_tokens) / first if n and first else None

    @property
    def server_decode_rate(self) -> float | None:
        return self._server_rate("predicted_per_second")

    @property
    def server_prompt_rate(self) -> float | None:
        return self._server_rate("prompt_per_second")

    def _count(self, usage_key: str, timings_key: str) -> int | None:
        """From the server's usage, or its timings where it sends no usage; never from chunks."""
        count = (self.reply.usage or {}).get(usage_key, (self.reply.timings or {}).get(timings_key))
        return count if isinstance(count, int) else None

    def _server_rate(self, key: str) -> float | None:
        rate = (self.reply.timings or {}).get(key)
        return float(rate) if isinstance(rate, int | float) and rate > 0 else None


@dataclass(slots=True)
class TargetResult:
    """All that is known of one target. ``error`` is why it could not be measured at all."""

    label: str
    url: str = ""
    model: str | None = None
    command: Sequence[str] = ()
    size_bytes: int | None = None
    ready_seconds: float | None = None
    props: dict[str, Any] = field(default_factory=dict)
    listed: dict[str, Any] = field(default_factory=dict)
    file: ModelFile | None = None
    memory: Memory | None = None
    runs: list[Run] = field(default_factory=list)
    error: str | None = None

    @property
    def measured(self) -> bool:
        return any(run.counted for run in self.runs)

    @property
    def kv_bytes(self) -> int | None:
        """Size of the KV cache as the server tells it."""
        size = self.props.get("kv_bytes")
        return size if isinstance(size, int) else None

    def counted(self, task: str) -> list[Run]:
        return [run for run in self.runs if run.task == task and run.counted]

    def values(self, task: str, figure: str) -> list[float]:
        """A figure of `Run` for each counted run of a task, where there is one, in order."""
        found = (getattr(run, figure) for run in self.counted(task))
        return [value for value in found if value is not None]


@dataclass(slots=True)
class Results:
    """Everything measured. ``repeats`` were wanted; ``time_is_up`` where there was no time for all of them.

    ``interleaved``: all targets were up at once and took turns, repeat by repeat.
    """

    targets: list[TargetResult]
    tasks: Sequence[Task]
    repeats: int
    interleaved: bool
    interrupted: bool = False
    time_is_up: bool = False


class Progress(Protocol):
    """Who watches."""

    def status(self, text: str) -> None:
        """What happens now."""

    def finished(self, run: Run) -> None:
        """A run is over, well or not."""


def measure(
    targets: Sequence[Target],
    tasks: Sequence[Task],
    repeats: int,
    progress: Progress,
    time_limit: float = math.inf,
) -> Results:
    """Warm each target up, then run each task ``repeats`` times. Ctrl-C ends it early and keeps what there is.

    After the first repeat, none begins that would not end within ``time_limit`` seconds if it took as long as the last.
    """
    entries = [TargetResult(target.label) for target in targets]
    together = _fit_together(targets)
    results = Results(entries, tasks, repeats, interleaved=together)
    pairs = list(zip(targets, entries, strict=True))
    try:
        for group in [pairs] if together else [[pair] for pair in pairs]:
            _measure_group(group, results, progress, time_limit)
    except KeyboardInterrupt:
        results.interrupted = True
    return results


def _measure_group(
    group: Sequence[tuple[Target, TargetResult]], results: Results, progress: Progress, time_limit: float
) -> None:
    began = time.perf_counter()
    with ExitStack() as stack:
        stations = []
        for target, result in group:
            try:
                endpoint = stack.enter_context(target.connect(progress.status))
            except TargetError as error:
                result.error = str(error)
                continue
            _note(endpoint, result)
            sampler = stack.enter_context(MemorySampler(endpoint.process)) if endpoint.process else None
            stations.append(_Station(endpoint, result, sampler, progress))
        _make_unique(results.targets)
        for station in stations:
            station.run(replace(SPEED, max_tokens=WARM_UP_TOKENS), 0)
        for repeat in range(1, results.repeats + 1):
            repeat_began = time.perf_counter()
            for task in results.tasks:
                for station in stations:
                    station.run(task, repeat)
            now = time.perf_counter()
            if repeat < results.repeats and (now - began) + (now - repeat_began) > time_limit:
                results.time_is_up = True
                break


@dataclass(slots=True)
class _Station:
    """A target that is up, and where its results go."""

    endpoint: Endpoint
    result: TargetResult
    sampler: MemorySampler | None
    progress: Progress

    def run(self, task: Task, repeat: int) -> None:
        what = "warm-up" if repeat == 0 else f"{task.name}, repeat {repeat}"
        self.progress.status(f"{self.result.label}: {what}")
        nonce, seed = secrets.token_hex(4), repeat
        started = datetime.now(UTC).isoformat(timespec="seconds")
        body = task.body(nonce=nonce, seed=seed, model=self.endpoint.model)
        reply = ask(self.endpoint.http, self.endpoint.chat_url, body)
        if reply.error is not None:
            reply = replace(reply, error=self.endpoint.obituary() or reply.error)
        grade = task.grade(reply.answer) if task.grade and reply.error is None else None
        run = Run(self.result.label, task.name, repeat, seed, nonce, started, reply, grade, None)
        run = replace(run, fault=_fault(run))
        self.result.runs.append(run)
        if self.sampler is not None:
            self.sampler.read_shared()
            self.result.memory = self.sampler.result()
        self.progress.finished(run)


def _fault(run: Run) -> str | None:
    if run.reply.error is not None:
        return run.reply.error
    if run.completion_tokens is None:
        return "the server reported no token counts, and chunks are no tokens"
    if run.cached_tokens > CACHED_TOKENS_ALLOWED:
        return f"contaminated: {run.cached_tokens} prompt tokens came from a cache"
    return None


def _note(endpoint: Endpoint, result: TargetResult) -> None:
    result.label = endpoint.label
    result.url = endpoint.url
    result.model = endpoint.model
    result.command = list(endpoint.command)
    result.size_bytes = endpoint.size_bytes
    result.ready_seconds = endpoint.ready_seconds
    result.props = dict(endpoint.props)
    result.listed = dict(endpoint.listed)
    result.file = endpoint.file


def _fit_together(targets: Sequence[Target]) -> bool:
    """Whether all models that we start ourselves fit in memory at once, with a tenth to spare."""
    return len(targets) < 2 or sum(target.n_bytes for target in targets) < 0.9 * psutil.virtual_memory().available


def _make_unique(results: Sequence[TargetResult]) -> None:
    """Number labels that occur twice."""
    seen: Counter[str] = Counter()
    for result in results:
        seen[result.label] += 1
        if seen[result.label] > 1:
            result.label += f" ({seen[result.label]})"

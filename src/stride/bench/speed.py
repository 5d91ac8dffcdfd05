"""llama-bench's measurement: prompt processing and generation on random tokens, in its JSON field names."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from stride import __version__
from stride.bench.machine import cpu_name
from stride.ops.profile import OperationTimes, Profiler

if TYPE_CHECKING:
    from stride.api import LLM
    from stride.ops.api import Backend


@dataclass(frozen=True, slots=True)
class Test:
    """One of: ``n_prompt`` tokens read, or ``n_gen`` tokens generated, after ``n_depth`` tokens of context."""

    n_prompt: int
    n_gen: int
    n_depth: int

    @property
    def label(self) -> str:
        parts = [f"pp{self.n_prompt}"] if self.n_prompt else []
        parts += [f"tg{self.n_gen}"] if self.n_gen else []
        return "+".join(parts) + (f" @ d{self.n_depth}" if self.n_depth else "")


@dataclass(frozen=True, slots=True)
class Result:
    """One row, in llama-bench's field names; rates are tokens per second, one sample per repeat."""

    build_commit: str
    build_number: int
    cpu_info: str
    gpu_info: str
    backends: str
    model_filename: str
    model_type: str
    model_size: int
    model_n_params: int
    n_batch: int
    n_ubatch: int
    n_threads: int
    type_k: str
    type_v: str
    n_gpu_layers: int
    n_prompt: int
    n_gen: int
    n_depth: int
    test_time: str
    avg_ns: int
    stddev_ns: int
    avg_ts: float
    stddev_ts: float
    samples_ns: tuple[int, ...]
    samples_ts: tuple[float, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def tests(prompts: Sequence[int], generations: Sequence[int], depths: Sequence[int]) -> list[Test]:
    """The tests that llama-bench makes of its -p, -n and -d lists."""
    made = [Test(n_prompt, 0, depth) for depth in depths for n_prompt in prompts if n_prompt]
    return made + [Test(0, n_gen, depth) for depth in depths for n_gen in generations if n_gen]


def measure(llm: LLM, test: Test, repeats: int, *, warm_up: bool = True) -> Result:
    """Run one test: a warm-up that is not counted, then ``repeats`` samples."""
    rng = np.random.default_rng(0)
    started = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if warm_up:
        next(_samples(llm, Test(min(test.n_prompt, 32), min(test.n_gen, 1), 0), rng))
    samples = _samples(llm, test, rng)
    nanoseconds = tuple(next(samples) for _ in range(repeats))
    n_tokens = test.n_prompt + test.n_gen
    rates = tuple(1e9 * n_tokens / ns for ns in nanoseconds)
    info = llm.info
    return Result(
        build_commit=f"stride {__version__}",
        build_number=0,
        cpu_info=cpu_name(),
        gpu_info="",
        backends=llm.backend.name,
        model_filename=info["path"],
        model_type=f"{info['architecture']} {info['name']}",
        model_size=info["file_bytes"],
        model_n_params=info["n_params"],
        n_batch=info["n_batch"],
        n_ubatch=info["n_batch"],
        n_threads=info["n_threads"],
        type_k=info["kv_type"],
        type_v=info["kv_type"],
        n_gpu_layers=0,
        n_prompt=test.n_prompt,
        n_gen=test.n_gen,
        n_depth=test.n_depth,
        test_time=started,
        avg_ns=round(statistics.mean(nanoseconds)),
        stddev_ns=round(statistics.stdev(nanoseconds)) if repeats > 1 else 0,
        avg_ts=statistics.mean(rates),
        stddev_ts=statistics.stdev(rates) if repeats > 1 else 0.0,
        samples_ns=nanoseconds,
        samples_ts=rates,
    )


def profile(llm: LLM, test: Test) -> tuple[float, dict[str, OperationTimes]]:
    """One run of a test after a warm-up: (seconds in all, times by operation)."""
    profiler = Profiler(llm.backend)
    samples = _samples(llm, test, np.random.default_rng(0), profiler.backend)
    next(samples)
    profiler.times.clear()
    return next(samples) / 1e9, profiler.times


def _samples(llm: LLM, test: Test, rng: np.random.Generator, backend: Backend | None = None) -> Iterator[int]:
    """Nanoseconds of one run after another; the context before the test is read once and kept."""
    session = llm.session(test.n_depth + test.n_prompt + test.n_gen, backend)
    n_vocab = llm.config.n_vocab

    def tokens(n: int) -> list[int]:
        ids: list[int] = rng.integers(0, n_vocab, n).tolist()
        return ids

    if test.n_depth:
        session.feed(tokens(test.n_depth), 0)
    while True:
        prompt, generated = tokens(test.n_prompt), tokens(test.n_gen)
        start = time.perf_counter_ns()
        if prompt:
            session.feed(prompt)
        for token in generated:
            session.feed((token,))
        yield time.perf_counter_ns() - start
        session.rewind(test.n_depth)

"""Every kernel at the shapes of Step 3.5 Flash: multiply-adds and bytes per second, medians of interleaved repeats.

    python benchmarks/kernels.py [--isa avx2] [--threads 2] [--quick] [--only attention]

Weights are random and lie in memory, in as many copies as no cache holds, one after the other. One token's products are
shown beside a loop that reads the same weights and does nothing else. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from stride import _cpu
from stride.bench.machine import cpu_name
from stride.gguf import QuantType
from stride.gguf.quants import dequantize, quantize
from stride.ops.api import PAGE_TOKENS, Batch, FloatArray, GatedFFN, KVType, Rope, Routing
from stride.ops.cpu import CpuBackend, default_threads

DIM, EXPERT_DIM, EXPERTS, TOP_K, HEAD_DIM, KV_HEADS = 4096, 1280, 288, 8, 128, 8
LINEAR = [
    (QuantType.IQ4_XS, EXPERT_DIM, DIM),
    (QuantType.IQ4_XS, DIM, EXPERT_DIM),
    (QuantType.Q8_0, 8192, DIM),
    (QuantType.Q8_0, 12288, DIM),
    (QuantType.Q4_K, EXPERT_DIM, DIM),
    (QuantType.Q6_K, EXPERT_DIM, DIM),
]
ATTENTION = [(64, None), (96, 512)]
"""(query heads, window): the full and the sliding layers."""
PROMPT = 512
UNCACHED_BYTES = 256 << 20
"""What several copies of a matrix come to, so that each is read from memory."""
CALL_SECONDS = 0.004
"""Shorter calls are repeated within a sample."""
SAMPLE_SECONDS = 1.0
"""Cases that take longer than this are sampled only twice."""

random = np.random.default_rng(0)


@dataclass
class Case:
    """One kernel at one shape: what a call computes and reads at least, and the seconds that calls took.

    ``read`` reads ``1 / read_share`` times the weights that a call needs, and does nothing else.
    """

    kernel: str
    shape: str
    call: Callable[[], object]
    macs: float
    n_bytes: float
    read: Callable[[], object] | None = None
    read_share: float = 1.0
    seconds: list[float] = field(default_factory=list)
    read_seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    @property
    def of_reading(self) -> float | None:
        """How fast the call is beside merely reading its weights, 1 being as fast; the median of paired samples."""
        if self.read is None:
            return None
        pairs = zip(self.read_seconds, self.seconds, strict=True)
        return float(np.median([self.read_share * read / call for read, call in pairs]))

    def sample(self) -> None:
        self.seconds.append(seconds_of(self.call))
        if self.read is not None:
            self.read_seconds.append(seconds_of(self.read))


def seconds_of(call: Callable[[], object]) -> float:
    """Of one call; the mean of several where one is short."""
    calls = 0
    start = time.perf_counter()
    while calls == 0 or time.perf_counter() - start < CALL_SECONDS:
        call()
        calls += 1
    return (time.perf_counter() - start) / calls


def normal(*shape: int) -> FloatArray:
    return random.standard_normal(shape, np.float32)


def filled(kind: QuantType, count: int, rows: int, columns: int) -> _cpu.Weight:
    """A weight whose rows repeat 256 random ones."""
    weight = _cpu.weight(kind, count, rows, columns)
    data = quantize(normal(256, columns), kind)
    for index, first in itertools.product(range(count), range(0, rows, 256)):
        weight.pack(index, first, data[: min(256, rows - first)])
    return weight


def linear_cases(backend: CpuBackend, tokens: list[int]) -> Iterator[Case]:
    for kind, rows, columns in LINEAR:
        size = rows * columns // kind.block_size * kind.block_bytes
        weights = itertools.cycle([filled(kind, 1, rows, columns) for _ in range(-(-UNCACHED_BYTES // size))])
        for n in tokens:
            x = normal(n, columns)

            def call(x: FloatArray = x, weights: Iterator[_cpu.Weight] = weights) -> None:
                backend.linear(x, (next(weights),))

            def read(weights: Iterator[_cpu.Weight] = weights) -> None:
                backend.read_through(next(weights))

            name = f"{kind.label} {rows}x{columns}, {n} tokens"
            yield Case("linear", name, call, n * rows * columns, size, read if n == 1 else None)


def expert_cases(backend: CpuBackend, tokens: list[int]) -> Iterator[Case]:
    """Routing is random and even; each call routes anew, so that one token's experts come from memory."""
    kind = QuantType.IQ4_XS
    up_shape, down_shape = (EXPERTS, EXPERT_DIM, DIM), (EXPERTS, DIM, EXPERT_DIM)
    routed = GatedFFN(filled(kind, *up_shape), filled(kind, *up_shape), filled(kind, *down_shape))
    expert_bytes = 3 * EXPERT_DIM * DIM // kind.block_size * kind.block_bytes

    def read_all() -> None:
        for weight in (routed.gate, routed.up, routed.down):
            backend.read_through(weight)

    for n in tokens:
        draws = [np.argsort(random.random((n, EXPERTS)), axis=1)[:, :TOP_K].astype(np.int32) for _ in range(16)]
        x, weights, turns = normal(n, DIM), np.full((n, TOP_K), 1 / TOP_K, np.float32), itertools.cycle(draws)

        def call(x: FloatArray = x, weights: FloatArray = weights, turns: Iterator[np.ndarray] = turns) -> None:
            backend.experts(x, next(turns), weights, routed, None)

        used = float(np.mean([len(np.unique(ids)) for ids in draws]))
        macs = n * TOP_K * 3 * EXPERT_DIM * DIM
        name = f"{kind.label} {TOP_K} of {EXPERTS}, {n} tokens"
        read = read_all if n == 1 else None
        yield Case("experts", name, call, macs, used * expert_bytes, read, TOP_K / EXPERTS)


def attention_cases(backend: CpuBackend, contexts: list[int], kinds: list[KVType]) -> Iterator[Case]:
    """One token, and a prompt's last ``PROMPT`` tokens, after the context; bytes are the keys and values seen."""
    pairs = HEAD_DIM // 2
    rope = Rope((10000.0 ** (-np.arange(pairs) / pairs)).astype(np.float32), "halves")
    for kind, context in itertools.product(kinds, contexts):
        n_pages = context // PAGE_TOKENS
        pool = backend.kv_pool(n_pages, KV_HEADS, HEAD_DIM, HEAD_DIM, kind)
        pages = random.permutation(n_pages).astype(np.int32)[None, :]
        width = KV_HEADS * HEAD_DIM
        for start in range(0, context, PROMPT):
            backend.rope_and_store(
                normal(PROMPT, width), normal(PROMPT, width), normal(PROMPT, width), q_norm=None, k_norm=None,
                epsilon=1e-5, rope=rope, pool=pool, page_table=pages, batch=last_tokens(start + PROMPT, PROMPT),
            )  # fmt: skip
        value_bytes = {"f16": 2, "q8_0": 34 / 32}[kind]
        for (heads, window), n in itertools.product(ATTENTION, (1, PROMPT)):
            batch, q, gate = last_tokens(context, n), normal(n, heads * HEAD_DIM), normal(n, heads)

            def call(
                batch: Batch = batch, q: FloatArray = q, gate: FloatArray = gate, window: int | None = window,
                pool: _cpu.KVPool = pool, pages: np.ndarray = pages,
            ) -> None:  # fmt: skip
                backend.attention(
                    q, pool, page_table=pages, batch=batch, window=window, scale=HEAD_DIM**-0.5, gate=gate
                )

            visible = np.minimum(batch.positions + 1, window or context)
            macs = 2 * HEAD_DIM * heads * float(visible.sum())
            seen = min(context, n - 1 + (window or context))
            name = f"{heads} heads, {kind}, {n} after {context - n}" + (f", window {window}" if window else "")
            yield Case("attention", name, call, macs, seen * KV_HEADS * 2 * HEAD_DIM * value_bytes)


def last_tokens(context: int, n: int) -> Batch:
    """The last n of a sequence of ``context`` tokens, as a step's only row."""
    return Batch(
        token_ids=np.zeros(n, np.int32),
        positions=np.arange(context - n, context, dtype=np.int32),
        row_starts=np.array([0, n], np.int32),
        page_tables=(),
        outputs=np.zeros(0, np.int32),
    )


def small_cases(backend: CpuBackend, tokens: list[int]) -> Iterator[Case]:
    router, bias = _cpu.weight(QuantType.F32, 1, EXPERTS, DIM), normal(EXPERTS)
    router.pack(0, 0, normal(EXPERTS, DIM).view(np.uint8))
    routing = Routing(TOP_K, "sigmoid", normalize=True, scale=3.0)
    weight = normal(DIM)
    for n in tokens:
        x, delta = normal(n, DIM), 0 * normal(n, DIM)

        def route(x: FloatArray = x) -> None:
            backend.route(x, router, bias, routing)

        def norm(x: FloatArray = x, delta: FloatArray = delta) -> None:
            backend.norm(x, weight, 1e-5, delta)

        yield Case("router", f"F32 {EXPERTS}x{DIM}, {n} tokens", route, n * EXPERTS * DIM, router.n_bytes)
        yield Case("norm", f"{DIM}, {n} tokens, with residual", norm, 0, 4 * 4 * n * DIM)


def errors(backend: CpuBackend) -> dict[str, tuple[float, float]]:
    """By type: RMS error of the kernel, and of exact arithmetic on activations in int8 per 32, over the RMS result."""
    found = {}
    x = normal(64, DIM)
    pieces = x.reshape(-1, 32)
    scales = np.abs(pieces).max(axis=1, keepdims=True) / 127
    rounded = (np.rint(pieces / scales) * scales).reshape(x.shape)
    for kind in dict.fromkeys(kind for kind, _, _ in LINEAR):
        data = quantize(normal(256, DIM), kind)
        matrix = dequantize(data, kind).astype(np.float64)
        weight = _cpu.weight(kind, 1, 256, DIM)
        weight.pack(0, 0, data)
        true = x @ matrix.T
        norm = np.sqrt(np.mean(true**2))
        kernel = np.sqrt(np.mean((backend.linear(x, (weight,))[0] - true) ** 2)) / norm
        exact = np.sqrt(np.mean((rounded @ matrix.T - true) ** 2)) / norm
        found[kind.label] = (float(kernel), float(exact))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", choices=_cpu.isas(), default=_cpu.isas()[0])
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="fewer shapes, three repeats")
    parser.add_argument("--only", choices=("linear", "experts", "attention", "small"), help="one group of kernels")
    given = parser.parse_args()
    backend = CpuBackend(given.threads, given.isa)
    repeats = 3 if given.quick else given.repeats
    groups: dict[str, Callable[[], Iterator[Case]]] = {
        "linear": lambda: linear_cases(backend, [1, 8, 512] if given.quick else [1, 2, 4, 8, 14, 64, 512]),
        "experts": lambda: expert_cases(backend, [1, 512] if given.quick else [1, 8, 64, 512]),
        "attention": lambda: attention_cases(
            backend, [1024] if given.quick else [1024, 32768], ["f16"] if given.quick else ["f16", "q8_0"]
        ),
        "small": lambda: small_cases(backend, [1, 512]),
    }
    chosen = [given.only] if given.only else list(groups)
    cases = [case for name in chosen for case in groups[name]()]
    for case in cases:
        case.call()
    bandwidths = []
    for repeat in range(repeats):
        bandwidths.append(_cpu.read_bandwidth(UNCACHED_BYTES, given.threads))
        for case in cases:
            if repeat < 2 or case.seconds[-1] < SAMPLE_SECONDS:
                case.sample()

    print(f"{cpu_name()}, {given.threads} threads, {given.isa}, {_cpu.compiler}, {repeats} repeats")
    print(f"read bandwidth {np.median(bandwidths) / 1e9:.1f} GB/s, {min(bandwidths) / 1e9:.1f} to", end=" ")
    print(f"{max(bandwidths) / 1e9:.1f}\n")
    print("| kernel | shape | µs | GMAC/s | GB/s | of reading |\n| --- | --- | ---: | ---: | ---: | ---: |")
    for case in cases:
        macs, n_bytes = case.macs / case.median / 1e9, case.n_bytes / case.median / 1e9
        rates = f"{macs:.0f} | {n_bytes:.1f}" if case.macs else f" | {n_bytes:.1f}"
        share = "" if case.of_reading is None else f"{case.of_reading:.0%}"
        print(f"| {case.kernel} | {case.shape} | {1e6 * case.median:.0f} | {rates} | {share} |")
    accuracy = errors(backend)
    print("\n| type | RMS error | exact on int8 activations |\n| --- | ---: | ---: |")
    for name, (kernel, exact) in accuracy.items():
        print(f"| {name} | {kernel:.3%} | {exact:.3%} |")
    result = {
        "benchmark": "kernels",
        "cpu": cpu_name(),
        "isa": given.isa,
        "threads": given.threads,
        "compiler": _cpu.compiler,
        "repeats": repeats,
        "bandwidth": bandwidths,
        "cases": [
            {
                "kernel": case.kernel,
                "shape": case.shape,
                "seconds": case.median,
                "macs_per_second": case.macs / case.median,
                "bytes_per_second": case.n_bytes / case.median,
                "of_reading": case.of_reading,
            }
            for case in cases
        ],
        "rms_error": accuracy,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

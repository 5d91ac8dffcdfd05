"""Every backend does what the numpy backend does, operation by operation, on random shapes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from stride.gguf import QuantType
from stride.ops.api import Backend, Batch, GatedFFN, Rope, Routing
from stride.ops.numpy import NumpyBackend

_cpu = pytest.importorskip("stride._cpu", reason="the C++ extension is not built")
CpuBackend = pytest.importorskip("stride.ops.cpu").CpuBackend

PLAIN = [QuantType.F32, QuantType.F16, QuantType.BF16]
QUANTIZED = [
    QuantType.Q4_0,
    QuantType.IQ4_NL,
    QuantType.IQ4_XS,
    QuantType.Q4_K,
    QuantType.Q5_K,
    QuantType.Q6_K,
    QuantType.Q8_0,
]
QUANTIZED_ERROR = 0.012
"""RMS error that int8 activations may cost, relative to the RMS of the output: 0.55 % per matrix is expected."""


@pytest.fixture(params=_cpu.isas())
def backend(request: pytest.FixtureRequest) -> Backend:
    made: Backend = CpuBackend(threads=2, isa=request.param)
    return made


@pytest.fixture
def oracle() -> Backend:
    return NumpyBackend()


def floats(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def assert_close(got: np.ndarray, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    """Largest error below ``tolerance`` of the largest value."""
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()


def rms_error(got: np.ndarray, expected: np.ndarray) -> float:
    assert got.shape == expected.shape
    return float(np.sqrt(np.mean(np.square(got - expected)) / np.mean(np.square(expected))))


# --- rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PLAIN + QUANTIZED, ids=lambda kind: kind.name)
def test_embed(kind: QuantType, backend: Backend, oracle: Backend, make_tensor: Any) -> None:
    tensor = make_tensor(kind, 37, 512)
    ids = np.array([0, 36, 16, 15, 36], np.int32)
    expected = oracle.embed(oracle.weight(tensor), ids)
    assert_close(backend.to_host(backend.embed(backend.weight(tensor), ids)), expected, 1e-6)


@pytest.mark.parametrize(("n", "dim"), [(1, 4096), (3, 65), (7, 8)])
@pytest.mark.parametrize("residual", [False, True])
def test_norm(n: int, dim: int, residual: bool, backend: Backend, oracle: Backend, rng: np.random.Generator) -> None:
    x, weight = floats(rng, n, dim), floats(rng, dim)
    delta = floats(rng, n, dim) if residual else None
    got_x, expected_x = x.copy(), x.copy()
    got = backend.norm(got_x, weight, 1e-5, delta)
    assert_close(backend.to_host(got), oracle.norm(expected_x, weight, 1e-5, delta), 1e-6)
    np.testing.assert_array_equal(got_x, expected_x)


def test_concat_norms(backend: Backend, oracle: Backend, rng: np.random.Generator) -> None:
    arguments = (floats(rng, 3, 72), floats(rng, 72), floats(rng, 3, 72), floats(rng, 72), 1e-5)
    assert_close(backend.to_host(backend.concat_norms(*arguments)), oracle.concat_norms(*arguments), 1e-6)


def test_rows(backend: Backend, rng: np.random.Generator) -> None:
    x = floats(rng, 5, 24)
    indices = np.array([4, 0, 4], np.int32)
    np.testing.assert_array_equal(backend.to_host(backend.rows(x, indices)), x[indices])
    np.testing.assert_array_equal(backend.to_host(backend.rows(backend.from_host(x), indices)), x[indices])


def test_vector(backend: Backend, make_tensor: Any) -> None:
    tensor = make_tensor(QuantType.F32, 70)
    np.testing.assert_array_equal(backend.to_host(backend.vector(tensor)), tensor.dequantize())


@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0"])
def test_pages_are_moved(
    kind: Any, backend: Backend, oracle: Backend, make_batch: Any, rng: np.random.Generator
) -> None:
    """Attention to pages that were moved, within a pool and to another, is attention to the pages."""
    for ops in (backend, oracle):
        pool, other = (ops.kv_pool(8, 2, 64, 32, kind) for _ in range(2))
        q, k, v = floats(rng, 40, 4 * 64), floats(rng, 40, 2 * 64), floats(rng, 40, 2 * 32)
        batch = Batch(
            token_ids=np.zeros(40, np.int32),
            positions=np.arange(40, dtype=np.int32),
            row_starts=np.array([0, 40], np.int32),
            page_tables=(np.array([[3, 1]], np.int32),),
            outputs=np.arange(40, dtype=np.int32),
        )
        rope = Rope(np.ones(8, np.float32), "halves")
        turned = ops.rope_and_store(
            q,
            k,
            v,
            q_norm=None,
            k_norm=None,
            epsilon=1e-5,
            rope=rope,
            pool=pool,
            page_table=batch.page_tables[0],
            batch=batch,
        )

        def attend(pool: Any, pages: list[int], ops: Backend = ops, turned: Any = turned, batch: Batch = batch) -> Any:
            table = np.array([pages], np.int32)
            return ops.to_host(
                ops.attention(turned, pool, page_table=table, batch=batch, window=None, scale=0.1, gate=None)
            )

        expected = attend(pool, [3, 1])
        assert ops.read_page(pool, 3).shape == (pool.page_bytes,)
        assert ops.read_page(pool, 3).dtype == np.uint8
        for source, target in ((3, 7), (1, 0)):
            ops.write_page(pool, target, ops.read_page(pool, source))
            ops.write_page(other, target, np.frombuffer(ops.read_page(pool, source).tobytes(), np.uint8))
        np.testing.assert_array_equal(attend(pool, [7, 0]), expected)
        np.testing.assert_array_equal(attend(pool, [3, 1]), expected)
        np.testing.assert_array_equal(attend(other, [7, 0]), expected)


# --- matrices -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 11, 70])
@pytest.mark.parametrize("kind", PLAIN, ids=lambda kind: kind.name)
def test_linear_of_plain_types_is_exact(
    kind: QuantType, n: int, backend: Backend, oracle: Backend, make_tensor: Any, rng: np.random.Generator
) -> None:
    tensors = [make_tensor(kind, rows, 83) for rows in (1, 16, 53)]
    x = floats(rng, n, 83)
    biases = [None, floats(rng, 16), floats(rng, 53)]
    got = backend.linear(x, [backend.weight(t) for t in tensors], biases)
    for a, b in zip(got, oracle.linear(x, [oracle.weight(t) for t in tensors], biases), strict=True):
        assert_close(backend.to_host(a), b, 2e-6)


@pytest.mark.parametrize("kind", QUANTIZED, ids=lambda kind: kind.name)
def test_linear_of_quantized_types(
    kind: QuantType, backend: Backend, oracle: Backend, make_tensor: Any, rng: np.random.Generator
) -> None:
    tensors = [make_tensor(kind, 45, 768), make_tensor(QuantType.F32, 5, 768)]
    x = floats(rng, 13, 768)
    got = backend.linear(x, [backend.weight(t) for t in tensors])
    expected = oracle.linear(x, [oracle.weight(t) for t in tensors])
    assert rms_error(backend.to_host(got[0]), expected[0]) < QUANTIZED_ERROR
    assert_close(backend.to_host(got[1]), expected[1], 2e-6)


def test_linear_of_no_tokens(backend: Backend, make_tensor: Any) -> None:
    (out,) = backend.linear(np.zeros((0, 64), np.float32), [backend.weight(make_tensor(QuantType.Q8_0, 5, 64))])
    assert backend.to_host(out).shape == (0, 5)


def gated(backend: Backend, tensors: list[Any], limit: float) -> GatedFFN:
    gate, up, down = (backend.weight(tensor) for tensor in tensors)
    return GatedFFN(gate, up, down, limit)


@pytest.mark.parametrize("limit", [0.0, 0.5])
@pytest.mark.parametrize(("n", "width", "dim"), [(1, 40, 24), (5, 96, 64), (130, 33, 17)])
def test_ffn(
    n: int,
    width: int,
    dim: int,
    limit: float,
    backend: Backend,
    oracle: Backend,
    make_tensor: Any,
    rng: np.random.Generator,
) -> None:
    tensors = [make_tensor(QuantType.F32, *shape) for shape in ((width, dim), (width, dim), (dim, width))]
    x = floats(rng, n, dim)
    got = backend.ffn(x, gated(backend, tensors, limit))
    assert_close(backend.to_host(got), oracle.ffn(x, gated(oracle, tensors, limit)))


EXPERTS = 5


def stacks(make_tensor: Any, kind: QuantType, down: QuantType, width: int, dim: int, *count: int) -> list[Any]:
    return [
        make_tensor(kind, *count, width, dim),
        make_tensor(kind, *count, width, dim),
        make_tensor(down, *count, dim, width),
    ]


@pytest.mark.parametrize("n", [1, 3, 90])
@pytest.mark.parametrize("with_shared", [False, True])
def test_experts(
    n: int, with_shared: bool, backend: Backend, oracle: Backend, make_tensor: Any, rng: np.random.Generator
) -> None:
    routed = stacks(make_tensor, QuantType.F32, QuantType.F32, 40, 24, EXPERTS)
    shared = stacks(make_tensor, QuantType.F32, QuantType.F32, 56, 24)
    x = floats(rng, n, 24)
    ids = np.stack([rng.permutation(EXPERTS)[:3] for _ in range(n)]).astype(np.int32)
    weights = rng.random((n, 3), np.float32)
    got, expected = (
        b.to_host(b.experts(x, ids, weights, gated(b, routed, 0.7), gated(b, shared, 1.5) if with_shared else None))
        for b in (backend, oracle)
    )
    assert_close(got, expected)


@pytest.mark.parametrize("kinds", [(QuantType.IQ4_XS, QuantType.Q6_K), (QuantType.Q4_K, QuantType.Q8_0)])
def test_quantized_experts(
    kinds: tuple[QuantType, QuantType], backend: Backend, oracle: Backend, make_tensor: Any, rng: np.random.Generator
) -> None:
    routed = stacks(make_tensor, *kinds, 256, 256, EXPERTS)
    shared = stacks(make_tensor, QuantType.Q8_0, QuantType.Q8_0, 320, 256)
    x = floats(rng, 20, 256)
    ids = np.stack([rng.permutation(EXPERTS)[:2] for _ in range(20)]).astype(np.int32)
    weights = rng.random((20, 2), np.float32)
    got, expected = (
        b.to_host(b.experts(x, ids, weights, gated(b, routed, 0), gated(b, shared, 0))) for b in (backend, oracle)
    )
    assert rms_error(got, expected) < 2 * QUANTIZED_ERROR


@pytest.mark.parametrize("gating", ["sigmoid", "softmax"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_route(
    gating: Any,
    normalize: bool,
    with_bias: bool,
    backend: Backend,
    oracle: Backend,
    make_tensor: Any,
    rng: np.random.Generator,
) -> None:
    router = make_tensor(QuantType.F32, 29, 40)
    x = floats(rng, 9, 40)
    bias = floats(rng, 29) if with_bias else None
    routing = Routing(4, gating, normalize, 2.5)
    ids, weights = backend.route(x, backend.weight(router), bias, routing)
    expected_ids, expected_weights = oracle.route(x, oracle.weight(router), bias, routing)
    np.testing.assert_array_equal(ids, expected_ids)
    assert_close(weights, expected_weights)


def test_route_gives_ties_to_the_lower_id_and_bounds_the_sum(backend: Backend, make_tensor: Any) -> None:
    router = make_tensor(QuantType.F32, values=np.full((20, 8), -10.0))
    x = np.full((2, 8), 2.0, np.float32)
    ids, weights = backend.route(x, backend.weight(router), None, Routing(3, "sigmoid", True, 1.0))
    np.testing.assert_array_equal(ids, [[0, 1, 2]] * 2)
    assert weights.max() < 1e-30  # scores of about 1e-70, over the smallest sum rather than over themselves


# --- attention ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", ["halves", "adjacent"])
@pytest.mark.parametrize(("dim", "rotated", "magnitude"), [(64, 64, 1.0), (128, 64, 1.25), (24, 6, 1.0)])
@pytest.mark.parametrize("with_norms", [False, True])
def test_rope(
    pairs: Any,
    dim: int,
    rotated: int,
    magnitude: float,
    with_norms: bool,
    backend: Backend,
    oracle: Backend,
    make_batch: Any,
    rng: np.random.Generator,
) -> None:
    batch, n_pages = make_batch((0, 3), (70_000, 2))
    rope = Rope((1e4 ** -np.linspace(0, 1, rotated // 2)).astype(np.float32), pairs, magnitude)
    q, k, v = floats(rng, 5, 6 * dim), floats(rng, 5, 2 * dim), floats(rng, 5, 2 * dim)
    norms = (floats(rng, dim), floats(rng, dim)) if with_norms else (None, None)
    got, expected = (
        b.to_host(
            b.rope_and_store(
                q,
                k,
                v,
                q_norm=norms[0],
                k_norm=norms[1],
                epsilon=1e-5,
                rope=rope,
                pool=b.kv_pool(n_pages, 2, dim, dim, "f32"),
                page_table=batch.page_tables[0],
                batch=batch,
            )
        )
        for b in (backend, oracle)
    )
    assert_close(got, expected, 2e-6)


def attend(backend: Backend, history: Batch, batch: Batch, n_pages: int, case: dict[str, Any]) -> np.ndarray:
    """Fill a cache with the rows' past, then attend to it."""
    h, g, key_dim, value_dim = case["h"], case["g"], case["key_dim"], case["value_dim"]
    rng = np.random.default_rng(5)
    pool = backend.kv_pool(n_pages, g, key_dim, value_dim, case["kind"])
    rope = Rope(np.array([0.5, 0.01], np.float32), "halves")
    no_norms: dict[str, Any] = {"q_norm": None, "k_norm": floats(rng, key_dim), "epsilon": 1e-5}
    q = np.empty(0)
    for step in (history, batch):
        n = len(step.positions)
        new = [floats(rng, n, width) for width in (h * key_dim, g * key_dim, g * value_dim)]
        table = step.page_tables[0]
        q = backend.rope_and_store(*new, **no_norms, rope=rope, pool=pool, page_table=table, batch=step)
    gate = floats(rng, len(batch.positions), h) if case["gate"] else None
    out = backend.attention(
        q,
        pool,
        page_table=batch.page_tables[0],
        batch=batch,
        window=case["window"],
        scale=key_dim**-0.5 * 3,
        gate=gate,
    )
    return backend.to_host(out)


CASES = {
    "one kv head each": {"h": 5, "g": 5, "key_dim": 8, "value_dim": 8},
    "five heads of one": {"h": 5, "g": 1, "key_dim": 24, "value_dim": 40},
    "grouped": {"h": 16, "g": 2, "key_dim": 64, "value_dim": 64},
    "more than a span": {"h": 70, "g": 1, "key_dim": 32, "value_dim": 32},
}


@pytest.mark.parametrize("window", [None, 1, 33, 64, 700])
@pytest.mark.parametrize(
    ("name", "kind"),
    # A q8_0 cache has whole blocks only.
    [
        (name, kind)
        for name in CASES
        for kind in ("f32", "f16", "q8_0")
        if kind != "q8_0" or not CASES[name]["key_dim"] % 32
    ],
)
def test_attention(
    name: str, window: int | None, kind: str, backend: Backend, oracle: Backend, make_batch: Any
) -> None:
    pasts, lengths = (0, 31, 600, 40), (1, 3, 1, 70)  # the third reaches beyond one stretch of pages
    case = {**CASES[name], "window": window, "kind": kind, "gate": window != 33}
    batch, n_pages = make_batch(*zip(pasts, lengths, strict=True), window=window)
    history, _ = make_batch(*[(0, past) for past in pasts if past])
    # The past is written to the same pages; where those are released, to one that nobody reads.
    full = np.delete(batch.page_tables[0], [row for row, past in enumerate(pasts) if not past], axis=0)
    unread = np.setdiff1d(np.arange(n_pages), batch.page_tables[0])[0]
    history = replace(history, page_tables=(np.where(full < 0, np.int32(unread), full),))
    got, expected = (attend(b, history, batch, n_pages, case) for b in (backend, oracle))
    assert_close(got, expected, {"f32": 1e-5, "f16": 1e-4, "q8_0": 3e-3}[kind])


@pytest.mark.parametrize(("kind", "size"), [("f32", 4), ("f16", 2), ("q8_0", 34 / 32)])
def test_a_pool_reserves_what_its_kind_needs(kind: Any, size: float, backend: Backend) -> None:
    pool = backend.kv_pool(10, 2, 64, 64, kind)
    assert pool.n_bytes == 10 * 32 * 2 * 128 * size

"""What only the CPU backend promises: exact integer arithmetic, bit-equal batches and threads, refusals."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from stride.errors import ModelFileError, UnsupportedError
from stride.gguf import QuantType
from stride.gguf.quants import dequantize, quantize
from stride.ops.api import PAGE_TOKENS, Batch, GatedFFN, Rope, Routing

_cpu = pytest.importorskip("stride._cpu", reason="the C++ extension is not built")
CpuBackend = pytest.importorskip("stride.ops.cpu").CpuBackend

QUANTIZED = [
    QuantType.Q4_0,
    QuantType.IQ4_NL,
    QuantType.IQ4_XS,
    QuantType.Q4_K,
    QuantType.Q5_K,
    QuantType.Q6_K,
    QuantType.Q8_0,
]


@pytest.fixture(params=_cpu.isas())
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def floats(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def as_int8(x: np.ndarray) -> np.ndarray:
    """What 32 activations with one scale become, as the kernels round them."""
    blocks = x.reshape(len(x), -1, 32)
    largest = np.abs(blocks).max(axis=-1, keepdims=True)
    codes = np.rint(blocks * (np.float32(127) / largest))
    return (codes.astype(np.float64) * (largest / np.float32(127))).reshape(x.shape)


# --- arithmetic -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", QUANTIZED, ids=lambda kind: kind.name)
def test_matrices_are_exact_over_int8_activations(
    kind: QuantType, isa: str, make_tensor: Any, rng: np.random.Generator
) -> None:
    tensor = make_tensor(kind, 48, 2048)
    backend = CpuBackend(1, isa)
    x = floats(rng, 9, 2048)
    (got,) = backend.linear(x, [backend.weight(tensor)])
    weights = tensor.dequantize().astype(np.float64)
    expected = as_int8(x) @ weights.T
    assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()
    in_float = x.astype(np.float64) @ weights.T
    assert 0.003 < np.std(got - in_float) / np.std(in_float) < 0.007


def test_extreme_codes_do_not_saturate(isa: str, make_tensor: Any) -> None:
    """-128 in Q8_0, and the largest activations beside each other."""
    backend = CpuBackend(1, isa)
    weight = _cpu.weight(QuantType.Q8_0, 1, 16, 64)
    block = np.concatenate([np.array([1.0], np.float16).view(np.uint8), np.full(32, -128, np.int8).view(np.uint8)])
    weight.pack(0, 0, np.tile(block, (16, 2)))
    for sign in (1, -1):
        (got,) = backend.linear(np.full((1, 64), 127.0 * sign, np.float32), [weight])
        np.testing.assert_array_equal(got, np.full((1, 16), -128.0 * 127 * 64 * sign))


@pytest.mark.parametrize("kind", [QuantType.Q4_0, QuantType.Q4_K, QuantType.Q5_K, QuantType.Q6_K], ids=lambda k: k.name)
def test_the_largest_small_codes_do_not_overflow(kind: QuantType, isa: str) -> None:
    """Nearly every code at its most, every activation too: AVX2 adds such products up in 16 bits."""
    values = np.full((32, 256), 2.0, np.float32)
    values[:, ::32] = -2.0  # so that blocks with a minimum span all codes
    data = quantize(values, kind)
    weight = _cpu.weight(kind, 1, 32, 256)
    weight.pack(0, 0, data)
    x = np.ones((1, 256), np.float32)
    np.testing.assert_allclose(CpuBackend(1, isa).linear(x, [weight])[0], x @ dequantize(data, kind).T, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_activation_spoils_its_token_only(
    bad: float, isa: str, make_tensor: Any, rng: np.random.Generator
) -> None:
    backend = CpuBackend(2, isa)
    weight = backend.weight(make_tensor(QuantType.Q8_0, 20, 64))
    x = floats(rng, 3, 64)
    (clean,) = backend.linear(x, [weight])
    x[1, 40] = bad
    (got,) = backend.linear(x, [weight])
    assert np.isnan(got[1]).all()
    np.testing.assert_array_equal(got[[0, 2]], clean[[0, 2]])


def test_activations_of_zero_give_zero(isa: str, make_tensor: Any) -> None:
    backend = CpuBackend(1, isa)
    (got,) = backend.linear(np.zeros((1, 256), np.float32), [backend.weight(make_tensor(QuantType.Q4_K, 20, 256))])
    np.testing.assert_array_equal(got, np.zeros((1, 20)))


# --- bit-equal: a batch and its tokens alone, one thread and several ------------------------------------------------

Run = Callable[[Any, np.ndarray], np.ndarray]


def each_alone(run: Run, backend: Any, x: np.ndarray) -> np.ndarray:
    return np.concatenate([run(backend, x[i : i + 1]) for i in range(len(x))])


def assert_bit_equal(isa: str, prepare: Callable[[Any], Run], x: np.ndarray) -> None:
    results = []
    for threads in (1, 2, 3):
        backend = CpuBackend(threads, isa)
        run = prepare(backend)
        results += [run(backend, x), each_alone(run, backend, x)]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("kind", [QuantType.F32, QuantType.F16, *QUANTIZED], ids=lambda kind: kind.name)
def test_linear_is_bit_equal(kind: QuantType, isa: str, make_tensor: Any, rng: np.random.Generator) -> None:
    tensor = make_tensor(kind, 70, 512)

    def prepare(backend: Any) -> Run:
        weight = backend.weight(tensor)
        return lambda b, x: b.linear(x, [weight])[0]

    assert_bit_equal(isa, prepare, floats(rng, 75, 512))


@pytest.mark.parametrize("kind", [QuantType.F32, QuantType.F16, QuantType.BF16, *QUANTIZED], ids=lambda kind: kind.name)
def test_a_few_tokens_are_bit_equal(kind: QuantType, isa: str, make_tensor: Any, rng: np.random.Generator) -> None:
    """As drafts are verified: kernels take more rows at once for few tokens, and cut more tokens into groups."""
    tensor = make_tensor(kind, 70, 1536)
    backend = CpuBackend(2, isa)
    weight = backend.weight(tensor)
    x = floats(rng, 10, 1536)
    alone = each_alone(lambda b, one: b.linear(one, [weight])[0], backend, x)
    for n in range(2, 11):
        np.testing.assert_array_equal(backend.linear(x[:n], [weight])[0], alone[:n])


@pytest.mark.parametrize("kind", [QuantType.F32, *QUANTIZED], ids=lambda kind: kind.name)
def test_experts_are_bit_equal(kind: QuantType, isa: str, make_tensor: Any, rng: np.random.Generator) -> None:
    tensors = [make_tensor(kind, *count, 256, 256) for count in ((6,), (6,), (6,), (), (), ())]
    router_tensor = make_tensor(QuantType.F32, 6, 256)

    def prepare(backend: Any) -> Run:
        weights = [backend.weight(tensor) for tensor in tensors]
        router = backend.weight(router_tensor)

        def run(b: Any, x: np.ndarray) -> np.ndarray:
            ids, scales = b.route(x, router, None, Routing(3, "sigmoid", True, 1.5))
            routed = b.experts(x, ids, scales, GatedFFN(*weights[:3], 0.0), GatedFFN(*weights[3:], 2.0))
            return np.concatenate([routed, b.ffn(x, GatedFFN(*weights[3:], 0.0))], axis=1)

        return run

    x = floats(rng, 70, 256)
    assert_bit_equal(isa, prepare, x)
    for n in (2, 3, 4):
        assert_bit_equal(isa, prepare, x[:n])


@pytest.mark.parametrize("kind", [QuantType.IQ4_XS, QuantType.F16], ids=lambda kind: kind.name)
def test_matrices_of_many_items_are_bit_equal(
    kind: QuantType, isa: str, make_tensor: Any, rng: np.random.Generator
) -> None:
    """Threads share out the tiles of one matrix, and of two in one call."""
    tensors = [make_tensor(kind, rows, 4096) for rows in (330, 40)]

    def prepare(backend: Any) -> Run:
        weights = [backend.weight(tensor) for tensor in tensors]
        return lambda b, x: np.concatenate(b.linear(x, weights), axis=1)

    assert_bit_equal(isa, prepare, floats(rng, 5, 4096))


def test_experts_of_many_items_and_slices_are_bit_equal(isa: str, make_tensor: Any, rng: np.random.Generator) -> None:
    """A hidden width of several items; products that are computed and added up in two slices of rows."""
    n, top_k, dim, hidden = 300, 3, 6144, 640
    assert n * top_k * dim * 4 > 16 << 20
    assert hidden // 32 * _cpu.packed_bytes(QuantType.Q4_0, 1, 32, dim) > 768 << 10
    shapes = ((hidden, dim), (hidden, dim), (dim, hidden))
    tensors = [make_tensor(QuantType.Q4_0, 4, *shape) for shape in shapes]
    ids = np.argsort(rng.random((n, 4)), axis=1)[:, :top_k].astype(np.int32)
    x, scales = floats(rng, n, dim), floats(rng, n, top_k)

    def run(threads: int, part: slice) -> np.ndarray:
        backend = CpuBackend(threads, isa)
        routed = GatedFFN(*(backend.weight(tensor) for tensor in tensors), 0.0)
        return np.asarray(backend.experts(x[part], ids[part], scales[part], routed, None))

    together = run(2, slice(n))
    np.testing.assert_array_equal(run(3, slice(n)), together)
    for i in (0, 1, n - 1):
        np.testing.assert_array_equal(run(2, slice(i, i + 1)), together[i : i + 1])


def test_experts_do_not_depend_on_the_order_of_choices(isa: str, make_tensor: Any, rng: np.random.Generator) -> None:
    backend = CpuBackend(2, isa)
    routed = GatedFFN(*(backend.weight(make_tensor(QuantType.F32, 9, 64, 64)) for _ in range(3)), 0.0)
    ids = np.argsort(rng.random((40, 9)), axis=1)[:, :6].astype(np.int32)
    x, scales = floats(rng, 40, 64), floats(rng, 40, 6)
    order = np.argsort(ids, axis=1)
    ascending = np.take_along_axis(ids, order, 1), np.take_along_axis(scales, order, 1)
    np.testing.assert_array_equal(
        backend.experts(x, ids, scales, routed, None), backend.experts(x, *ascending, routed, None)
    )


@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0"])
def test_attention_is_bit_equal(
    window: int | None, kind: Any, isa: str, make_batch: Any, rng: np.random.Generator
) -> None:
    """One long prefill; the same in uneven chunks; the same beside another row; token by token at the end."""
    n, h, g, dim = 700, 6, 2, 32
    whole, n_pages = make_batch((0, n))
    table = whole.page_tables[0]
    q, k, v = floats(rng, n, h * dim), floats(rng, n, g * dim), floats(rng, n, g * dim)
    rope = Rope(np.array([0.3, 0.01], np.float32), "halves")

    def run(threads: int, cuts: list[int], beside: bool) -> np.ndarray:
        backend = CpuBackend(threads, isa)
        pool = backend.kv_pool(n_pages + 1, g, dim, dim, kind)
        outs = []
        for begin, end in pairwise(cuts):
            part = slice(begin, end)
            batch = replace(whole, positions=whole.positions[part], row_starts=np.array([0, end - begin], np.int32))
            arrays, pages = [q[part], k[part], v[part]], table
            if beside:
                batch = beside_another(batch)
                arrays = [np.concatenate([floats(rng, 1, x.shape[1]), x]) for x in arrays]
                pages = np.concatenate([np.full_like(table, n_pages), table])
            turned = backend.rope_and_store(
                *arrays, q_norm=None, k_norm=None, epsilon=1e-5, rope=rope, pool=pool, page_table=pages, batch=batch
            )
            out = backend.attention(
                turned, pool, page_table=pages, batch=batch, window=window, scale=0.2, gate=arrays[0][:, :h].copy()
            )
            outs.append(out[beside:])
        return np.concatenate(outs)

    def beside_another(batch: Batch) -> Batch:
        return replace(
            batch,
            positions=np.concatenate([[np.int32(7)], batch.positions]),
            row_starts=np.array([0, 1, len(batch.positions) + 1], np.int32),
        )

    expected = run(1, [0, n], False)
    last_alone, few_at_once = [0, 500, *range(n - 3, n + 1)], [0, n - 9, n - 7, n - 4, n]
    runs = [(2, [0, n], False), (3, [0, 37, 530, n], True), (2, last_alone, False), (2, few_at_once, True)]
    for threads, cuts, beside in runs:
        np.testing.assert_array_equal(run(threads, cuts, beside), expected)


# --- loading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [QuantType.F32, QuantType.F16, *QUANTIZED], ids=lambda kind: kind.name)
def test_packed_weights_are_as_large_as_in_the_file(kind: QuantType, make_tensor: Any) -> None:
    tensor = make_tensor(kind, 2, 64, 2048)
    weight = CpuBackend(2).weight(tensor)
    assert weight.shape == (2, 64, 2048)
    assert tensor.n_bytes <= weight.n_bytes <= 1.03 * tensor.n_bytes


def test_other_types_are_converted_and_noted_once(make_tensor: Any, rng: np.random.Generator) -> None:
    backend = CpuBackend(2)
    tensors = [make_tensor(QuantType.Q5_0, 2, 300, 64), make_tensor(QuantType.Q5_0, 40, 64)]
    weights = [backend.weight(tensor) for tensor in tensors]
    assert [weight.type_name for weight in weights] == ["Q8_0", "Q8_0"]
    assert backend.notes == ["Q5_0 has no kernels: such tensors are held as Q8_0"]
    rows = backend.embed(weights[1], np.arange(40, dtype=np.int32))
    expected = tensors[1].dequantize()
    assert np.std(rows - expected) < 0.006 * np.std(expected)


def test_a_file_that_ends_early_is_named(make_tensor: Any) -> None:
    tensor = make_tensor(QuantType.Q8_0, 40, 64)
    end = tensor.offset + tensor.n_bytes - 5
    with open(tensor.path, "r+b") as file:
        file.truncate(end)
    with pytest.raises(ModelFileError, match=f"{tensor.path}.*tensor w: at byte {end}"):
        CpuBackend(2).weight(tensor)
    vector = replace(tensor, shape=(40 * 64,))
    with pytest.raises(ModelFileError, match=f"tensor w: at byte {end}"):
        CpuBackend(2).vector(vector)


# --- choices and refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 700])
def test_reading_through_meets_every_byte(rows: int, rng: np.random.Generator) -> None:
    weight = _cpu.weight(QuantType.F32, 1, rows, 1000)
    weight.pack(0, 0, floats(rng, rows, 1000).view(np.uint8))
    total = _cpu.read_through(_cpu.engine("portable", 3), weight)
    assert total == int(weight.data.view(np.uint64).sum())  # both go round at 2^64


def test_the_name_says_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIDE_ISA", "portable")
    monkeypatch.setenv("STRIDE_THREADS", "3")
    assert CpuBackend().name == "cpu (portable, 3 threads)"
    assert CpuBackend(threads=1).name == "cpu (portable, 1 thread)"


@pytest.mark.parametrize(
    ("variable", "value"), [("STRIDE_ISA", "mmx"), ("STRIDE_THREADS", "0"), ("STRIDE_THREADS", "-1")]
)
def test_unknown_settings_are_named(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UnsupportedError, match=f"'{value}'"):
        CpuBackend()


def test_pages_are_the_size_the_protocol_says() -> None:
    assert _cpu.page_tokens == PAGE_TOKENS


def test_arguments_are_checked(make_tensor: Any, make_batch: Any, rng: np.random.Generator) -> None:
    backend = CpuBackend(1)
    weight = backend.weight(make_tensor(QuantType.F32, 5, 8))
    stack = backend.weight(make_tensor(QuantType.F32, 3, 8, 8))
    x = floats(rng, 2, 8)
    ids = np.zeros((2, 2), np.int32)
    ones = np.ones((2, 2), np.float32)
    pool = backend.kv_pool(4, 1, 8, 8, "f32")
    batch, _ = make_batch((0, 2))
    routed = GatedFFN(stack, stack, stack)

    def attend(pages: np.ndarray, step: Batch = batch, q: np.ndarray = x) -> None:
        backend.attention(q, pool, page_table=pages, batch=step, window=None, scale=1.0, gate=None)

    page = np.zeros((1, 1), np.int32)
    cases: list[tuple[str, Callable[[], object]]] = [
        ("x must be .*float32 .any, 8., not float64", lambda: backend.linear(x.astype(np.float64), [weight])),
        ("x must be .*8., not float32 .2, 7", lambda: backend.linear(x[:, :7].copy(), [weight])),
        ("x must be C-contiguous", lambda: backend.linear(floats(rng, 8, 2).T, [weight])),
        ("x must be .*not list", lambda: backend.linear([[1.0]], [weight])),
        ("biases", lambda: backend.linear(x, [weight], [x[0]])),
        ("weights must be single", lambda: backend.linear(x, [stack])),
        ("token_ids holds 5", lambda: backend.embed(weight, np.array([5], np.int32))),
        ("token_ids holds -1", lambda: backend.embed(weight, np.array([-1], np.int32))),
        ("indices holds 2", lambda: backend.rows(x, np.array([2], np.int32))),
        ("ids holds 3", lambda: backend.experts(x, ids + np.int32(3), ones, routed, None)),
        ("weights must be", lambda: backend.experts(x, ids, ones[:1], routed, None)),
        ("gate, up and down", lambda: backend.ffn(x, GatedFFN(weight, weight, weight))),
        ("top_k", lambda: backend.route(x, weight, None, Routing(6, "sigmoid", True, 1.0))),
        ("weight must be", lambda: backend.norm(x, x[0, :7].copy(), 1e-5)),
        ("page_table holds page 4", lambda: attend(page + np.int32(4))),
        ("page_table holds page -1", lambda: attend(page - np.int32(1))),
        ("page_table has 1 pages", lambda: attend(page, replace(batch, positions=batch.positions + np.int32(31)))),
        ("positions must be consecutive", lambda: attend(page, replace(batch, positions=batch.positions[::-1].copy()))),
        ("positions must be", lambda: attend(page, replace(batch, positions=batch.positions - np.int32(1)))),
        ("row_starts must", lambda: attend(page, replace(batch, row_starts=np.array([0, 3], np.int32)))),
        ("q must be", lambda: attend(page, q=floats(rng, 2, 12))),
    ]
    for message, call in cases:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(UnsupportedError, match="multiples of 32"):
        backend.kv_pool(4, 1, 24, 32, "q8_0")


# --- processes ------------------------------------------------------------------------------------------------------


def _norm_in_child(backend: Any, x: np.ndarray, results: Any) -> None:
    results.put(backend.norm(x, x[0], 1e-5))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forking a process that has threads
def test_a_forked_child_computes(rng: np.random.Generator) -> None:
    backend = CpuBackend(2)
    x = floats(rng, 50, 64)
    expected = backend.norm(x, x[0], 1e-5)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_norm_in_child, args=(backend, x, results))
    child.start()
    np.testing.assert_array_equal(results.get(timeout=30), expected)
    child.join(timeout=30)
    assert child.exitcode == 0

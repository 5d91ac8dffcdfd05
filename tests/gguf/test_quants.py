"""Dequantisation against the gguf package, quantisation against GGML's measured errors."""

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stride.errors import UnsupportedError
from stride.gguf.quants import DEQUANTIZABLE, PLAIN, QUANTIZABLE, QuantType, dequantize, quantize
from stride.gguf.quants_layout import LAYOUTS

INTEGERS = {QuantType.I8, QuantType.I16, QuantType.I32, QuantType.I64}
BLOCKED = sorted(QUANTIZABLE & set(LAYOUTS))

# RMS errors of GGML's quantisers (ggml_quantize_chunk, no importance matrix) on the arrays that `samples` gives.
GGML_RMSE = {
    QuantType.Q8_0: {"normal": 0.005369, "laplace": 0.009565, "uniform": 0.002174},
    QuantType.Q4_0: {"normal": 0.086204, "laplace": 0.151766, "uniform": 0.037631},
    QuantType.Q4_K: {"normal": 0.071552, "laplace": 0.120149, "uniform": 0.031496},
    QuantType.Q5_K: {"normal": 0.036223, "laplace": 0.060774, "uniform": 0.015945},
    QuantType.Q6_K: {"normal": 0.017776, "laplace": 0.030847, "uniform": 0.007659},
    QuantType.IQ4_NL: {"normal": 0.076320, "laplace": 0.124703, "uniform": 0.036966},
    QuantType.IQ4_XS: {"normal": 0.076897, "laplace": 0.125722, "uniform": 0.037288},
}


def samples():
    rng = np.random.default_rng(0)
    shape = (256, 1024)
    return {
        "normal": rng.standard_normal(shape).astype(np.float32),
        "laplace": rng.laplace(size=shape).astype(np.float32),
        "uniform": rng.uniform(-1, 1, shape).astype(np.float32),
    }


def test_every_block_is_as_large_as_ggml_says():
    for kind in QuantType:
        assert (kind.block_size, kind.block_bytes) == gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
        if kind in LAYOUTS:
            assert LAYOUTS[kind].itemsize == kind.block_bytes


@pytest.mark.parametrize("kind", sorted(DEQUANTIZABLE - INTEGERS - {QuantType.F64}), ids=lambda kind: kind.label)
def test_random_blocks_dequantize_to_the_bits_of_the_gguf_package(kind):
    blocks = np.random.default_rng(kind).integers(0, 256, (5, 16 * kind.block_bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType(kind))
    values = dequantize(blocks, kind)
    assert values.dtype == np.float32
    assert values.shape == (5, 16 * kind.block_size)
    np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("kind", sorted(INTEGERS | {QuantType.F64}), ids=lambda kind: kind.label)
def test_plain_numbers_are_converted(kind):
    values = np.array([[-3, 0, 100]], np.float32)
    data = values.astype(PLAIN[kind]).view(np.uint8)
    np.testing.assert_array_equal(dequantize(data, kind), values)


def test_leading_dimensions_and_chunks_do_not_matter(monkeypatch):
    kind = QuantType.Q6_K
    blocks = np.random.default_rng(3).integers(0, 120, (2, 3, 2 * kind.block_bytes), dtype=np.uint8)
    whole = dequantize(blocks, kind)
    monkeypatch.setattr("stride.gguf.quants.CHUNK_VALUES", 512)
    assert whole.shape == (2, 3, 512)
    np.testing.assert_array_equal(dequantize(blocks[:, ::2], kind), whole[:, ::2])


def test_types_that_are_not_read_are_named():
    with pytest.raises(UnsupportedError, match="TQ1_0 cannot be read"):
        dequantize(np.zeros((1, 54), np.uint8), QuantType.TQ1_0)
    with pytest.raises(UnsupportedError, match="IQ2_XS cannot be written"):
        quantize(np.zeros((1, 256), np.float32), QuantType.IQ2_XS)


def test_rows_must_be_whole_blocks():
    with pytest.raises(ValueError, match="33 values"):
        quantize(np.zeros((2, 33), np.float32), QuantType.Q8_0)
    with pytest.raises(ValueError, match="35 bytes"):
        dequantize(np.zeros((2, 35), np.uint8), QuantType.Q8_0)


@pytest.mark.parametrize("kind", BLOCKED, ids=lambda kind: kind.label)
@pytest.mark.parametrize("name", ["normal", "laplace", "uniform"])
def test_quantisation_error_is_at_most_ggmls(kind, name):
    values = samples()[name]
    error = np.sqrt(np.mean((dequantize(quantize(values, kind), kind).astype(np.float64) - values) ** 2))
    assert error <= 1.005 * GGML_RMSE[kind][name]


def test_q8_0_blocks_are_those_of_the_gguf_package():
    values = samples()["laplace"]
    expected = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    np.testing.assert_array_equal(quantize(values, QuantType.Q8_0), expected)


def test_bf16_rounds_as_the_gguf_package_does():
    values = np.array([[1.0, 1.00390625, 1.01171875, -3.1415927, 1e-40, np.inf, np.nan, 3.4e38]], np.float32)
    expected = gguf.quants.quantize(values, gguf.GGMLQuantizationType.BF16).view(np.uint16)
    codes = quantize(values, QuantType.BF16).view(np.uint16)
    np.testing.assert_array_equal(np.delete(codes, 6), np.delete(expected, 6))
    assert np.isnan(dequantize(codes.view(np.uint8), QuantType.BF16)[0, 6])


@pytest.mark.parametrize("kind", BLOCKED, ids=lambda kind: kind.label)
@pytest.mark.parametrize(
    "row",
    [
        pytest.param(np.zeros(256), id="zeros"),
        pytest.param(np.full(256, 0.25), id="one positive value"),
        pytest.param(np.full(256, -0.25), id="one negative value"),
        pytest.param(np.r_[np.zeros(255), 3.0], id="one outlier"),
        pytest.param(np.where(np.arange(256) < 32, 1e-3, 10.0), id="groups of unequal size"),
        pytest.param(np.r_[np.zeros(128), np.ones(128)], id="half zeros"),
    ],
)
def test_simple_rows_come_back_closely(kind, row):
    row = row.astype(np.float32)[None]
    assert np.abs(dequantize(quantize(row, kind), kind) - row).max() <= 0.034 * np.abs(row).max()


@pytest.mark.parametrize("kind", BLOCKED, ids=lambda kind: kind.label)
@pytest.mark.parametrize("scale", [1e-45, 1e-38, 1e-20, 1e-7, 1e4])
def test_any_magnitude_stays_finite_and_in_proportion(kind, scale):
    row = (np.random.default_rng(1).uniform(-1, 1, (2, 256)) * scale).astype(np.float32)
    values = dequantize(quantize(row, kind), kind)
    assert np.isfinite(values).all()
    assert np.abs(values - row).max() <= max(0.15 * scale, 1e-6)


@pytest.mark.parametrize("kind", [*BLOCKED, QuantType.F16], ids=lambda kind: kind.label)
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e6])
def test_values_that_a_type_cannot_hold_are_refused(kind, bad):
    row = np.ones((1, 256), np.float32)
    row[0, 7] = bad
    with pytest.raises(ValueError, match="finite values up to"):
        quantize(row, kind)


@settings(max_examples=50, deadline=None)
@given(kind=st.sampled_from(BLOCKED), data=st.data())
def test_what_was_quantised_once_is_hardly_changed_by_a_second_time(kind, data):
    seed = data.draw(st.integers(0, 2**32 - 1))
    values = np.random.default_rng(seed).standard_normal((1, 256)).astype(np.float32)
    once = dequantize(quantize(values, kind), kind)
    twice = dequantize(quantize(once, kind), kind)
    assert np.sqrt(np.mean((twice - once) ** 2)) <= 0.6 * np.sqrt(np.mean((once - values) ** 2)) + 1e-4

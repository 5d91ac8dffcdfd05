"""Rotary frequencies: each scaling against its definition."""

import math

import numpy as np
import pytest

from stride.models.config import LinearScaling, RopeConfig, YarnScaling
from stride.models.rope import llama3_factors, rope


def frequencies(scaling=None, factors=None, dims=8, theta=10000.0, uses_factors=True):
    return rope(RopeConfig(dims, theta, "halves", scaling, uses_factors), factors)


def test_plain_frequencies_fall_from_one_by_powers_of_theta():
    np.testing.assert_allclose(frequencies().inverse_frequencies, [1, 0.1, 0.01, 0.001], rtol=1e-6)


def test_linear_scaling_divides_all():
    scaled = frequencies(LinearScaling(4.0))
    np.testing.assert_allclose(scaled.inverse_frequencies, [0.25, 0.025, 0.0025, 0.00025], rtol=1e-6)
    assert scaled.magnitude == 1.0


def test_factors_divide_one_by_one_and_a_longer_tail_is_ignored():
    factors = np.array([1, 2, 4, 8, 1, 1], np.float32)
    np.testing.assert_allclose(frequencies(factors=factors).inverse_frequencies, [1, 0.05, 0.0025, 0.000125], rtol=1e-6)


def test_layers_without_factors_ignore_them():
    factors = np.array([1, 2, 4, 8], np.float32)
    np.testing.assert_array_equal(
        frequencies(factors=factors, uses_factors=False).inverse_frequencies, frequencies().inverse_frequencies
    )


def test_yarn_keeps_fast_pairs_interpolates_slow_ones_and_grows_the_magnitude():
    plain, yarn = frequencies(dims=64), frequencies(YarnScaling(4.0, original_context=2048), dims=64)
    ratio = plain.inverse_frequencies / yarn.inverse_frequencies
    assert ratio[0] == pytest.approx(1.0)
    assert ratio[-1] == pytest.approx(4.0)
    assert np.all(np.diff(ratio) >= -1e-5)
    assert yarn.magnitude == pytest.approx(0.1 * math.log(4) + 1)


def test_llama3_factors_keep_short_wavelengths_stretch_long_ones_and_blend_between():
    factors = llama3_factors(128, 500000.0, factor=8.0, low_frequency=1.0, high_frequency=4.0, original_context=8192)
    wavelengths = 2 * np.pi * 500000.0 ** (np.arange(64) / 64)
    assert factors.shape == (64,)
    assert np.all(factors[wavelengths < 8192 / 4] == 1)
    assert np.all(factors[wavelengths > 8192] == 8)
    between = factors[(wavelengths > 8192 / 4) & (wavelengths < 8192)]
    assert len(between) > 0
    assert np.all((between > 1) & (between < 8))
    assert np.all(np.diff(factors) >= 0)

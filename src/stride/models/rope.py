"""Rotary frequencies: every scaling turned into plain inverse frequencies and a magnitude, once, at load."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from stride.models.config import LinearScaling, RopeConfig, YarnScaling
from stride.ops.api import FloatArray, Rope


def rope(config: RopeConfig, factors: FloatArray | None) -> Rope:
    """The rotation of a layer.

    Args:
        config: what the metadata says.
        factors: float32 [at least dims / 2] divisors (the file's ``rope_freqs.weight``), or None.
    """
    half = config.dims // 2
    frequencies = config.theta ** (-np.arange(half, dtype=np.float64) / half)
    if factors is not None and config.uses_factors:
        frequencies = frequencies / factors[:half].astype(np.float64)
    magnitude = 1.0
    match config.scaling:
        case LinearScaling(factor):
            frequencies = frequencies / factor
        case YarnScaling() as yarn:
            frequencies = _yarn(frequencies, config, yarn)
            magnitude = (0.1 * math.log(yarn.factor) + 1.0 if yarn.factor > 1 else 1.0) * yarn.attention_factor
    return Rope(frequencies.astype(np.float32), config.pairs, magnitude)


def _yarn(frequencies: npt.NDArray[np.float64], config: RopeConfig, yarn: YarnScaling) -> npt.NDArray[np.float64]:
    """Interpolate the pairs that turn rarely within the original context, keep those that turn often."""

    def pair_that_turns(times: float) -> float:
        return config.dims * math.log(yarn.original_context / (times * 2 * math.pi)) / (2 * math.log(config.theta))

    low = max(0.0, math.floor(pair_that_turns(yarn.beta_fast)))
    high = min(config.dims - 1.0, math.ceil(pair_that_turns(yarn.beta_slow)))
    ramp = np.clip((np.arange(len(frequencies)) - low) / max(0.001, high - low), 0, 1)
    return np.asarray(frequencies / yarn.factor * ramp + frequencies * (1 - ramp))


def llama3_factors(
    dims: int, theta: float, factor: float, low_frequency: float, high_frequency: float, original_context: int
) -> FloatArray:
    """The divisors that converters write to ``rope_freqs.weight`` for llama3 scaling: float32 [dims / 2].

    Wavelengths beyond ``original_context / low_frequency`` are stretched by ``factor``, those below
    ``original_context / high_frequency`` are kept, and between them the two are blended (Llama 3.1 model card).
    """
    half = dims // 2
    wavelengths = 2 * np.pi * theta ** (np.arange(half, dtype=np.float64) / half)
    smooth = (original_context / wavelengths - low_frequency) / (high_frequency - low_frequency)
    blended = 1 / ((1 - smooth) / factor + smooth)
    factors = np.where(smooth < 0, factor, np.where(smooth > 1, 1.0, blended))
    return factors.astype(np.float32)

"""Blocks to values: one function per type, each structures [n] (`LAYOUTS`) → float32 [n, groups, group size].

The arithmetic is done in float32 in the order
that GGML does it, so results are equal to its own to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from stride.gguf import quants_grids
from stride.gguf.arrays import Blocks, Bytes, Floats, Integers
from stride.gguf.quant_type import QuantType
from stride.gguf.quants_layout import BITS, IQ4_CODEBOOK, NIBBLES, PAIRS, spread

MXFP4_CODEBOOK = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)
"""Twice the values of OCP's E2M1 codes (the scale is halved in turn)."""


def _f32(column: npt.NDArray[np.generic]) -> Floats:
    """A column of block scales, [n] → float32 [n, 1, 1], against values [n, groups, group size]."""
    return column.astype(np.float32).reshape(-1, 1, 1)


def _grouped(codes: npt.NDArray[np.generic], group: int) -> Floats:
    return codes.reshape(len(codes), -1, group).astype(np.float32)


def k_scales(packed: Bytes) -> tuple[Bytes, Bytes]:
    """The 6-bit scales and minima of the eight groups of Q4_K and Q5_K: uint8 [n, 12] → two uint8 [n, 8]."""
    first, second, rest = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 63, (rest & 15) | (first >> 6 << 4)], axis=1)
    minima = np.concatenate([second & 63, (rest >> 4) | (second >> 6 << 4)], axis=1)
    return scales, minima


def _q4_0(b: Blocks) -> Floats:
    return _f32(b["d"]) * (_grouped(spread(b["q"], NIBBLES, 15, 16), 32) - np.float32(8))


def _q4_1(b: Blocks) -> Floats:
    return _f32(b["d"]) * _grouped(spread(b["q"], NIBBLES, 15, 16), 32) + _f32(b["m"])


def _five_bits(b: Blocks) -> Floats:
    high = np.unpackbits(b["high"], axis=1, bitorder="little")
    return _grouped(spread(b["q"], NIBBLES, 15, 16) | high << 4, 32)


def _q5_0(b: Blocks) -> Floats:
    return _f32(b["d"]) * (_five_bits(b) - np.float32(16))


def _q5_1(b: Blocks) -> Floats:
    return _f32(b["d"]) * _five_bits(b) + _f32(b["m"])


def _q8_0(b: Blocks) -> Floats:
    return _f32(b["d"]) * _grouped(b["q"], 32)


def _q2_k(b: Blocks) -> Floats:
    scale = _f32(b["d"]) * _grouped(b["scales"] & 15, 1)
    minimum = _f32(b["dmin"]) * _grouped(b["scales"] >> 4, 1)
    return scale * _grouped(spread(b["q"], PAIRS, 3, 32), 16) - minimum


def _q3_k(b: Blocks) -> Floats:
    low = spread(b["scales"][:, :8], NIBBLES, 15, 8)
    high = spread(b["scales"][:, 8:], PAIRS, 3, 4)
    scale = _f32(b["d"]) * (_grouped(low | high << 4, 1) - np.float32(32))
    codes: Integers = spread(b["q"], PAIRS, 3, 32) | spread(b["high"], BITS, 1, 32) << 2
    values: Floats = scale * (_grouped(codes, 16) - np.float32(4))
    return values


def _q4_k(b: Blocks) -> Floats:
    return _with_minima(b, spread(b["q"], NIBBLES, 15, 32))


def _q5_k(b: Blocks) -> Floats:
    return _with_minima(b, spread(b["q"], NIBBLES, 15, 32) | spread(b["high"], BITS, 1, 32) << 4)


def _with_minima(b: Blocks, codes: Integers) -> Floats:
    scales, minima = k_scales(b["scales"])
    return _f32(b["d"]) * _grouped(scales, 1) * _grouped(codes, 32) - _f32(b["dmin"]) * _grouped(minima, 1)


def _q6_k(b: Blocks) -> Floats:
    codes = spread(b["q"], NIBBLES, 15, 64) | spread(b["high"], PAIRS, 3, 32) << 4
    return _f32(b["d"]) * _grouped(b["scales"], 1) * (_grouped(codes, 16) - np.float32(32))


def _iq4_nl(b: Blocks) -> Floats:
    return _f32(b["d"]) * _grouped(IQ4_CODEBOOK[spread(b["q"], NIBBLES, 15, 16)], 32)


def iq4_xs_scales(b: Blocks) -> npt.NDArray[np.int8]:
    """The signed 6-bit scales of the eight groups: int8 [n, 8]."""
    low = spread(b["scales_low"], NIBBLES, 15, 1)
    high = spread(b["scales_high"][:, None], range(0, 16, 2), 3, 1)
    return (low | high << 4).view(np.int8) - np.int8(32)


def _iq4_xs(b: Blocks) -> Floats:
    scale = _f32(b["d"]) * _grouped(iq4_xs_scales(b), 1)
    return scale * _grouped(IQ4_CODEBOOK[spread(b["q"], NIBBLES, 15, 16)], 32)


def _mxfp4(b: Blocks) -> Floats:
    exponent = b["exponent"].astype(np.uint32)
    # 2^(exponent - 128): the last two are subnormal numbers.
    half = np.where(exponent < 2, np.uint32(0x200000) << exponent, (exponent - 1) << 23).astype(np.uint32)
    return _f32(half.view(np.float32)) * MXFP4_CODEBOOK[spread(b["q"], NIBBLES, 15, 16)].reshape(-1, 1, 32)


def _signs(bits: Bytes) -> Floats:
    """uint8 [n, k] → float32 [n, k, 8] of 1 and, where a bit is set, -1."""
    return np.float32(1) - np.float32(2) * _grouped(np.unpackbits(bits, axis=1, bitorder="little"), 8)


_SEVEN = np.arange(128, dtype=np.uint8)
_EVEN_SIGNS = _SEVEN | (np.unpackbits(_SEVEN[:, None], axis=1).sum(1) % 2).astype(np.uint8) << 7
"""Seven stored sign bits to eight: the eighth makes the number of minus signs even."""


def _packed_signs(words: npt.NDArray[np.uint32]) -> Floats:
    """Four times seven sign bits in each word: uint32 [n, 8] → float32 [n, 32, 8]."""
    return _signs(_EVEN_SIGNS[spread(words, (0, 7, 14, 21), 127, 1)])


def _points(b: Blocks, scale: Floats, grid: Floats, index: Integers, signs: Floats) -> Floats:
    """Points of a grid times their group's scale times the signs; each scale [n, groups, 1] serves equally many."""
    values = scale * grid[index].reshape(len(b), scale.shape[1], -1)
    return (values.reshape(signs.shape) * signs).reshape(len(b), -1)


def _iq2_scale(b: Blocks, codes: Integers) -> Floats:
    return _f32(b["d"]) * (np.float32(0.5) + _grouped(codes, 1)) * np.float32(0.25)


def _iq2_xxs(b: Blocks) -> Floats:
    words = np.ascontiguousarray(b["groups"]["signs"])
    index = b["groups"]["points"].reshape(len(b), -1)
    return _points(b, _iq2_scale(b, words >> 28), quants_grids.IQ2_XXS, index, _packed_signs(words))


def _iq2_xs(b: Blocks) -> Floats:
    scale = _iq2_scale(b, spread(b["scales"], NIBBLES, 15, 1))
    return _points(b, scale, quants_grids.IQ2_XS, b["q"] & 511, _signs(_EVEN_SIGNS[b["q"] >> 9]))


def _iq2_s(b: Blocks) -> Floats:
    scale = _iq2_scale(b, spread(b["scales"], NIBBLES, 15, 1))
    index = b["q"].astype(np.uint16) | spread(b["high"], PAIRS, 3, 1).astype(np.uint16) << 8
    return _points(b, scale, quants_grids.IQ2_S, index, _signs(b["signs"]))


def _iq3_xxs(b: Blocks) -> Floats:
    words = np.ascontiguousarray(b["signs"])
    scale = _f32(b["d"]) * (np.float32(0.5) + _grouped(words >> 28, 1)) * np.float32(0.5)
    return _points(b, scale, quants_grids.IQ3_XXS, b["q"], _packed_signs(words))


def _iq3_s(b: Blocks) -> Floats:
    scale = _f32(b["d"]) * (1 + 2 * _grouped(spread(b["scales"], NIBBLES, 15, 1), 1))
    index = b["q"].astype(np.uint16) | spread(b["high"], BITS, 1, 1).astype(np.uint16) << 8
    return _points(b, scale, quants_grids.IQ3_S, index, _signs(b["signs"]))


DECODERS: dict[QuantType, Callable[[Blocks], Floats]] = {
    QuantType.Q4_0: _q4_0,
    QuantType.Q4_1: _q4_1,
    QuantType.Q5_0: _q5_0,
    QuantType.Q5_1: _q5_1,
    QuantType.Q8_0: _q8_0,
    QuantType.Q2_K: _q2_k,
    QuantType.Q3_K: _q3_k,
    QuantType.Q4_K: _q4_k,
    QuantType.Q5_K: _q5_k,
    QuantType.Q6_K: _q6_k,
    QuantType.IQ2_XXS: _iq2_xxs,
    QuantType.IQ2_XS: _iq2_xs,
    QuantType.IQ2_S: _iq2_s,
    QuantType.IQ3_XXS: _iq3_xxs,
    QuantType.IQ3_S: _iq3_s,
    QuantType.IQ4_NL: _iq4_nl,
    QuantType.IQ4_XS: _iq4_xs,
    QuantType.MXFP4: _mxfp4,
}

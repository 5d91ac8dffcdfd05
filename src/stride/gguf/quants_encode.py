"""Values to blocks: one function per type, each fills structures [n] (`LAYOUTS`) from float32 [n, block_size].

All minimise the plain squared error, without an importance matrix. A group's scale is the least-squares fit to the
codes of the best of several trial scales around the one that maps the largest value to the end of the codes' range;
where the scales are quantised in turn, the block's scale is fitted again to the codes that this leads to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from stride.gguf.arrays import Blocks, Bytes, Floats
from stride.gguf.quant_type import QuantType
from stride.gguf.quants_layout import BITS, IQ4_CODEBOOK, NIBBLES, PAIRS, gather

Nearest = Callable[[Floats], Floats]
"""Scaled values to the nearest values that a code can have."""


def _integers(low: int, high: int) -> Nearest:
    def nearest(scaled: Floats) -> Floats:
        return np.clip(np.rint(scaled), low, high)

    return nearest


_HALVES = np.arange(-256, 256) / 2
_IQ4_CODES = np.abs(_HALVES[:, None] + 0.25 - IQ4_CODEBOOK).argmin(axis=1).astype(np.uint8)
"""The nearest code for each interval of half a unit: all borders between codes are multiples of that."""


def _iq4_codes(scaled: Floats) -> Bytes:
    index = np.floor(2 * np.clip(scaled, -128, 127.5)).astype(np.int16) + np.int16(256)
    codes: Bytes = _IQ4_CODES[index]
    return codes


def _iq4_nearest(scaled: Floats) -> Floats:
    return IQ4_CODEBOOK.astype(np.float32)[_iq4_codes(scaled)]


def _inverse(x: Floats) -> Floats:
    """1 / x, and 0 where x is nothing, or so little that no half-precision scale can be made of it."""
    return np.divide(np.float32(1), x, out=np.zeros_like(x), where=np.abs(x) > 1e-30)


def _f16(x: Floats) -> Floats:
    """Rounded to what a block's half-precision scale can be."""
    return x.astype(np.float16).astype(np.float32)


def _peak(x: Floats) -> Floats:
    """The value of largest magnitude along the last axis, with its sign, that axis kept."""
    return np.take_along_axis(x, np.abs(x).argmax(axis=-1, keepdims=True), axis=-1)


def _fit_scale(groups: Floats, nearest: Nearest, ends: Iterable[float]) -> Floats:
    """Scales [..., 1] of groups [..., size], by trial: the largest value is mapped to each of ``ends``."""
    to_unit = _inverse(_peak(groups))
    scale = np.zeros_like(to_unit)
    best = np.zeros_like(to_unit)
    for end in ends:
        codes = nearest(groups * (to_unit * np.float32(end)))
        product = np.einsum("...i,...i->...", groups, codes)[..., None]
        square = np.einsum("...i,...i->...", codes, codes)[..., None]
        fitted = product * _inverse(square)
        gain = product * fitted  # by how much this lowers the squared error
        scale = np.where(gain > best, fitted, scale)
        best = np.maximum(gain, best)
    return scale


def _fit_affine(groups: Floats, top: int, ends: Iterable[float]) -> tuple[Floats, Floats]:
    """(scales, minima), each [..., 1] and not negative, so that groups ≈ scale * codes - minimum, codes 0 to top."""
    low = np.minimum(groups.min(axis=-1, keepdims=True), 0)
    above = groups - low
    to_unit = _inverse(above.max(axis=-1, keepdims=True))
    size, sum_x = groups.shape[-1], groups.sum(axis=-1, keepdims=True)
    scale, minimum = np.zeros_like(low), np.maximum(-sum_x / size, 0)
    best = minimum * (2 * sum_x + size * minimum)
    for end in ends:
        codes = np.clip(np.rint(above * (to_unit * np.float32(end))), 0, top)
        sum_q = codes.sum(axis=-1, keepdims=True)
        sum_qq = np.einsum("...i,...i->...", codes, codes)[..., None]
        sum_qx = np.einsum("...i,...i->...", codes, groups)[..., None]
        determinant = _inverse(size * sum_qq - sum_q * sum_q)
        trial = (size * sum_qx - sum_q * sum_x) * determinant
        offset = (sum_q * sum_qx - sum_qq * sum_x) * determinant
        through_zero = (offset < 0) | (determinant <= 0)
        trial = np.where(through_zero, sum_qx * _inverse(sum_qq), trial)
        offset = np.where(through_zero, 0, offset)
        # The squared error, less the part that all trials share.
        error = trial * (trial * sum_qq - 2 * sum_qx - 2 * offset * sum_q) + offset * (2 * sum_x + size * offset)
        better = (error < best) & (trial >= 0)
        scale, minimum = np.where(better, trial, scale), np.where(better, offset, minimum)
        best = np.where(better, error, best)
    return scale, minimum


def _around(end: float, step: float, count: int) -> list[float]:
    """``end`` and ``count`` values to either side."""
    return [end + step * i for i in range(-count, count + 1)]


IQ4_ENDS = (*_around(-127, 3, 6), *_around(113, 3, 6))
"""The largest value may become either end of the codebook, which is not symmetric."""


# --- types with one scale per group of 32 -----------------------------------------------------


def _q8_0(values: Floats, out: Blocks) -> None:
    """Codes round to nearest, ties away from zero, against the unrounded scale, as GGML does."""
    scale = np.abs(values).max(axis=1) / np.float32(127)
    scaled = values * _inverse(scale)[:, None]
    out["d"] = scale
    out["q"] = np.trunc(scaled + np.copysign(np.float32(0.5), scaled))


def _q4_0(values: Floats, out: Blocks) -> None:
    nearest = _integers(-8, 7)
    scale = _f16(_fit_scale(values, nearest, _around(-8, 0.15, 8)))
    out["d"] = scale[:, 0]
    out["q"] = gather((nearest(values * _inverse(scale)) + 8).astype(np.uint8), NIBBLES, 16)


def _iq4_nl(values: Floats, out: Blocks) -> None:
    scale = _f16(_fit_scale(values, _iq4_nearest, IQ4_ENDS))
    out["d"] = scale[:, 0]
    out["q"] = gather(_iq4_codes(values * _inverse(scale)), NIBBLES, 16)


# --- types with blocks of groups, whose scales are quantised too ------------------------------


def _quantize_scales(groups: Floats, scales: Floats, nearest: Nearest, low: int, high: int) -> tuple[Floats, Floats]:
    """The block's scale [n, 1, 1] (a half-precision number) and its groups' integer scales [n, groups, 1]."""
    block_scale = _peak(scales[..., 0])[..., None] / np.float32(low)
    integers = np.clip(np.rint(scales * _inverse(block_scale)), low, high)
    codes = nearest(groups * _inverse(block_scale * integers)) * integers
    product = np.einsum("nij,nij->n", groups, codes)[:, None, None]
    square = np.einsum("nij,nij->n", codes, codes)[:, None, None]
    return _f16(product * _inverse(square)), integers


def _q6_k(values: Floats, out: Blocks) -> None:
    groups = values.reshape(-1, 16, 16)
    nearest = _integers(-32, 31)
    scales = _fit_scale(groups, nearest, _around(-32, 0.25, 6))
    block_scale, integers = _quantize_scales(groups, scales, nearest, -128, 127)
    codes = (nearest(groups * _inverse(block_scale * integers)) + 32).astype(np.uint8).reshape(-1, 256)
    out["d"] = block_scale[:, 0, 0]
    out["scales"] = integers[..., 0]
    out["q"] = gather(codes & 15, NIBBLES, 64)
    out["high"] = gather(codes >> 4, PAIRS, 32)


def _iq4_xs(values: Floats, out: Blocks) -> None:
    groups = values.reshape(-1, 8, 32)
    scales = _fit_scale(groups, _iq4_nearest, IQ4_ENDS)
    block_scale, integers = _quantize_scales(groups, scales, _iq4_nearest, -32, 31)
    packed = (integers[..., 0] + 32).astype(np.uint8)
    out["d"] = block_scale[:, 0, 0]
    out["scales_low"] = gather(packed & 15, NIBBLES, 1)
    out["scales_high"] = gather((packed >> 4).astype(np.uint16), range(0, 16, 2), 1)[:, 0]
    out["q"] = gather(_iq4_codes(groups * _inverse(block_scale * integers)).reshape(-1, 256), NIBBLES, 16)


def _k_affine(values: Floats, out: Blocks, top: int) -> Bytes:
    """Fill in the scales and minima of Q4_K or Q5_K; gives the codes, [n, 256]."""
    groups = values.reshape(-1, 8, 32)
    scales, minima = _fit_affine(groups, top, _around(top, 0.1, 10))
    block_scale, block_minimum = (part.max(axis=1, keepdims=True) / np.float32(63) for part in (scales, minima))
    scale_codes = np.rint(scales * _inverse(block_scale))
    minimum_codes = np.rint(minima * _inverse(block_minimum))

    nearest = _integers(0, top)

    def codes(d: Floats, dmin: Floats) -> Floats:
        return nearest((groups + dmin * minimum_codes) * _inverse(d * scale_codes))

    block_scale, block_minimum = _refit(
        groups, codes(block_scale, block_minimum) * scale_codes, minimum_codes, block_scale, block_minimum
    )
    out["d"], out["dmin"] = block_scale[:, 0, 0], block_minimum[:, 0, 0]
    out["scales"] = _pack_k_scales(scale_codes[..., 0].astype(np.uint8), minimum_codes[..., 0].astype(np.uint8))
    return codes(block_scale, block_minimum).astype(np.uint8).reshape(-1, 256)


def _refit(x: Floats, a: Floats, b: Floats, scale: Floats, minimum: Floats) -> tuple[Floats, Floats]:
    """The (scale, minimum) of each block that are best for x ≈ scale * a - minimum * b, where both are positive."""
    b = np.broadcast_to(b, x.shape)
    aa, ab, bb, ax, bx = (
        np.einsum("nij,nij->n", left, right)[:, None, None] for left, right in ((a, a), (a, b), (b, b), (a, x), (b, x))
    )
    determinant = _inverse(aa * bb - ab * ab)
    fitted = (ax * bb - ab * bx) * determinant, (ax * ab - aa * bx) * determinant
    good = (fitted[0] > 0) & (fitted[1] > 0) & (determinant > 0)
    return _f16(np.where(good, fitted[0], scale)), _f16(np.where(good, fitted[1], minimum))


def _pack_k_scales(scales: Bytes, minima: Bytes) -> Bytes:
    """Two uint8 [n, 8] of 6 bits to uint8 [n, 12]; the inverse of `quants_decode.k_scales`."""
    first = (scales[:, :4] & 63) | scales[:, 4:] >> 4 << 6
    second = (minima[:, :4] & 63) | minima[:, 4:] >> 4 << 6
    return np.concatenate([first, second, scales[:, 4:] & 15 | (minima[:, 4:] & 15) << 4], axis=1)


def _q4_k(values: Floats, out: Blocks) -> None:
    out["q"] = gather(_k_affine(values, out, 15), NIBBLES, 32)


def _q5_k(values: Floats, out: Blocks) -> None:
    codes = _k_affine(values, out, 31)
    out["q"] = gather(codes & 15, NIBBLES, 32)
    out["high"] = gather(codes >> 4, BITS, 32)


ENCODERS: dict[QuantType, Callable[[Floats, Blocks], None]] = {
    QuantType.Q4_0: _q4_0,
    QuantType.Q8_0: _q8_0,
    QuantType.Q4_K: _q4_k,
    QuantType.Q5_K: _q5_k,
    QuantType.Q6_K: _q6_k,
    QuantType.IQ4_NL: _iq4_nl,
    QuantType.IQ4_XS: _iq4_xs,
}

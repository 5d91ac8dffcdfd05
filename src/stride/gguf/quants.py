"""Quantised data to float32 and back, for arrays of any size; the types themselves are in `quant_type`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stride.errors import UnsupportedError
from stride.gguf.arrays import Bytes, Floats
from stride.gguf.quant_type import QuantType
from stride.gguf.quants_decode import DECODERS
from stride.gguf.quants_encode import ENCODERS
from stride.gguf.quants_layout import LAYOUTS

__all__ = ["DEQUANTIZABLE", "QUANTIZABLE", "QuantType", "dequantize", "quantize"]

PLAIN: dict[QuantType, np.dtype[np.generic]] = {
    QuantType.F32: np.dtype("<f4"),
    QuantType.F16: np.dtype("<f2"),
    QuantType.F64: np.dtype("<f8"),
    QuantType.I8: np.dtype("i1"),
    QuantType.I16: np.dtype("<i2"),
    QuantType.I32: np.dtype("<i4"),
    QuantType.I64: np.dtype("<i8"),
}
"""Types that are arrays of numbers as they are."""

DEQUANTIZABLE = frozenset({*PLAIN, QuantType.BF16, *DECODERS})
"""Types that `dequantize` knows."""

QUANTIZABLE = frozenset({QuantType.F32, QuantType.F64, QuantType.F16, QuantType.BF16, *ENCODERS})
"""Types that `quantize` knows."""

F16_MAX = 65504
UNBOUNDED = frozenset({QuantType.F32, QuantType.F64, QuantType.BF16})
"""Types without half-precision numbers, whose range bounds the others."""

CHUNK_VALUES = 1 << 20
"""Values that are worked on at a time: bounds the memory of the intermediate arrays."""


def dequantize(data: Bytes, type: QuantType) -> Floats:
    """Values of quantised rows: uint8 [..., row bytes] → float32 [..., row length].

    Raises:
        UnsupportedError: a type that Stride does not read.
        ValueError: rows that are no whole number of blocks.
    """
    if type not in DEQUANTIZABLE:
        raise UnsupportedError(f"tensors of type {type.label} cannot be read")
    *leading, row_bytes = data.shape
    if row_bytes % type.block_bytes:
        raise ValueError(
            f"a row of {row_bytes} bytes is no whole number of {type.block_bytes}-byte {type.label} blocks"
        )
    shape = (*leading, row_bytes // type.block_bytes * type.block_size)
    flat = np.ascontiguousarray(data).reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        if type in PLAIN:
            return flat.view(PLAIN[type]).astype(np.float32).reshape(shape)
        if type is QuantType.BF16:
            return (flat.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
        blocks = flat.view(LAYOUTS[type])
        values = np.empty((len(blocks), type.block_size), np.float32)
        step = CHUNK_VALUES // type.block_size
        for start in range(0, len(blocks), step):
            part = blocks[start : start + step]
            values[start : start + step] = DECODERS[type](part).reshape(len(part), -1)
    return values.reshape(shape)


def quantize(values: npt.ArrayLike, type: QuantType) -> Bytes:
    """Rows of values in blocks: float32 [..., row length] → uint8 [..., row bytes].

    Raises:
        UnsupportedError: a type that Stride does not write.
        ValueError: rows that are no whole number of blocks, or values that are too large for the type or not finite.
    """
    if type not in QUANTIZABLE:
        raise UnsupportedError(f"tensors of type {type.label} cannot be written")
    array = np.ascontiguousarray(values)
    *leading, row_length = array.shape
    if row_length % type.block_size:
        raise ValueError(f"a row of {row_length} values is no whole number of {type.label} blocks of {type.block_size}")
    shape = (*leading, type.row_bytes(row_length))
    if type not in UNBOUNDED and not np.abs(array).max(initial=0) <= F16_MAX:
        raise ValueError(f"{type.label} holds finite values up to ±{F16_MAX} only")
    if type in PLAIN:
        return array.astype(PLAIN[type]).view(np.uint8).reshape(shape)
    flat = array.astype(np.float32, copy=False).reshape(-1, type.block_size)
    if type is QuantType.BF16:
        return _bf16(flat).view(np.uint8).reshape(shape)
    blocks = np.zeros(len(flat), LAYOUTS[type])
    step = CHUNK_VALUES // type.block_size
    for start in range(0, len(flat), step):
        ENCODERS[type](flat[start : start + step], blocks[start : start + step])
    return blocks.view(np.uint8).reshape(shape)


def _bf16(values: Floats) -> npt.NDArray[np.uint16]:
    """The upper half of each float32, rounded to nearest, ties to even; NaN stays NaN."""
    bits = values.view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + (bits >> 16 & 1))) >> 16
    return np.where(np.isnan(values), bits >> 16 | 64, rounded).astype("<u2")

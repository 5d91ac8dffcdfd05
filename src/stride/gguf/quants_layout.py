"""How blocks lie in bytes: a numpy structure per type, the codebook of the IQ4 types, and unpacking of small codes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from stride.gguf.arrays import Bytes, Integers
from stride.gguf.quant_type import QuantType

IQ4_CODEBOOK = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
"""Values of the 4-bit codes of IQ4_NL and IQ4_XS."""

NIBBLES = (0, 4)
PAIRS = (0, 2, 4, 6)
BITS = (0, 1, 2, 3, 4, 5, 6, 7)

_FIELDS: dict[QuantType, list[Any]] = {
    QuantType.Q4_0: [("d", "<f2"), ("q", "u1", 16)],
    QuantType.Q4_1: [("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)],
    QuantType.Q5_0: [("d", "<f2"), ("high", "u1", 4), ("q", "u1", 16)],
    QuantType.Q5_1: [("d", "<f2"), ("m", "<f2"), ("high", "u1", 4), ("q", "u1", 16)],
    QuantType.Q8_0: [("d", "<f2"), ("q", "i1", 32)],
    QuantType.Q2_K: [("scales", "u1", 16), ("q", "u1", 64), ("d", "<f2"), ("dmin", "<f2")],
    QuantType.Q3_K: [("high", "u1", 32), ("q", "u1", 64), ("scales", "u1", 12), ("d", "<f2")],
    QuantType.Q4_K: [("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("q", "u1", 128)],
    QuantType.Q5_K: [("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("high", "u1", 32), ("q", "u1", 128)],
    QuantType.Q6_K: [("q", "u1", 128), ("high", "u1", 64), ("scales", "i1", 16), ("d", "<f2")],
    QuantType.IQ2_XXS: [("d", "<f2"), ("groups", [("points", "u1", 4), ("signs", "<u4")], 8)],
    QuantType.IQ2_XS: [("d", "<f2"), ("q", "<u2", 32), ("scales", "u1", 8)],
    QuantType.IQ2_S: [("d", "<f2"), ("q", "u1", 32), ("signs", "u1", 32), ("high", "u1", 8), ("scales", "u1", 8)],
    QuantType.IQ3_XXS: [("d", "<f2"), ("q", "u1", 64), ("signs", "<u4", 8)],
    QuantType.IQ3_S: [("d", "<f2"), ("q", "u1", 64), ("high", "u1", 8), ("signs", "u1", 32), ("scales", "u1", 4)],
    QuantType.IQ4_NL: [("d", "<f2"), ("q", "u1", 16)],
    QuantType.IQ4_XS: [("d", "<f2"), ("scales_high", "<u2"), ("scales_low", "u1", 4), ("q", "u1", 128)],
    QuantType.MXFP4: [("exponent", "u1"), ("q", "u1", 16)],
}
LAYOUTS = {kind: np.dtype(fields) for kind, fields in _FIELDS.items()}
"""Blocks as structures: d is the block's scale, dmin or m that of its minima, q the low bits of its codes."""


def spread(packed: npt.NDArray[np.unsignedinteger], shifts: Iterable[int], mask: int, run: int) -> Bytes:
    """Unpack codes that lie in runs: the first shift gives a run of ``run`` codes, the second the next, and so on.

    [n, width] → uint8 [n, width * len(shifts)].
    """
    steps = np.array(list(shifts), packed.dtype)[:, None]
    codes = (packed.reshape(len(packed), -1, 1, run) >> steps) & packed.dtype.type(mask)
    return codes.reshape(len(packed), -1).astype(np.uint8, copy=False)


def gather(codes: Integers, shifts: Iterable[int], run: int) -> Integers:
    """Pack codes as `spread` unpacks them: [n, width * len(shifts)] → [n, width], of the codes' own type."""
    steps = np.array(list(shifts), codes.dtype)[:, None]
    shifted = codes.reshape(len(codes), -1, len(steps), run) << steps
    packed: Integers = np.bitwise_or.reduce(shifted, axis=2).reshape(len(codes), -1)
    return packed

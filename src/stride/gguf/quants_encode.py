"""Values to blocks: one function per type, each fills structures [n] (`LAYOUTS`) from float32 [n, block_size]."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stride.gguf.arrays import Blocks, Floats
from stride.gguf.quant_type import QuantType


def _q8_0(values: Floats, out: Blocks) -> None:
    """Codes round to nearest, ties away from zero, against the unrounded scale, as GGML does."""
    scale = np.abs(values).max(axis=1) / np.float32(127)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    scaled = values * inverse[:, None]
    out["d"] = scale
    out["q"] = np.trunc(scaled + np.copysign(np.float32(0.5), scaled))


ENCODERS: dict[QuantType, Callable[[Floats, Blocks], None]] = {
    QuantType.Q8_0: _q8_0,
}

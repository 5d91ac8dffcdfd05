"""Look for numbers that are not finite in a model's weights and scales."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from stride.errors import ModelFileError
from stride.gguf.arrays import Bytes
from stride.gguf.quant_type import QuantType
from stride.gguf.quants import PLAIN
from stride.gguf.quants_layout import LAYOUTS
from stride.gguf.reader import GGUFFile, Tensor

CHUNK_BYTES = 16 << 20
Progress = Callable[[int, int], None]
"""Called with (bytes checked so far, bytes in all)."""


def check_values(file: GGUFFile, progress: Progress | None = None) -> list[str]:
    """Read every tensor and check its numbers; gives the names of types that could not be checked.

    Raises:
        ModelFileError: names the first tensor, and the offset of its first block, with NaN or infinity.
    """
    done, n_bytes = 0, sum(tensor.n_bytes for tensor in file.tensors.values())
    unchecked = set()
    for tensor in file.tensors.values():
        if tensor.type in PLAIN or tensor.type is QuantType.BF16 or tensor.type in LAYOUTS:
            _check_tensor(tensor)
        else:
            unchecked.add(tensor.type.label)
        done += tensor.n_bytes
        if progress is not None:
            progress(done, n_bytes)
    return sorted(unchecked)


def _check_tensor(tensor: Tensor) -> None:
    step = max(1, CHUNK_BYTES // tensor.row_bytes)
    for first in range(0, math.prod(tensor.shape[:-1]), step):
        bad = np.flatnonzero(~_finite_blocks(tensor.read(first, first + step).reshape(-1), tensor.type))
        if len(bad):
            offset = tensor.offset + first * tensor.row_bytes + int(bad[0]) * tensor.type.block_bytes
            what = "value" if tensor.type.block_size == 1 else "scale"
            raise ModelFileError(
                f"a {what} is not a finite number", path=tensor.path, tensor=tensor.name, offset=offset
            )


def _finite_blocks(data: Bytes, kind: QuantType) -> npt.NDArray[np.bool_]:
    """Which blocks hold finite numbers only: bool [blocks]."""
    finite: npt.NDArray[np.bool_]
    if kind in PLAIN:
        finite = np.isfinite(data.view(PLAIN[kind]))
        return finite
    if kind is QuantType.BF16:
        finite = data.view("<u2") & 0x7F80 != 0x7F80
        return finite
    blocks = data.view(LAYOUTS[kind])
    finite = np.ones(len(blocks), np.bool_)
    for name in {"d", "dmin", "m"} & set(blocks.dtype.names or ()):
        finite &= np.isfinite(blocks[name])
    if kind is QuantType.MXFP4:
        finite &= blocks["exponent"] != 255
    return finite

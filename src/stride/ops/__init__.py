"""Backends: the operations that models are written against, and what runs them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stride.errors import UnsupportedError

if TYPE_CHECKING:
    from stride.ops.api import Backend

BACKENDS = ("auto", "cpu", "numpy")


def load(name: str = "auto", threads: int | None = None, model: Sequence[Path] = ()) -> Backend:
    """The backend of that name; ``auto`` is the fastest that runs here (and says so where that is slow).

    ``model``: the parts of the model that will be read, for backends that keep a copy of their own beside them.

    Raises:
        UnsupportedError: no such backend, or it cannot run here; says why.
    """
    if name not in BACKENDS:
        raise UnsupportedError(f"there is no backend {name!r}; there are: {', '.join(BACKENDS)}")
    if name in ("auto", "cpu"):
        try:
            from stride.ops.cpu import CpuBackend
        except ImportError as error:
            if name == "cpu":
                raise UnsupportedError(f"the C++ extension is not installed here: {error}") from error
            print(f"stride: no C++ extension: using the numpy backend, which is slow ({error})", file=sys.stderr)
        else:
            return CpuBackend(threads, model=model)
    from stride.ops.numpy import NumpyBackend

    return NumpyBackend()

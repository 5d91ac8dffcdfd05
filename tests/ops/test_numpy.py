"""What only the numpy backend promises: dequantised weights are kept within a budget, which is told beforehand."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from stride.gguf import QuantType
from stride.ops import numpy
from stride.ops.numpy import NumpyBackend


@pytest.mark.parametrize("budget", [0, 4 * 32 * 256, 10 * 32 * 256, 1 << 30])
def test_no_order_of_loading_holds_more_than_was_told(
    budget: int, make_tensor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numpy, "KEPT_BYTES", budget)
    tensors = [
        make_tensor(kind, rows, 256)
        for kind, rows in ((QuantType.Q4_K, 32), (QuantType.Q8_0, 48), (QuantType.F16, 16), (QuantType.F32, 8))
    ]
    for order in permutations(tensors):
        backend = NumpyBackend()
        told = backend.held_bytes(*tensors)
        held = sum(backend.weight(tensor).n_bytes for tensor in order)
        assert held <= told <= sum(tensor.n_bytes for tensor in tensors) + budget
        assert backend.held_bytes(*tensors) == told
    if budget == 1 << 30:
        assert held == told

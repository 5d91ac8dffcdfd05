"""A backend that times another, operation by operation: where a step's time goes, and at how many bytes per second."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, cast

import numpy as np

from stride.ops.api import PAGE_TOKENS, Backend, Batch, GatedFFN


@dataclass(slots=True)
class OperationTimes:
    """All calls of one operation. ``n_bytes``: weights, keys and values read, each once per call, of experts only the
    chosen, of the cache the pages that are seen."""

    calls: int = 0
    seconds: float = 0.0
    n_bytes: int = 0

    @property
    def bytes_per_second(self) -> float:
        return self.n_bytes / self.seconds if self.seconds > 0 else 0.0


class Profiler:
    """Passes every operation on to a backend and keeps the books.

    Attributes:
        times: by operation, in order of first use.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.times: dict[str, OperationTimes] = {}

    @property
    def backend(self) -> Backend:
        """This object as the backend it stands in for."""
        return cast("Backend", self)

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._backend, name)
        return self._timed(name, operation) if callable(operation) else operation

    def _timed(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = operation(*args, **kwargs)
            times = self.times.setdefault(name, OperationTimes())
            times.seconds += time.perf_counter() - start
            times.calls += 1
            times.n_bytes += bytes_read(name, args, kwargs)
            return result

        return call


def bytes_read(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """Bytes of weights, or of keys and values, that a call reads once; 0 for operations without them."""
    match name, args:
        case "embed", (table, token_ids):
            return int(table.n_bytes // table.shape[0] * len(token_ids))
        case "linear", (_, weights, *_):
            return sum(weight.n_bytes for weight in weights)
        case "ffn", (_, weights):
            return _gated_bytes(weights)
        case "route", (_, router, *_):
            return int(router.n_bytes)
        case "experts", (_, ids, _, routed, shared):
            chosen = len(np.unique(ids)) / routed.gate.shape[0]
            return int(_gated_bytes(routed) * chosen) + (0 if shared is None else _gated_bytes(shared))
        case "attention", (_, pool):
            return _pages_seen(kwargs["batch"], kwargs["window"]) * int(pool.page_bytes)
    return 0


def _pages_seen(batch: Batch, window: int | None) -> int:
    """Pages that any token of each row looks at."""
    starts = batch.row_starts[:-1][np.diff(batch.row_starts) > 0]
    first, last = batch.positions[starts], batch.positions[np.append(starts[1:], len(batch.positions)) - 1]
    seen = np.zeros_like(first) if window is None else np.maximum(0, first - window + 1)
    return int((last // PAGE_TOKENS - seen // PAGE_TOKENS + 1).sum())


def _gated_bytes(weights: GatedFFN) -> int:
    matrices = (getattr(weights, field.name) for field in fields(weights) if field.name != "limit")
    return sum(matrix.n_bytes for matrix in matrices)

"""A backend that notes which experts another chose, layer by layer: how a routing trace is recorded."""

from __future__ import annotations

from typing import Any, cast

from stride.experts.trace import Recorder
from stride.ops.api import Array, Backend, FloatArray, IntArray, Routing, Weight


class RouteRecorder:
    """Passes every operation on to a backend; what `route` gives goes to a recorder too.

    A model's layers run in order, so a router that was not seen before is that of the next layer.
    """

    def __init__(self, backend: Backend, recorder: Recorder) -> None:
        self._backend = backend
        self._recorder = recorder
        self._layers: dict[int, tuple[int, Weight]] = {}  # the weight is kept, so that its id is not another's

    @property
    def backend(self) -> Backend:
        """This object as the backend it stands in for."""
        return cast("Backend", self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def route(self, x: Array, router: Weight, bias: Array | None, routing: Routing) -> tuple[IntArray, FloatArray]:
        ids, weights = self._backend.route(x, router, bias, routing)
        layer, _ = self._layers.setdefault(id(router), (len(self._layers), router))
        self._recorder.record(layer, ids)
        return ids, weights

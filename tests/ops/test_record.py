"""A recorder around a backend notes what each layer's router chose, and changes nothing."""

import numpy as np

from stride.experts.trace import Recorder, Shape, read_trace
from stride.models import load_model
from stride.models.session import Session
from stride.ops.numpy import NumpyBackend
from stride.ops.record import RouteRecorder

GOLDEN = "tests/golden/step35-odd-heads.gguf"


class Noting(NumpyBackend):
    """The oracle, which keeps what it routed."""

    def __init__(self):
        super().__init__()
        self.routed = []

    def route(self, *args):
        ids, weights = super().route(*args)
        self.routed.append(ids)
        return ids, weights


def test_each_layer_is_known_by_its_router(tmp_path):
    backend = Noting()
    decoder = load_model(GOLDEN, backend)
    shape = decoder.config.experts
    assert isinstance(shape, Shape)
    assert shape.n_layers == sum(block.router is not None for block in decoder.blocks)
    plain = Session(decoder, 8).feed([1, 2, 3])
    backend.routed.clear()
    with Recorder(tmp_path / "t", shape) as recorder:
        session = Session(decoder.on(RouteRecorder(backend, recorder).backend), 8)
        session.feed([1], 0)  # nothing is wanted: the last layer's experts are not asked
        session.feed([2])
        session.feed([3])
        recorded = Session(decoder.on(RouteRecorder(backend, recorder).backend), 8).feed([1, 2, 3])
    np.testing.assert_array_equal(recorded, plain)
    trace = read_trace(tmp_path / "t")
    every = list(range(shape.n_layers))
    assert [[record.layer for record in step] for step in trace.steps()] == [every[:-1], every, every, every]
    assert len(trace.records) == len([ids for ids in backend.routed if len(ids)])
    for record, ids in zip(trace.records, (ids for ids in backend.routed if len(ids)), strict=True):
        np.testing.assert_array_equal(record.ids, ids)

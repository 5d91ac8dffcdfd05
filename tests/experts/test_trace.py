"""Routing traces: what is written is read, and nothing else is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.experts.routings import traces

from stride.errors import StrideError
from stride.experts.trace import Recorder, Shape, read_trace


def write(path, trace):
    with Recorder(path, trace.shape) as recorder:
        for record in trace.records:
            recorder.record(record.layer, record.ids)
    return path


@given(trace=traces())
@settings(max_examples=30, deadline=None)
def test_what_is_written_is_read(tmp_path_factory, trace):
    found = read_trace(write(tmp_path_factory.mktemp("trace") / "t", trace))
    assert found.shape == trace.shape
    assert [record.layer for record in found.records] == [record.layer for record in trace.records]
    for ours, theirs in zip(found.records, trace.records, strict=True):
        np.testing.assert_array_equal(ours.ids, theirs.ids)


@pytest.fixture
def path(tmp_path):
    with Recorder(tmp_path / "t", Shape("a model ✓", 2, 300, 2)) as recorder:
        for ids in ([[1, 299]], [[5, 6], [7, 8]]):
            for layer in range(2):
                recorder.record(layer, np.array(ids, np.int32))
    return tmp_path / "t"


def test_steps_end_where_a_layer_comes_again(path):
    steps = list(read_trace(path).steps())
    assert [[record.layer for record in step] for step in steps] == [[0, 1], [0, 1]]
    assert steps[0][1].ids.tolist() == [[1, 299]]


def test_a_layer_without_tokens_is_not_on_record(tmp_path):
    with Recorder(tmp_path / "t", Shape("m", 2, 4, 1)) as recorder:
        recorder.record(0, np.array([[1]]))
        recorder.record(1, np.empty((0, 1), np.int32))
        recorder.record(0, np.array([[2]]))
    assert [[record.layer for record in step] for step in read_trace(tmp_path / "t").steps()] == [[0], [0]]


def test_cut_at_every_byte_it_is_refused(path):
    data = path.read_bytes()
    for n in range(len(data)):
        path.write_bytes(data[:n])
        with pytest.raises(StrideError, match="is no routing trace"):
            read_trace(path)


def test_with_any_byte_changed_or_added_it_is_refused(path):
    data = path.read_bytes()
    for i in range(len(data)):
        path.write_bytes(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :])
        with pytest.raises(StrideError, match="is no routing trace"):
            read_trace(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(StrideError, match="is no routing trace"):
        read_trace(path)


def test_a_recording_that_fails_leaves_no_whole_trace(tmp_path):
    def die():
        with Recorder(tmp_path / "t", Shape("m", 1, 4, 1)) as recorder:
            recorder.record(0, np.array([[1]]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        die()
    with pytest.raises(StrideError, match="is no routing trace"):
        read_trace(tmp_path / "t")


@pytest.mark.parametrize(("layer", "ids", "what"), [(2, [[1, 2]], "layer 2"), (0, [[1, 300]], "expert 300 of 300")])
def test_records_of_what_the_model_lacks_are_refused(tmp_path, layer, ids, what):
    with Recorder(tmp_path / "t", Shape("m", 2, 300, 2)) as recorder:
        recorder.record(layer, np.array(ids))
    with pytest.raises(StrideError, match=what):
        read_trace(tmp_path / "t")


def test_a_model_that_cannot_be_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no model has 2 layers of 4 experts, of which 5 are used"):
        Recorder(tmp_path / "t", Shape("m", 2, 4, 5))


def test_what_cannot_be_written_or_read_is_named(tmp_path):
    with pytest.raises(StrideError, match="absent/t cannot be written"):
        Recorder(tmp_path / "absent" / "t", Shape("m", 1, 1, 1))
    with pytest.raises(StrideError, match="absent cannot be read"):
        read_trace(tmp_path / "absent")


@given(data=st.binary(max_size=200))
def test_any_other_bytes_are_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("bytes") / "t"
    path.write_bytes(data)
    with pytest.raises(StrideError, match="is no routing trace"):
        read_trace(path)

"""Written files: read back by the gguf package, types of values, atomicity."""

import gguf
import numpy as np
import pytest

from stride.gguf import QuantType, open_gguf
from stride.gguf.quants import quantize
from stride.gguf.writer import write_gguf

ONE = [("x", np.ones(1, np.float32))]
GGUF = gguf.GGUFValueType


@pytest.mark.parametrize(
    ("value", "types"),
    [
        (3, [GGUF.UINT32]),
        (-3, [GGUF.INT32]),
        (1 << 32, [GGUF.UINT64]),
        (-(1 << 40), [GGUF.INT64]),
        (0.5, [GGUF.FLOAT32]),
        (True, [GGUF.BOOL]),
        ("text", [GGUF.STRING]),
        ("", [GGUF.STRING]),
        (np.uint16(3), [GGUF.UINT16]),
        (np.float64(3), [GGUF.FLOAT64]),
        ([1, 2], [GGUF.ARRAY, GGUF.UINT32]),
        ([1, -2], [GGUF.ARRAY, GGUF.INT32]),
        ([0.5, 2], [GGUF.ARRAY, GGUF.FLOAT32]),
        ([True, False], [GGUF.ARRAY, GGUF.BOOL]),
        (("a", ""), [GGUF.ARRAY, GGUF.STRING]),
        (np.array([1, 2], np.int8), [GGUF.ARRAY, GGUF.INT8]),
    ],
)
def test_values_have_the_customary_types(value, types, tmp_path):
    (path,) = write_gguf(tmp_path / "m.gguf", {"key": value}, ONE)
    field = gguf.GGUFReader(path).fields["key"]
    assert field.types == types
    expected = value.tolist() if isinstance(value, np.ndarray) else value
    assert field.contents() == (list(expected) if isinstance(expected, tuple) else expected)


@pytest.mark.parametrize("alignment", [None, 8, 4096])
def test_the_gguf_package_reads_the_tensors(alignment, tmp_path):
    values = np.random.default_rng(0).standard_normal((2, 3, 64)).astype(np.float32)
    blocks = quantize(values, QuantType.IQ4_NL)
    metadata = {} if alignment is None else {"general.alignment": np.uint32(alignment)}
    tensors = [("odd", np.arange(3, dtype=np.int8)), ("values", values), ("blocks", (blocks, QuantType.IQ4_NL))]
    (path,) = write_gguf(tmp_path / "m.gguf", metadata, iter(tensors))
    odd, plain, quantised = gguf.GGUFReader(path).tensors
    assert odd.data.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(plain.data, values)
    np.testing.assert_array_equal(quantised.data, blocks)
    assert quantised.shape.tolist() == [64, 3, 2]
    assert quantised.tensor_type == gguf.GGMLQuantizationType.IQ4_NL
    assert all(tensor.data_offset % (alignment or 32) == 0 for tensor in (odd, plain, quantised))


def test_what_was_read_can_be_written_again(tmp_path):
    metadata = {"general.architecture": "step35", "tokens": ["a", "\udcff"], "numbers": np.arange(3, dtype=np.uint8)}
    values = np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)
    tensors = [("a", values), ("b", (quantize(values, QuantType.Q4_0), QuantType.Q4_0)), ("c", values[:1])]
    first = write_gguf(tmp_path / "m.gguf", metadata, tensors, split_max_tensors=2)
    with open_gguf(first[0]) as model:
        (second,) = write_gguf(
            tmp_path / "again.gguf",
            model.metadata,
            [(name, (tensor.data, tensor.type)) for name, tensor in model.tensors.items()],
        )
        with open_gguf(second) as again:
            assert list(again.metadata) == list(metadata)
            assert again.metadata["tokens"] == metadata["tokens"]
            for name, tensor in model.tensors.items():
                assert (again.tensors[name].shape, again.tensors[name].type) == (tensor.shape, tensor.type)
                np.testing.assert_array_equal(again.tensors[name].data, tensor.data)


def test_parts_say_what_they_are(tmp_path):
    metadata = {"general.architecture": "llama", "general.alignment": np.uint32(64)}
    paths = write_gguf(tmp_path / "m.gguf", metadata, [(f"t{i}", np.ones(3)) for i in range(5)], split_max_tensors=2)
    assert [path.name for path in paths] == [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    for index, path in enumerate(paths):
        reader = gguf.GGUFReader(path)
        said = {key: reader.fields[key] for key in ("split.no", "split.count", "split.tensors.count")}
        assert [field.contents() for field in said.values()] == [index, 3, 5]
        assert [field.types[0] for field in said.values()] == [GGUF.UINT16, GGUF.UINT16, GGUF.INT32]
        assert reader.alignment == 64
        assert ("general.architecture" in reader.fields) == (index == 0)


@pytest.mark.parametrize(
    ("metadata", "tensors"),
    [
        ({"": 1}, ONE),
        ({"k": [[1], [2]]}, ONE),
        ({"k": None}, ONE),
        ({"k": 1 << 70}, ONE),
        ({"general.alignment": 3}, ONE),
        ({}, [*ONE, *ONE]),
        ({}, [("", np.ones(1))]),
        ({}, [("x", np.ones((1, 1, 1, 1, 1)))]),
        ({}, [("x", np.ones((2, 0)))]),
        ({}, [("x", np.float32(1))]),
        ({}, [("x", np.ones(2, np.complex64))]),
        ({}, [("x", (np.ones((2, 33), np.uint8), QuantType.Q8_0))]),
    ],
)
def test_what_gguf_cannot_hold_is_refused_and_leaves_nothing_behind(metadata, tensors, tmp_path):
    with pytest.raises(ValueError, match=r"cannot|empty|twice|power of two|no type|no rows|too large"):
        write_gguf(tmp_path / "m.gguf", metadata, tensors)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_old_file_as_it_was(tmp_path):
    (path,) = write_gguf(tmp_path / "m.gguf", {"version": 1}, ONE)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="empty"):
        write_gguf(path, {"version": 2, "": 0}, ONE)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]

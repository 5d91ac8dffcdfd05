"""Packed copies of a model: mapped weights compute what packed ones do; what does not belong is left and named."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stride.errors import StrideError
from stride.gguf import QuantType

_cpu = pytest.importorskip("stride._cpu")
from stride.ops import packed  # noqa: E402
from stride.ops.cpu import CpuBackend  # noqa: E402

KINDS = [
    QuantType.IQ4_XS,
    QuantType.Q8_0,
    QuantType.Q4_K,
    QuantType.Q6_K,
    QuantType.F32,
    QuantType.BF16,
    QuantType.Q3_K,
]


def write(*tensors: Any) -> Path:
    """A packed copy beside the first tensor's file."""
    backend = CpuBackend(1)
    return packed.write(
        [tensors[0].path], tensors, backend.weight, sum(map(backend.packed_bytes, tensors)), lambda _: None
    )


def mapping_backend(tensor: Any) -> CpuBackend:
    return CpuBackend(2, model=[tensor.path])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_mapped_weight_is_the_packed_one(kind: QuantType, make_tensor: Any, rng: np.random.Generator) -> None:
    tensor = make_tensor(kind, 70, 512)
    write(tensor)
    backend = mapping_backend(tensor)
    mapped, read = backend.weight(tensor), CpuBackend(1).weight(tensor)
    converted = ["Q3_K has no kernels: such tensors are held as Q8_0"]
    assert backend.notes == (converted if kind is QuantType.Q3_K else [])
    np.testing.assert_array_equal(mapped.data, read.data)
    x = rng.standard_normal((3, 512)).astype(np.float32)
    np.testing.assert_array_equal(backend.linear(x, [mapped])[0], backend.linear(x, [read])[0])


def test_a_mapped_weight_is_not_written_to(make_tensor: Any) -> None:
    tensor = make_tensor(QuantType.Q8_0, 32, 64)
    write(tensor)
    mapped = mapping_backend(tensor).weight(tensor)
    with pytest.raises(ValueError, match="read only"):
        mapped.pack(0, 0, np.zeros((1, tensor.row_bytes), np.uint8))
    assert not mapped.data.flags.writeable


def test_stacks_are_mapped(make_tensor: Any) -> None:
    tensor = make_tensor(QuantType.IQ4_XS, 3, 40, 256)
    write(tensor)
    mapped = mapping_backend(tensor).weight(tensor)
    assert mapped.shape == (3, 40, 256)
    np.testing.assert_array_equal(mapped.data, CpuBackend(1).weight(tensor).data)


def test_a_mapped_weight_outlives_its_file(make_tensor: Any) -> None:
    tensor = make_tensor(QuantType.Q8_0, 64, 64)
    path = write(tensor)
    mapped = mapping_backend(tensor).weight(tensor)
    path.unlink()
    np.testing.assert_array_equal(mapped.data, CpuBackend(1).weight(tensor).data)


def test_without_a_copy_nothing_is_said(make_tensor: Any) -> None:
    tensor = make_tensor(QuantType.Q8_0, 32, 64)
    assert packed.find([tensor.path]) == (None, None)
    assert mapping_backend(tensor).notes == []


def test_a_copy_of_another_model_is_not_used(make_tensor: Any) -> None:
    tensor = make_tensor(QuantType.Q8_0, 32, 64)
    path = write(tensor)
    os.utime(tensor.path, ns=(1, 1))
    backend = mapping_backend(tensor)
    (note,) = backend.notes
    assert str(path) in note
    assert "another file" in note
    np.testing.assert_array_equal(backend.weight(tensor).data, CpuBackend(1).weight(tensor).data)


def test_a_copy_that_may_not_be_read_is_left(make_tensor: Any) -> None:
    tensor = make_tensor(QuantType.Q8_0, 32, 64)
    path = write(tensor)
    path.unlink()
    path.mkdir()  # no file that can be read, whoever asks
    (note,) = mapping_backend(tensor).notes
    assert note == f"{path} cannot be read and is not used: Is a directory"


def test_a_backend_maps_the_file_it_found(make_tensor: Any) -> None:
    """Also where another is put in its place meanwhile."""
    tensor = make_tensor(QuantType.Q8_0, 32, 64)
    path = write(tensor)
    backend = mapping_backend(tensor)
    path.rename(path.with_suffix(".old"))
    path.write_bytes(b"")
    np.testing.assert_array_equal(backend.weight(tensor).data, CpuBackend(1).weight(tensor).data)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_size_is_told_to_the_byte(kind: QuantType, make_tensor: Any) -> None:
    backend = CpuBackend(1)
    for tensor in (make_tensor(kind, 70, 512), make_tensor(kind, 3, 40, 256)):
        assert backend.packed_bytes(tensor) == backend.weight(tensor).n_bytes


def test_a_copy_of_another_version_is_not_used(make_tensor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = make_tensor(QuantType.Q8_0, 32, 64)
    write(tensor)
    monkeypatch.setattr(_cpu, "layout_version", _cpu.layout_version + 1)
    assert "another version" in mapping_backend(tensor).notes[0]


def test_a_copy_cut_at_any_byte_is_not_used(make_tensor: Any) -> None:
    tensor = make_tensor(QuantType.Q8_0, 32, 64)
    path = write(tensor)
    whole = path.read_bytes()
    index = whole.index(b'{"layout"')
    for length in [*range(packed.HEADER.size + 1), index - 1, *range(index, len(whole))]:
        path.write_bytes(whole[:length])
        found, note = packed.find([tensor.path])
        assert found is None
        assert note is not None
        assert str(path) in note


@pytest.mark.parametrize(
    "change",
    [
        {"weights": []},
        {"weights": {"w": {"type": 8, "shape": [1, 32], "offset": 0}}},
        {"weights": {"w": {"shape": [1, 32, 64], "offset": 0}}},
        {"weights": {"w": {"type": "8", "shape": [1, 32, 64], "offset": 0}}},
        {"weights": {"w": {"type": 8, "shape": [True, 32, 64], "offset": 0}}},
        {"weights": {"w": {"type": 8, "shape": [1, 32, 64], "offset": 1e999}}},
        {"weights": {"w": {"type": 8, "shape": [1, 32, 64], "offset": -65536}}},
        {"weights": {"w": {"type": 8, "shape": [1, 32, 64], "offset": 1 << 64}}},
        {"layout": None},
        {"model": 7},
    ],
    ids=lambda change: json.dumps(change),
)
def test_an_index_that_is_none_is_not_used(change: dict[str, Any], make_tensor: Any) -> None:
    tensor = make_tensor(QuantType.Q8_0, 32, 64)
    path = write(tensor)
    _edit_index(path, change)
    found, note = packed.find([tensor.path])
    assert found is None
    assert note is not None


@pytest.mark.parametrize("offset", [1, 1 << 40, 1 << 62])
def test_offsets_outside_the_file_are_refused(offset: int, make_tensor: Any) -> None:
    tensor = make_tensor(QuantType.Q8_0, 32, 64)
    path = write(tensor)
    _edit_index(path, {"weights": {"w": {"type": 8, "shape": [1, 32, 64], "offset": offset}}})
    with pytest.raises(StrideError, match="packed"):
        mapping_backend(tensor).weight(tensor)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the end of a mapping is a signal")
def test_a_file_that_is_cut_after_it_was_mapped_is_an_error(make_tensor: Any) -> None:
    tensor = make_tensor(QuantType.Q8_0, 4096, 256)
    path = write(tensor)
    weight = packed.find([tensor.path])[0].map("w", 8, (1, 4096, 256))
    os.truncate(path, packed.ALIGNMENT)
    with pytest.raises(OSError, match="Input/output error"):
        _cpu.populate(_cpu.engine("portable", 1), weight)


def test_writing_is_whole_or_not_at_all(make_tensor: Any) -> None:
    tensor = make_tensor(QuantType.Q8_0, 32, 64)

    def fail(_: Any) -> Any:
        raise OSError(28, "No space left on device")

    with pytest.raises(StrideError, match="No space left"):
        packed.write([tensor.path], [tensor], fail, 1, lambda _: None)
    assert list(tensor.path.parent.glob("*.packed*")) == []


def test_a_model_that_changes_meanwhile_is_not_kept(make_tensor: Any) -> None:
    tensor = make_tensor(QuantType.Q8_0, 32, 64)

    def pack(one: Any) -> Any:
        os.utime(tensor.path, ns=(1, 1))
        return CpuBackend(1).weight(one)

    with pytest.raises(StrideError, match="changed while it was packed"):
        packed.write([tensor.path], [tensor], pack, 1, lambda _: None)
    assert [path.name for path in tensor.path.parent.iterdir()] == [tensor.path.name]


def test_too_little_room_is_named_before_anything_is_written(make_tensor: Any) -> None:
    tensor = make_tensor(QuantType.Q8_0, 32, 64)
    with pytest.raises(StrideError, match="GiB are free"):
        packed.write([tensor.path], [tensor], CpuBackend(1).weight, 1 << 60, lambda _: None)
    assert list(tensor.path.parent.glob("*.packed*")) == []


def _edit_index(path: Path, change: dict[str, Any]) -> None:
    whole = path.read_bytes()
    magic, start, _ = packed.HEADER.unpack(whole[: packed.HEADER.size])
    index = json.dumps({**json.loads(whole[start:]), **change}).encode()
    path.write_bytes(packed.HEADER.pack(magic, start, len(index)) + whole[packed.HEADER.size : start] + index)

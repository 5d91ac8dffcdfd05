"""Numbers that are not finite (case 25) are found, in the block where they are."""

import numpy as np
import pytest

from stride.errors import ModelFileError
from stride.gguf import QuantType, open_gguf
from stride.gguf.check import check_values
from stride.gguf.quants import quantize
from stride.gguf.writer import write_gguf


def check(path):
    with open_gguf(path) as file:
        return check_values(file)


@pytest.mark.parametrize(
    ("kind", "field", "bad"),
    [
        (QuantType.F32, 0, np.float32(np.nan)),
        (QuantType.F16, 0, np.float16(np.inf)),
        (QuantType.BF16, 0, np.uint16(0x7F80)),
        (QuantType.F64, 0, np.float64(-np.inf)),
        (QuantType.Q8_0, 0, np.float16(np.nan)),
        (QuantType.Q4_K, 2, np.float16(-np.inf)),
        (QuantType.Q6_K, 208, np.float16(np.nan)),
        (QuantType.IQ4_XS, 0, np.float16(np.inf)),
    ],
    ids=lambda value: getattr(value, "label", None),
)
@pytest.mark.parametrize("chunk_bytes", [1, 16 << 20])
def test_25_the_first_bad_block_is_named(kind, field, bad, chunk_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr("stride.gguf.check.CHUNK_BYTES", chunk_bytes)
    data = quantize(np.random.default_rng(0).standard_normal((3, 256)), kind)
    tensors = [("a", np.ones(3, np.float32)), ("x", (data, kind))]
    (path,) = write_gguf(tmp_path / "m.gguf", {}, tensors)
    assert check(path) == []
    blocks = data.reshape(-1, kind.block_bytes)
    for block in (len(blocks) - 1, len(blocks) * 2 // 3):
        blocks[block, field : field + bad.nbytes] = np.frombuffer(bad.tobytes(), np.uint8)
    write_gguf(path, {}, tensors)
    with pytest.raises(ModelFileError, match="not a finite number") as caught:
        check(path)
    with open_gguf(path) as file:
        offset = file.tensors["x"].offset + block * kind.block_bytes
    assert (caught.value.path, caught.value.tensor, caught.value.offset) == (path, "x", offset)


def test_25_the_reserved_exponent_of_mxfp4(tmp_path):
    data = np.zeros((1, 34), np.uint8)
    tensors = [("x", (data, QuantType.MXFP4))]
    assert check(write_gguf(tmp_path / "m.gguf", {}, tensors)[0]) == []
    data[0, 17] = 255
    with pytest.raises(ModelFileError, match="scale is not a finite"):
        check(write_gguf(tmp_path / "m.gguf", {}, tensors)[0])


def test_types_that_are_not_known_well_enough_are_named(tmp_path):
    tensors = [("x", (np.zeros((1, 54), np.uint8), QuantType.TQ1_0)), ("y", np.ones(1, np.float32))]
    assert check(write_gguf(tmp_path / "m.gguf", {}, tensors)[0]) == ["TQ1_0"]


def test_progress_ends_at_all_bytes(tmp_path):
    (path,) = write_gguf(tmp_path / "m.gguf", {}, [("x", np.ones(4, np.float32)), ("y", np.ones(2, np.float32))])
    calls = []
    with open_gguf(path) as file:
        check_values(file, lambda done, total: calls.append((done, total)))
    assert calls == [(16, 24), (24, 24)]

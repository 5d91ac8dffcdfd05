"""Tensors of an open file: shapes, views, copies, and what happens when the file goes away."""

import os
import socket
import stat

import numpy as np
import psutil
import pytest

from stride.errors import ModelFileError
from stride.gguf import QuantType, open_gguf
from stride.gguf.quants import dequantize, quantize
from stride.gguf.writer import write_gguf


@pytest.fixture
def values():
    return np.random.default_rng(0).standard_normal((2, 3, 64)).astype(np.float32)


@pytest.fixture
def path(values, tmp_path):
    blocks = quantize(values, QuantType.Q8_0)
    tensors = [("experts", (blocks, QuantType.Q8_0)), ("norm", np.arange(5, dtype=np.float32))]
    return write_gguf(tmp_path / "m.gguf", {}, tensors)[0]


def test_shape_data_and_values(path, values):
    with open_gguf(path) as model:
        assert list(model.tensors) == ["experts", "norm"]
        tensor = model.tensors["experts"]
        assert (tensor.shape, tensor.type, tensor.n_values) == ((2, 3, 64), QuantType.Q8_0, 384)
        assert (tensor.path, tensor.n_bytes, tensor.row_bytes) == (path, 2 * 3 * 68, 68)
        assert tensor.data.shape == (2, 3, 68)
        assert tensor.data.dtype == np.uint8
        blocks = quantize(values, QuantType.Q8_0)
        np.testing.assert_array_equal(tensor.data, blocks)
        assert path.read_bytes()[tensor.offset : tensor.offset + tensor.n_bytes] == blocks.tobytes()
        np.testing.assert_array_equal(tensor.dequantize(), dequantize(blocks, QuantType.Q8_0))
        np.testing.assert_array_equal(model.tensors["norm"].dequantize(), np.arange(5))


def test_data_is_a_shared_view_that_cannot_be_written(path):
    with open_gguf(path) as model:
        data = model.tensors["norm"].data
        assert data.base is not None
        assert np.shares_memory(data, model.tensors["norm"].data)
        with pytest.raises(ValueError, match="read-only"):
            data[0] = 1
        with pytest.raises(TypeError):
            model.tensors["other"] = model.tensors["norm"]


def test_rows_can_be_read_apart(path):
    with open_gguf(path) as model:
        tensor = model.tensors["experts"]
        rows = tensor.data.reshape(6, 68)
        np.testing.assert_array_equal(tensor.read(), rows)
        np.testing.assert_array_equal(tensor.read(2, 4), rows[2:4])
        np.testing.assert_array_equal(tensor.read(5, 99), rows[5:])
        assert tensor.read(4, 2).shape == (0, 68)
        assert tensor.read().flags.writeable


def test_views_outlive_the_file_but_nothing_new_is_read(path):
    with open_gguf(path) as model:
        tensor = model.tensors["norm"]
        data = tensor.data
    assert data.view(np.float32).tolist() == [0, 1, 2, 3, 4]
    for use in (lambda: tensor.data, tensor.read, tensor.dequantize):
        with pytest.raises(ModelFileError, match="closed") as caught:
            use()
        assert caught.value.tensor == "norm"


def test_opening_reads_the_head_only(tmp_path):
    """A sparse file of 8 GiB: reading its data would take seconds and memory."""
    path = tmp_path / "large.gguf"
    rows = np.lib.stride_tricks.as_strided(np.zeros(32, np.uint8), (2, 32 * 34), (0, 0))
    write_gguf(path, {}, [("x", (rows, QuantType.Q8_0))])
    content = bytearray(path.read_bytes())
    place = content.index((2).to_bytes(8, "little"), content.index(b"x") + 1)
    content[place : place + 8] = (1 << 23).to_bytes(8, "little")
    path.write_bytes(content)
    os.truncate(path, path.stat().st_size + (1 << 23) * 32 * 34)
    with open_gguf(path) as model:
        assert model.tensors["x"].n_bytes == (1 << 23) * 32 * 34
        assert not model.tensors["x"].read(1 << 22, (1 << 22) + 1).any()


def test_29_a_file_that_is_cut_while_open_fails_by_name_and_the_process_lives(path):
    with open_gguf(path) as model:
        tensor = model.tensors["experts"]
        assert tensor.data.any()
        os.truncate(path, tensor.offset + 10)
        for use in (lambda: tensor.data, tensor.read, tensor.dequantize):
            with pytest.raises(ModelFileError, match=r"was cut|too early") as caught:
                use()
            assert (caught.value.path, caught.value.tensor) == (path, "experts")
        assert caught.value.offset == tensor.offset + 10


def test_a_file_that_is_replaced_while_open_keeps_its_old_content(path, values):
    with open_gguf(path) as model:
        write_gguf(path, {}, [("other", np.ones(1, np.float32))])
        assert np.abs(model.tensors["experts"].dequantize() - values).max() < 0.05


@pytest.mark.parametrize("make", ["fifo", "socket", "missing", "nul"])
def test_26_what_is_no_regular_file(make, tmp_path):
    path = tmp_path / "model.gguf"
    if make == "fifo":
        os.mkfifo(path)
    elif make == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif make == "nul":
        path = tmp_path / "a\0b"
    with pytest.raises(ModelFileError, match=r"not a regular file|cannot be opened") as caught:
        open_gguf(path)
    assert caught.value.path == path


def test_26_a_device():
    assert stat.S_ISCHR(os.stat("/dev/zero").st_mode)
    with pytest.raises(ModelFileError, match="not a regular file"):
        open_gguf("/dev/zero")


def test_27_a_link_loop(tmp_path):
    a, b = tmp_path / "a.gguf", tmp_path / "b.gguf"
    a.symlink_to(b)
    b.symlink_to(a)
    with pytest.raises(ModelFileError, match="symbolic links"):
        open_gguf(a)
    with pytest.raises(ModelFileError, match="symbolic links"):
        open_gguf(tmp_path)


def test_links_to_files_are_followed(path, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(path)
    with open_gguf(link) as model:
        assert "norm" in model.tensors


def test_no_file_stays_open_after_an_error(tmp_path):
    write_gguf(tmp_path / "a.gguf", {}, [])
    write_gguf(tmp_path / "b.gguf", {}, [])
    before = psutil.Process().num_fds()
    with pytest.raises(ModelFileError, match="2 models"):
        open_gguf(tmp_path)
    assert psutil.Process().num_fds() == before

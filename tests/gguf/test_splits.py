"""Split models: any part or the folder opens all of it; what does not belong together is refused, naming the part."""

import shutil

import gguf
import numpy as np
import pytest

from stride.errors import ModelFileError
from stride.gguf import open_gguf
from stride.gguf.writer import write_gguf

NAMES = ["token_embd.weight", "blk.0.a", "blk.0.b", "blk.1.a", "output.weight"]


def write(folder, name="m", n_tensors=5, value=0, **metadata):
    """A model of three parts in a folder; tensor i is full of ``value + i``."""
    folder.mkdir(exist_ok=True)
    tensors = [(NAMES[i], np.full((2, 8), value + i, np.float32)) for i in range(n_tensors)]
    return write_gguf(
        folder / f"{name}.gguf", {"general.architecture": "step35", **metadata}, tensors, split_max_tensors=2
    )


@pytest.fixture
def parts(tmp_path):
    return write(tmp_path / "model")


def values(path):
    with open_gguf(path) as model:
        return [(name, tensor.dequantize()[0, 0]) for name, tensor in model.tensors.items()]


def test_a_file_is_not_compared_with_itself(tmp_path):
    (path,) = write_gguf(tmp_path / "m.gguf", {"general.architecture": "step35", "x.nan": float("nan")}, [])
    with open_gguf(path) as model:
        assert "x.nan" in model.metadata


def write_part(path, names, *, index, count, n_tensors, architecture="step35"):
    """One part that says of itself what it is told to."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_uint16("split.no", index)
    writer.add_uint16("split.count", count)
    writer.add_int32("split.tensors.count", n_tensors)
    for name in names:
        writer.add_tensor(name, np.ones((2, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


EXPECTED = [(name, i) for i, name in enumerate(NAMES)]


def test_any_part_and_the_folder_open_the_whole_model(parts):
    assert [path.name for path in parts] == [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    for path in [*parts, parts[0].parent, str(parts[2])]:
        assert values(path) == EXPECTED
    with open_gguf(parts[1]) as model:
        assert model.paths == parts
        assert model.metadata.string("general.architecture") == "step35"
        assert model.n_bytes == sum(path.stat().st_size for path in parts)


def test_image_encoders_and_other_files_in_the_folder_are_passed_over(parts):
    folder = parts[0].parent
    write_gguf(folder / "mmproj-F16.gguf", {}, [])
    (folder / "README.md").write_text("no model")
    (folder / "m-00001-of-00003.gguf.part").write_bytes(b"unfinished")
    assert values(folder) == EXPECTED


def test_another_model_beside_does_not_disturb_a_named_part(parts):
    other = write(parts[0].parent, "other", value=100)
    assert values(parts[1]) == EXPECTED
    assert values(other[0])[0] == (NAMES[0], 100)


def test_a_folder_of_two_models_lists_them(parts):
    folder = parts[0].parent
    write(folder, "other")
    write_gguf(folder / "single.gguf", {}, [("x", np.ones(1, np.float32))])
    with pytest.raises(ModelFileError, match=r"3 models.*m-00001.*other-00001.*single") as caught:
        open_gguf(folder)
    assert caught.value.path == folder


def test_an_empty_folder(tmp_path):
    with pytest.raises(ModelFileError, match=r"no \.gguf file"):
        open_gguf(tmp_path)


@pytest.mark.parametrize("given", [0, 1])
@pytest.mark.parametrize("as_folder", [False, True])
def test_30_a_missing_part_is_named(parts, given, as_folder):
    parts[2].unlink()
    with pytest.raises(ModelFileError, match=r"part 3 of 3 is missing.*m-00003-of-00003\.gguf"):
        open_gguf(parts[0].parent if as_folder else parts[given])


def test_30_the_first_part_is_missing(parts):
    parts[0].unlink()
    with pytest.raises(ModelFileError, match=r"part 1 of 3 is missing.*m-00001-of-00003\.gguf"):
        open_gguf(parts[1])


def test_31_parts_in_the_wrong_order_are_put_right(parts):
    spare = parts[0].with_name("spare")
    parts[0].rename(spare)
    parts[2].rename(parts[0])
    spare.rename(parts[2])
    for path in [*parts, parts[0].parent]:
        assert values(path) == EXPECTED
        with open_gguf(path) as model:
            assert model.paths == (parts[2], parts[1], parts[0])


@pytest.mark.parametrize("given", ["first.gguf", "b.gguf", ""])
def test_31_names_that_say_nothing(parts, given):
    folder = parts[0].parent
    for path, name in zip(parts, ["z.gguf", "first.gguf", "b.gguf"], strict=True):
        path.rename(folder / name)
    assert values(folder / given) == EXPECTED


def test_32_a_part_that_is_there_twice(parts):
    shutil.copy(parts[0], parts[1])
    with pytest.raises(ModelFileError, match=r"part 1 of 3, and so is m-0000[12]-of-00003\.gguf"):
        open_gguf(parts[2])


def test_32_a_tensor_in_two_parts(parts):
    write_part(parts[1], [NAMES[0], "x"], index=1, count=3, n_tensors=5)
    with pytest.raises(ModelFileError, match="also in m-00001-of-00003") as caught:
        open_gguf(parts[0])
    assert caught.value.path == parts[1]
    assert caught.value.tensor == NAMES[0]


def test_33_a_part_of_another_count(parts):
    other = write(parts[0].parent / "other", n_tensors=3)
    shutil.copy(other[1], parts[1])
    with pytest.raises(ModelFileError, match=r"one of 2 parts.*one of 3") as caught:
        open_gguf(parts[0])
    assert caught.value.path == parts[1]


def test_33_a_part_beyond_the_count(tmp_path):
    path = write_part(tmp_path / "m.gguf", ["x"], index=3, count=3, n_tensors=1)
    with pytest.raises(ModelFileError, match="part 4 of 3"):
        open_gguf(path)


def test_33_fewer_tensors_than_declared(parts):
    write_part(parts[2], ["x", "y", "z"], index=2, count=3, n_tensors=5)
    with pytest.raises(ModelFileError, match=r"hold 7 tensors, but split\.tensors\.count is 5"):
        open_gguf(parts[0])


def test_34_a_part_of_a_model_of_another_size(parts):
    write_part(parts[1], ["x", "y"], index=1, count=3, n_tensors=6)
    with pytest.raises(ModelFileError, match=r"model of 6 tensors.*one of 5") as caught:
        open_gguf(parts[0])
    assert caught.value.path == parts[1]


def test_34_a_part_that_says_it_is_of_another_model(parts):
    """Later parts may repeat the model's metadata, and then it must agree."""
    write_part(parts[1], NAMES[2:4], index=1, count=3, n_tensors=5)
    assert [name for name, _ in values(parts[0])] == NAMES
    write_part(parts[1], NAMES[2:4], index=1, count=3, n_tensors=5, architecture="llama")
    with pytest.raises(ModelFileError, match=r"general\.architecture.*different models") as caught:
        open_gguf(parts[0])
    assert caught.value.path == parts[1]

"""Heads of models (`stride.heads`): a few bytes of each file on the hub, all parts, all quantisations."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

from stride.errors import StrideError, UnsupportedError
from stride.gguf import open_gguf
from stride.gguf.writer import write_gguf
from stride.heads import open_heads
from stride.models.config import read_config

GOLDEN = Path("tests/golden")
SPLIT = sorted(GOLDEN.glob("step35-split-*.gguf"))


@pytest.fixture(autouse=True)
def _hub_is_the_endpoint(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    url = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_TOKEN", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)


def files(*paths, folder=""):
    return {f"{folder}{path.name}": path.read_bytes() for path in paths}


def look(name, **options):
    with open_heads(name, **options) as heads:
        return heads


def test_each_quantisation_of_a_repository_smallest_first(hub):
    whole = GOLDEN / "step35-iq4_xs.gguf"
    commit = hub.add("org/model", {**files(*SPLIT), **files(whole), "README.md": b"hello"})
    heads = look("org/model")
    assert heads.source == f"org/model at commit {commit[:12]}"
    assert [one.name for one in heads.models] == ["step35-split", "iq4_xs"]
    for one, path in zip(heads.models, (SPLIT[0], whole), strict=True):
        with open_gguf(path) as file:
            assert one.file is not None
            assert list(one.file.tensors) == list(file.tensors)
            assert one.file.metadata.keys() == file.metadata.keys()
            assert one.n_bytes == file.n_bytes
            assert read_config(one.file) == read_config(file)
    asked = {path.rpartition("/")[2] for method, path, _ in hub.requests if "/resolve/" in path}
    assert asked == {path.name for path in (*SPLIT, whole)}


def test_only_the_beginning_of_a_file_is_fetched(hub, tmp_path):
    """A model of 40 MiB, of which the head is a few KiB."""
    tensors = {f"blk.{i}.x.weight": np.zeros((1024, 1024), np.float32) for i in range(10)}
    paths = write_gguf(tmp_path / "m.gguf", {"general.architecture": "llama"}, tensors.items(), split_max_tensors=5)
    hub.add("org/model", files(*paths))
    heads = look("org/model")
    assert heads.n_fetched == (1 << 20) + (64 << 10)
    assert [hub.ranges(path.name) for path in paths] == [["bytes=0-1048575"], ["bytes=0-65535"]]
    assert len(heads.models[0].file.tensors) == 10


def test_one_quantisation_by_name(hub):
    hub.add("org/model", files(GOLDEN / "step35-iq4_xs.gguf", GOLDEN / "step35-f16-bf16.gguf"))
    assert [one.name for one in look("org/model:bf16").models] == ["bf16"]
    with pytest.raises(StrideError, match="org/model holds no GGUF model named 'Q2_K'"):
        look("org/model:Q2_K")


def test_a_file_and_a_folder_are_looked_at_without_a_network(hub, tmp_path):
    assert look(str(SPLIT[1])).models[0].name == SPLIT[0].name
    for path in SPLIT:
        shutil.copy(path, tmp_path)
    heads = look(str(tmp_path))
    assert heads.models[0].n_bytes == sum(path.stat().st_size for path in SPLIT)
    assert heads.disk == max(tmp_path.iterdir(), key=lambda path: path.stat().st_size)
    assert hub.requests == []
    with pytest.raises(StrideError, match=r"there is no \./absent"):
        look("./absent.gguf")


def test_a_damaged_head_and_a_missing_part_are_problems_of_their_model(hub):
    whole = files(GOLDEN / "step35-iq4_xs.gguf")
    hub.add("org/model", {**whole, "bad-Q8_0.gguf": b"GGUF" + b"\xff" * 60, **files(*SPLIT[:2])})
    problems = {one.name: one.problem for one in look("org/model").models}
    assert problems.pop("iq4_xs") == ""
    assert "bad-Q8_0.gguf" in problems.pop("Q8_0")
    assert "part 3 of 3 is missing" in problems.pop("step35-split")


def test_nothing_but_damage_is_an_error(hub):
    hub.add("org/model", {"bad-Q8_0.gguf": b"GGUF" + b"\xff" * 60})
    with pytest.raises(StrideError, match=r"bad-Q8_0\.gguf"):
        look("org/model")


def test_what_the_hub_refuses_is_said(hub, monkeypatch):
    with pytest.raises(StrideError, match="there is no org/absent"):
        look("org/absent")
    hub.add("org/model", {"README.md": b"no model"})
    with pytest.raises(StrideError, match=r"org/model holds no GGUF model$"):
        look("org/model")
    with pytest.raises(StrideError, match="no revision 'v9'"):
        look("org/model", revision="v9")
    hub.add("org/gated", files(GOLDEN / "qwen2.gguf"))
    hub.status = [403]
    with pytest.raises(StrideError, match=r"qwen2\.gguf: the hub answers 403: give the consent"):
        look("org/gated")
    hub.ignore_range = True
    with pytest.raises(StrideError, match="sends whole files only"):
        look("org/gated")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(StrideError, match=r"127\.0\.0\.1:1 does not answer for org/model"):
        look("org/model")


def test_what_no_module_reads_is_unsupported(hub, tmp_path):
    path = write_gguf(tmp_path / "m.gguf", {"general.architecture": "gpt9"}, {}.items())[0]
    hub.add("org/model", files(path))
    with pytest.raises(UnsupportedError, match=r"org/model/m\.gguf: the architecture is 'gpt9'"):
        read_config(look("org/model").models[0].file)


def test_a_cut_head_is_named(hub):
    data = (GOLDEN / "qwen2.gguf").read_bytes()
    hub.add("org/model", {"m-F32.gguf": data[:300], "n-F16.gguf": data})
    found = {one.name: one.problem for one in look("org/model").models}
    assert "org/model/m-F32.gguf" in found["F32"]

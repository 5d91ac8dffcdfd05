"""Names of models to paths."""

from __future__ import annotations

import os

import pytest

from stride.errors import ModelFileError, StrideError
from stride.gguf import open_gguf
from stride.hub import resolve


@pytest.fixture
def snapshot(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))

    def add(commit: str, *paths: str, main: bool = True):
        folder = tmp_path / "hub/models--org--name"
        for path in paths:
            (folder / "snapshots" / commit / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "snapshots" / commit / path).write_bytes(b"GGUF")
        if main:
            (folder / "refs").mkdir(exist_ok=True)
            (folder / "refs/main").write_text(commit)
        return folder / "snapshots" / commit

    return add


def test_a_path_is_itself(tmp_path, monkeypatch):
    (tmp_path / "org").mkdir()
    (tmp_path / "org/name").write_bytes(b"")
    assert resolve(str(tmp_path)) == tmp_path
    monkeypatch.chdir(tmp_path)
    assert os.fspath(resolve("org/name")) == "org/name"


def test_a_link_loop_is_a_path_not_a_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    (tmp_path / "org/name").symlink_to("name")
    with pytest.raises(ModelFileError, match="org/name: cannot be opened"):
        open_gguf(resolve("org/name"))


def test_first_part_of_the_named_quantisation(snapshot):
    parts = [f"IQ4_XS/m-IQ4_XS-{i:05}-of-00002.gguf" for i in (1, 2)]
    folder = snapshot("a" * 40, *parts, "m-Q8_0.gguf")
    assert resolve("org/name:IQ4_XS") == folder / parts[0]
    with pytest.raises(StrideError, match="choose one"):
        resolve("org/name")


def test_main_comes_first_then_other_snapshots(snapshot):
    old = snapshot("a" * 40, "m-Q8_0.gguf")
    new = snapshot("b" * 40, "m-IQ4_XS.gguf")
    assert resolve("org/name") == new / "m-IQ4_XS.gguf"
    assert resolve("org/name:Q8_0") == old / "m-Q8_0.gguf"


def test_missing(snapshot):
    with pytest.raises(StrideError, match="stride pull org/other:Q8_0"):
        resolve("org/other:Q8_0")
    with pytest.raises(StrideError, match=r"there is no /nowhere/x\.gguf"):
        resolve("/nowhere/x.gguf")

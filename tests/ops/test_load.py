"""Which backend a name gives."""

from __future__ import annotations

import sys

import pytest

from stride import ops
from stride.errors import UnsupportedError


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="no backend 'gpu'; there are: auto, cpu, numpy"):
        ops.load("gpu")


def test_without_the_extension_auto_is_numpy_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "stride.ops.cpu", raising=False)
    monkeypatch.setitem(sys.modules, "stride._cpu", None)
    monkeypatch.delattr("stride._cpu", raising=False)
    assert ops.load().name == "numpy"
    assert "no C++ extension: using the numpy backend, which is slow" in capsys.readouterr().err
    with pytest.raises(UnsupportedError, match="extension is not installed here"):
        ops.load("cpu")

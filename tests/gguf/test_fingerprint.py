"""A fingerprint is another for another file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stride.errors import ModelFileError
from stride.gguf import fingerprint


def test_any_change_shows(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_bytes(bytes(range(256)) * 100)
        os.utime(path, ns=(1, 1))
    first = fingerprint(paths)
    assert fingerprint(paths) == first
    seen = {first, fingerprint(paths[:1])}
    for at in (0, 9_000, 25_599):
        changed = bytearray(paths[1].read_bytes())
        changed[at] ^= 1
        paths[1].write_bytes(changed)
        os.utime(paths[1], ns=(1, 1))
        seen.add(fingerprint(paths))
    os.utime(paths[0], ns=(2, 2))
    seen.add(fingerprint(paths))
    assert len(seen) == 6


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="gone"):
        fingerprint([tmp_path / "gone"])

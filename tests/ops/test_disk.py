"""How a disk is probed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stride.ops import disk


def test_a_probe_gives_a_way_that_works(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(3 << 20))
    plan = disk.probe(path, 5000, (3 << 20) - 5000)
    assert plan.bytes_per_second > 0
    assert plan.block_bytes in disk.BLOCK_BYTES
    assert plan.n_readers in disk.READERS
    file = disk.open_for_reading(path, direct=plan.direct)
    os.close(file)


def test_a_disk_that_refuses_direct_reads_is_read_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(2 << 20))
    open_for_reading = disk.open_for_reading

    def refuse(path: Path, *, direct: bool) -> int:
        if direct:
            raise OSError("no such way")
        return open_for_reading(path, direct=False)

    monkeypatch.setattr(disk, "open_for_reading", refuse)
    assert not disk.probe(path, 0, 2 << 20).direct


def test_a_file_smaller_than_a_block_is_probed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(10_000))
    assert disk.probe(path, 0, 10_000).bytes_per_second >= 0


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="none"):
        disk.probe(tmp_path / "none", 0, 1)

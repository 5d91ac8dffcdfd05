"""What a machine can do, measured on a file, or on one that is written for it and gone afterwards."""

import numpy as np
import pytest

from stride.errors import StrideError
from stride.ops import disk, machine


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(disk, "SECONDS", 0.005)
    monkeypatch.setattr(machine, "SCRATCH_BYTES", 8 << 20)
    monkeypatch.setattr(machine, "REPEATS", 1)
    monkeypatch.setattr(machine, "read_bandwidth", lambda: (5e9, 3))


def test_a_folder_is_measured_and_left_as_it_was(tmp_path):
    found = machine.measure(tmp_path / "not" / "there" / "yet")
    assert found.disk > 0
    assert (found.bandwidth, found.threads) == (5e9, 3)
    assert found.products is None or found.products > 1e8
    assert list(tmp_path.iterdir()) == []


def test_a_long_file_is_read_itself_and_a_short_one_is_not(tmp_path, monkeypatch):
    read = []
    probe = disk.probe
    monkeypatch.setattr(disk, "probe", lambda path, *rest: read.append(path) or probe(path, *rest))
    path = tmp_path / "m.gguf"
    path.write_bytes(np.random.default_rng(0).bytes(4 << 20))
    machine.measure(path)
    monkeypatch.setattr(machine, "LEAST_FILE", 4 << 20)
    machine.measure(path)
    assert read[0] != path
    assert read[0].parent == tmp_path
    assert read[1] == path
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def refuse(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(machine.tempfile, "NamedTemporaryFile", refuse)
    with pytest.raises(StrideError, match=f"{tmp_path} cannot be measured: No space left"):
        machine.measure(tmp_path)

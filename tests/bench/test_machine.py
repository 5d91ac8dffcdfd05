"""The manifest."""

from __future__ import annotations

import json

from stride.bench.machine import FINGERPRINT_BYTES, cpu_name, fingerprint, machine


def test_the_manifest_is_plain_and_complete():
    found = json.loads(json.dumps(machine()))
    assert found["cpu"] == cpu_name() != ""
    assert found["memory_bytes"] > found["memory_available_bytes"] > 0
    assert 0 < found["cores_usable"] <= found["cores_logical"]


def test_fingerprints_tell_files_apart(tmp_path):
    first, second, third = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    first.write_bytes(b"GGUF" + b"x" * 100)
    second.write_bytes(b"GGUF" + b"y" * 100)
    third.write_bytes(b"GGUF" + b"x" * 101)
    assert len({fingerprint([path]) for path in (first, second, third)}) == 3
    assert fingerprint([first]) == fingerprint([first])
    assert fingerprint([first, second]) != fingerprint([second, first])


def test_only_the_head_is_read(tmp_path):
    path = tmp_path / "big"
    with path.open("wb") as file:
        file.truncate(10 * FINGERPRINT_BYTES)
    before = fingerprint([path])
    with path.open("r+b") as file:
        file.seek(5 * FINGERPRINT_BYTES)
        file.write(b"z")
    assert fingerprint([path]) == before

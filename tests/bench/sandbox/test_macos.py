"""The profile's text; what it does can only be tried on a Mac (the other tests here do, on one)."""

from pathlib import Path

import pytest

from stride.bench.sandbox import SandboxError
from stride.bench.sandbox.macos import profile


def test_profile():
    lines = profile(Path("/private/tmp/work"), [Path("/opt/python")]).splitlines()
    assert lines[:3] == ["(version 1)", "(deny default)", "(deny process-fork)"]
    writes = [line for line in lines if "file-write" in line]
    assert len(writes) == 1
    assert '(subpath "/private/tmp/work")' in writes[0]
    assert "/opt/python" not in writes[0]
    assert any('(subpath "/opt/python")' in line for line in lines if "file-read*" in line)
    assert not any("network-outbound" in line for line in lines)


@pytest.mark.parametrize("path", ['/tmp/") (allow default) ("', "/tmp/back\\slash"])
def test_paths_that_would_be_more_than_a_path(path):
    with pytest.raises(SandboxError, match="cannot name"):
        profile(Path(path), [])

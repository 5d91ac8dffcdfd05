import dataclasses
import sys

import pytest

from stride.bench.sandbox import Sandbox, SandboxError, available, find, processes
from stride.bench.sandbox.none import none

ABSENT = Sandbox("absent", (), lambda task, control: ["/bin/sh", "-c", "echo no such thing"], processes.SESSION)


def test_the_first_that_works(sandbox):
    assert find(sandboxes=[ABSENT, sandbox]) is sandbox
    assert find(sandboxes=[sandbox, ABSENT]) is sandbox
    assert len(sandbox.protections) >= 5


def test_none_works():
    with pytest.raises(SandboxError, match=r"none works here; --unsafe .* absent: no such thing"):
        find(sandboxes=[ABSENT])
    assert find(unsafe=True, sandboxes=[ABSENT]) is none
    assert "NOT PROTECTED" in none.protections[0]


def test_unsafe_does_not_mean_without_where_one_works(sandbox):
    assert find(unsafe=True, sandboxes=[sandbox]) is sandbox


def test_one_that_starts_and_protects_nothing_is_none():
    pretender = dataclasses.replace(none, name="pretender")
    with pytest.raises(SandboxError, match="pretender: reads other files, writes other files, reaches the network"):
        find(sandboxes=[pretender])


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's sandboxes")
def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert available.probe(available.bubblewrap) == "not installed (apt, dnf, pacman: bubblewrap)"

import dataclasses
import os
import site
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import stride
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


@pytest.mark.skipif(os.geteuid() != 0, reason="all the other tests are this one")
def test_for_users_who_are_not_root(sandbox):
    """Most people are not; the kernel's limits and namespaces are others then."""
    somebody = {"user": 12345, "group": 12345, "extra_groups": [], "cwd": "/"}
    packages = [Path(stride.__file__).parent.parent, *site.getsitepackages()]
    environment = {
        "PYTHONPATH": ":".join(map(os.fspath, packages)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": "/usr/bin:/bin",
    }
    code = f"""
        import sys
        from stride.bench.sandbox import Limits, available, workspace
        sandbox = next(each for each in available.SANDBOXES if each.name == {sandbox.name!r})
        assert available.probe(sandbox) is None
        bomb = "import os, time\\ntry: [os.fork() for _ in range(8)]\\nexcept OSError: pass\\ntime.sleep(5)"
        with workspace() as folder:
            ended = sandbox.run([sys.executable, "-I", "-S", "-c", bomb], folder, Limits(processes=40))
        print(ended.limit)
    """

    def attempt(python: str, what: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([python, "-c", what], capture_output=True, text=True, env=environment, **somebody)

    for python in (sys.executable, "/usr/bin/python3"):
        try:
            if attempt(python, "import stride.bench.sandbox").returncode == 0:
                break
        except OSError:
            continue  # it lies where only root can go
    else:
        pytest.skip("no Python here that others can run")
    ended = attempt(python, textwrap.dedent(code))
    assert (ended.stdout, ended.stderr) == ("processes\n", "")

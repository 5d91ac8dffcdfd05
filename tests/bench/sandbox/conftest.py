"""Every sandbox that works on this machine, and a way to run a few lines of hostile Python in it."""

from __future__ import annotations

import functools
import os
import secrets
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from stride.bench.sandbox import Ended, Limits, Sandbox, available, launch

PYTHON = [os.fspath(launch.PYTHON), "-I", "-S", "-c"]
probe = functools.cache(available.probe)


@pytest.fixture(params=available.SANDBOXES, ids=lambda sandbox: sandbox.name.replace(" ", "-"))
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    if fault := probe(request.param):
        pytest.skip(f"{request.param.name}: {fault}")
    return request.param


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the code may write to; beside it, in ``tmp_path``, is what it may not even see."""
    made = tmp_path / "folder"
    made.mkdir()
    return made


@pytest.fixture
def command() -> Iterator[Callable[..., list[str]]]:
    """Makes command lines of Python code. Afterwards, nothing that was started with one may be left."""
    mark = secrets.token_hex(16)
    yield lambda code, *arguments: [*PYTHON, textwrap.dedent(code), *map(str, arguments), mark]
    left = [each for each in psutil.process_iter(["cmdline"]) if mark in (each.info["cmdline"] or ())]
    assert not left


@pytest.fixture
def run(sandbox: Sandbox, folder: Path, command: Callable[..., list[str]]) -> Callable[..., Ended]:
    def run_code(code: str, *arguments: object, **limits: float) -> Ended:
        return sandbox.run(command(code, *arguments), folder, Limits(**{"seconds": 10, **limits}))

    return run_code

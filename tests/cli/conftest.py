"""Commands run as real processes."""

import os
import subprocess
import sys

import pytest


@pytest.fixture
def stride():
    """Runs ``stride ARGS`` and gives the finished process; output is text."""

    def run(*args, stdin="", timeout=120, **environment):
        return subprocess.run(
            [sys.executable, "-m", "stride", *map(str, args)],
            input=stdin,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout,
            env={**os.environ, "COLUMNS": "120", **environment},
            check=False,
        )

    return run

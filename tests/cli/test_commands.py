"""What all commands share: help, errors in one line, a quick start."""

import subprocess
import sys

import pytest

from stride import __version__
from stride.cli import COMMANDS


def test_help_lists_every_command(stride):
    result = stride("--help")
    assert result.returncode == 0
    for name in COMMANDS:
        assert name in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_its_options(stride, name):
    result = stride(name, "--help")
    assert result.returncode == 0, result.stderr
    assert "Usage" in result.stdout or "usage" in result.stdout
    assert "--help" in result.stdout


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom stride.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'fastapi', 'tokenizers', 'huggingface_hub', 'altair', 'jinja2'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.endswith("HEAVY []\n")


def test_version(stride):
    result = stride("--version")
    assert (result.returncode, result.stdout) == (0, f"stride {__version__}\n")


def test_an_unknown_command_is_an_error(stride):
    result = stride("fly")
    assert result.returncode == 2
    assert "fly" in result.stderr


def test_a_missing_model_is_one_line_that_names_it(stride, tmp_path):
    result = stride("run", "-p", "x", "-m", tmp_path / "absent.gguf")
    assert result.returncode == 1
    assert "absent.gguf" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_broken_model_is_one_line_that_names_it(stride, tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + b"\xff" * 60)
    result = stride("run", "-p", "x", "-m", tmp_path / "broken.gguf")
    assert result.returncode == 1
    assert "broken.gguf" in result.stderr
    assert "Traceback" not in result.stderr

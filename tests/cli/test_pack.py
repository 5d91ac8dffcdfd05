"""`stride pack`: the copy is written, found and used; the demo model needs none."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stride import demo

pytest.importorskip("stride._cpu")


def copied(folder: Path) -> Path:
    """The demo model's parts, there; the first."""
    for part in demo.path().parent.glob("*.gguf"):
        shutil.copyfile(part, folder / part.name)
    return folder / demo.path().name


def test_a_packed_model_answers_as_before(stride, tmp_path):
    model = copied(tmp_path)
    command = ("run", "-m", model, "-p", "Hello", "-n", "8", "--temp", "0")
    before = stride(*command)
    result = stride("pack", "-m", model)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{model}.packed\n"
    after = stride(*command)
    assert (after.returncode, after.stdout) == (0, before.stdout)

    model.write_bytes(model.read_bytes())  # a file of another time
    changed = stride(*command)
    assert changed.stdout == before.stdout
    assert f"{model.name}.packed is of another file" in changed.stderr


def test_the_demo_model_is_not_packed(stride):
    result = stride("pack")
    assert result.returncode == 1
    assert "name another with -m" in result.stderr


def test_without_the_extension_there_is_nothing_to_pack_for(tmp_path):
    model = copied(tmp_path)
    without = "import sys; sys.modules['stride._cpu'] = None; from stride.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", without, "pack", "-m", model], capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    assert "the C++ extension is not installed here" in result.stderr
    assert not list(tmp_path.glob("*packed*"))

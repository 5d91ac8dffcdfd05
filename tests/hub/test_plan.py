"""`stride plan`, against a hub on loopback: a row for each quantisation, few bytes, and what is wrong in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from stride.cli import plan
from stride.errors import RequestError, StrideError
from stride.ops import machine
from stride.ops.machine import Machine

GOLDEN = Path("tests/golden")
SPLIT = sorted(GOLDEN.glob("step35-split-*.gguf"))
MACHINE = Machine(bandwidth=50e9, products=1e12, disk=1e9, disk_is_direct=True, threads=2)


@pytest.fixture(autouse=True)
def _known_machine(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    url = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
    monkeypatch.setattr(machine, "measure", lambda place: MACHINE)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("HF_TOKEN", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def facts(capsys):
    def ask(model, **options):
        plan.command(str(model), as_json=True, **options)
        return json.loads(capsys.readouterr().out)

    return ask


def test_a_row_for_each_quantisation_the_best_marked(hub, facts):
    names = ("step35-iq4_xs", "step35-f16-bf16")
    hub.add("org/model", {f"{name}.gguf": (GOLDEN / f"{name}.gguf").read_bytes() for name in names})
    found = facts("org/model", context=300, parallel=2)
    assert {row["name"] for row in found["models"]} == {"iq4_xs", "bf16"}
    assert found["fetched_bytes"] > 0
    assert found["machine"]["bandwidth"] == 50e9
    largest = max(found["models"], key=lambda row: row["file_bytes"])
    assert [row["best"] for row in found["models"]] == [row is largest for row in found["models"]]
    for row in found["models"]:
        assert (row["mode"], row["parallel"], row["limited_by"]) == ("resident", 2, "memory")
        assert row["needed"] == row["weights"] + row["cache"] + row["working"]
        assert row["generation_per_second"] >= row["generation_per_second_full_context"] > 0
        assert row["prompt_per_second"] > 0
    assert not any((Path(os.environ["HF_HOME"])).rglob("*.gguf"))


def test_a_file_as_a_table(capsys):
    plan.command(str(SPLIT[0]))
    out = capsys.readouterr().out
    assert "resident" in out
    assert "best" in out
    assert "read at 50 GB/s" in out
    assert "fetched" not in out
    assert all(len(line) <= 80 for line in out.splitlines()[2:8])


def test_too_little_memory_streams_or_says_what_would_do(facts, monkeypatch):
    needed = facts(GOLDEN / "step35-iq4_xs.gguf", context=256)["models"][0]
    row = facts(GOLDEN / "step35-iq4_xs.gguf", context=256, budget="1M")["models"][0]
    assert row["mode"] == "too large"
    assert "would do" in row["reason"] or "are needed" in row["reason"]
    assert needed["mode"] == "resident"


def test_a_model_that_does_not_run_is_a_row_with_a_reason(hub, capsys, tmp_path):
    from stride.gguf.writer import write_gguf

    other = write_gguf(tmp_path / "m.gguf", {"general.architecture": "gpt9"}, {}.items())[0]
    hub.add("org/model", {"a-Q8_0.gguf": other.read_bytes(), "b-F32.gguf": (GOLDEN / "qwen2.gguf").read_bytes()})
    plan.command("org/model")
    out = capsys.readouterr().out
    assert "cannot run" in out
    assert "the architecture is 'gpt9'" in out
    with pytest.raises(StrideError, match="the architecture is 'gpt9'"):
        plan.command("org/model:Q8_0")


@pytest.mark.parametrize(
    ("options", "what"),
    [({"cache_type": "f64"}, "--cache-type is 'f64'"), ({"budget": "much"}, "'much' is no size")],
    ids=lambda value: str(value)[:20],
)
def test_what_cannot_be_is_refused_by_name(options, what):
    with pytest.raises(RequestError, match=what):
        plan.command(str(SPLIT[0]), **options)


def test_a_hub_that_ignores_ranges_is_one_line_on_stderr(hub, tmp_path):
    """A real process."""
    hub.add("org/model", {"m-F32.gguf": (GOLDEN / "qwen2.gguf").read_bytes()})
    hub.ignore_range = True
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "stride", "plan", "org/model"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("stride: org/model/m-F32.gguf: 127.0.0.1 sends whole files only")
    assert done.stderr.count("\n") == 1

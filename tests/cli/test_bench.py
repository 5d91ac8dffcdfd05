"""``stride bench`` as a real process: the demo model end to end, a dead address, Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from stride.cli.bench import _without_secrets
from stride.demo import path as demo_path

BENCH = [sys.executable, "-m", "stride", "bench"]


def stride_bench(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*BENCH, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def test_the_demo_model_end_to_end(tmp_path):
    done = stride_bench("--repeats", "1", "--max-tokens-coding", "40", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "stride-report"
    assert done.stdout.split() == [f"stride-report/report.{kind}" for kind in ("html", "md", "json")]
    assert "stand-in" in (folder / "report.md").read_text("utf-8")
    assert (folder / "report.html").read_text("utf-8").startswith("<!doctype html>")
    (target,) = json.loads((folder / "report.json").read_text("utf-8"))["targets"]
    assert [(run["task"], run["repeat"]) for run in target["runs"]] == [
        ("speed", 0), ("speed", 1), ("coding", 1), ("tools", 1),
    ]  # fmt: skip
    for run in target["runs"]:
        assert run["fault"] is None
        assert run["figures"]["completion_tokens"] == run["reply"]["timings"]["predicted_n"]
        assert run["figures"]["cached_tokens"] == 0
    assert target["memory"]["peak_rss"] > target["size_bytes"] > 1 << 20
    assert not psutil.pid_exists(target["memory"]["pid"])
    assert "speed 1:" in done.stderr


def test_a_dead_address_fails_and_is_reported(tmp_path):
    done = stride_bench("--url", "http://127.0.0.1:9", "--out", "here", cwd=tmp_path)
    assert done.returncode == 1
    assert "stride: could not be measured: 127.0.0.1:9: http://127.0.0.1:9 does not answer" in done.stderr
    assert "could not be measured" in (tmp_path / "here" / "report.md").read_text("utf-8")


def test_a_missing_model_fails_and_the_others_are_measured(tmp_path):
    demo = str(demo_path())
    done = stride_bench("-m", demo, "-m", "nowhere.gguf", "--repeats", "1", "--max-tokens-coding", "9", cwd=tmp_path)
    assert done.returncode == 1
    assert "could not be measured: nowhere" in done.stderr
    assert "Traceback" not in done.stderr
    measured, missing = json.loads((tmp_path / "stride-report" / "report.json").read_text("utf-8"))["targets"]
    assert len(measured["runs"]) == 4
    assert "nowhere.gguf" in missing["error"]


def test_ctrl_c_writes_a_partial_report(tmp_path):
    with subprocess.Popen(BENCH, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stderr
            assert "warm-up" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            _, rest = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "interrupted" in rest
    data = json.loads((tmp_path / "stride-report" / "report.json").read_text("utf-8"))
    assert data["interrupted"]
    assert not psutil.pid_exists(data["targets"][0]["memory"]["pid"])


@pytest.mark.parametrize("written", [["--api-key", "secret"], ["--api-key=secret"]])
def test_keys_are_not_published(written):
    shown = _without_secrets(["bench", "--url", "http://x", *written, "--out", "y"])
    assert "secret" not in " ".join(shown)
    assert shown[:3] == ["bench", "--url", "http://x"]
    assert shown[-2:] == ["--out", "y"]

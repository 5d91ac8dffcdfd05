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


@pytest.fixture(autouse=True)
def _own_history(monkeypatch, tmp_path):
    monkeypatch.setenv("STRIDE_HISTORY", str(tmp_path / "history.sqlite3"))


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
        ("warm-up", 0), ("speed", 1), ("coding", 1), ("tools", 1), ("warm", 1), ("depth-1024", 1),
    ]  # fmt: skip
    for run in target["runs"]:
        assert run["fault"] is None
        assert run["figures"]["completion_tokens"] == run["reply"]["timings"]["predicted_n"]
        assert (run["figures"]["cached_tokens"] > 0) == (run["task"] == "warm")
    assert target["memory"]["peak_rss"] > target["size_bytes"] > 1 << 20
    assert not psutil.pid_exists(target["memory"]["pid"])
    assert "speed 1:" in done.stderr


def test_only_some_tests(tmp_path):
    done = stride_bench("--test", "speed", "--test", "warm", "--repeats", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (target,) = json.loads((tmp_path / "stride-report" / "report.json").read_text("utf-8"))["targets"]
    assert [run["task"] for run in target["runs"]] == ["warm-up", "speed", "warm", "speed", "warm"]
    assert target["cases"] == []
    assert "about 7 requests" in done.stderr
    assert "from here, if all repeats are like the first" in done.stderr


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
    assert [run["fault"] for run in measured["runs"]] == [None] * 7
    assert "nowhere.gguf" in missing["error"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_what_is_interrupted_leaves_a_partial_report_from_which_it_goes_on(tmp_path, how):
    command = [*BENCH, "--max-tokens-coding", "40", "--time-limit", "600"]  # however slow the machine
    with subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stderr
            while "speed 1" not in process.stderr.readline():
                assert process.poll() is None
            process.send_signal(how)
            _, rest = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "interrupted" in rest
    data = json.loads((tmp_path / "stride-report" / "report.json").read_text("utf-8"))
    assert data["interrupted"]
    assert not psutil.pid_exists(data["targets"][0]["memory"]["pid"])
    done = stride_bench("--resume", "stride-report", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "stride-report" / "report.json").read_text("utf-8"))
    assert not data["interrupted"]
    counted = [(run["task"], run["repeat"]) for run in data["targets"][0]["runs"] if run["repeat"]]
    assert len(counted) == len(set(counted)) == 15


def test_stored_answers_are_graded_again_and_a_manifest_is_measured_again(tmp_path):
    arguments = ("--repeats", "1", "--max-tokens-coding", "40", "--out", "first")
    assert stride_bench(*arguments, "--require", "generation>=0.001", cwd=tmp_path).returncode == 0
    journal = tmp_path / "first" / "runs.jsonl"
    before = journal.read_text("utf-8")
    journal.write_text(before.replace("no Python file in the answer", "something wrong"), "utf-8")
    missed = stride_bench("regrade", "first", "--require", "coding>=1", cwd=tmp_path)
    assert missed.returncode == 3
    assert "missed: Stride demo model: coding is 0, but coding>=1 is required" in missed.stderr
    assert "something wrong" not in journal.read_text("utf-8")
    again = stride_bench("replay", "first", "--out", "second", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    first, second = (json.loads((tmp_path / name / "manifest.json").read_text("utf-8")) for name in ("first", "second"))
    assert first["plan"] == second["plan"]
    assert first["targets"] == second["targets"]
    told = stride_bench("--history", cwd=tmp_path)
    assert [line.split()[0] for line in told.stdout.splitlines() if " 20" in line and "sqlite3" not in line] == [
        "1",
        "2",
    ]
    compared = stride_bench("compare", "first", "second", cwd=tmp_path)
    assert compared.returncode == 0, compared.stderr
    assert "Generation, tok/s" in compared.stdout
    ranked = stride_bench("leaderboard", "first", "second", "--out", "ranked.html", cwd=tmp_path)
    assert ranked.stdout == "ranked.html\n"
    assert (tmp_path / "ranked.html").read_text("utf-8").count("<strong>Stride demo model</strong>") == 2
    assert "Tool suite, 14 conversations: 0 passed only in A" in compared.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--require", "beauty>=1"), "'beauty>=1' is no requirement"),
        (("--resume", "nowhere"), "nowhere holds no measurement"),
        (("--quick", "--full"), "only one of --quick"),
        (("--test", "sped"), "quick has no test 'sped': it has speed, coding, tools,"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(tmp_path, arguments, said):
    done = stride_bench(*arguments, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert not (tmp_path / "stride-report").exists()


@pytest.mark.parametrize("written", [["--api-key", "secret"], ["--api-key=secret"]])
def test_keys_are_not_published(written):
    shown = _without_secrets(["bench", "--url", "http://x", *written, "--out", "y"])
    assert "secret" not in " ".join(shown)
    assert shown[:3] == ["bench", "--url", "http://x"]
    assert shown[-2:] == ["--out", "y"]

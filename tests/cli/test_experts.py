"""`stride experts`: records the demo model's routing, replays it, draws, and keeps the result."""

import json

import pytest

from stride import demo
from stride.experts import saved
from stride.experts.trace import read_trace
from stride.gguf import open_gguf
from stride.models.config import read_config


@pytest.fixture
def shape():
    with open_gguf(demo.path()) as file:
        return read_config(file).experts


def test_records_replays_and_keeps(stride, tmp_path, monkeypatch, shape):
    data = {"XDG_DATA_HOME": str(tmp_path / "data")}
    asked = ("experts", "-p", "Hello", "-p", "A second one", "-n", 24, "--out", tmp_path / "out")
    result = stride(*asked, "--json", **data)
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    trace = read_trace(tmp_path / "out" / "routing.trace")
    assert trace.shape == shape
    assert facts["routing"]["n_tokens"] == sum(len(step[0].ids) for step in trace.steps())
    assert 0 < facts["routing"]["n_generated"] <= 48
    assert len(facts["policies"]) == 6
    for policy in facts["policies"]:
        assert all(rate <= bound for rate, bound in zip(policy["hit_rates"], facts["bound"], strict=True))
    assert facts["slots"][-1] == shape.n_keys
    assert facts["budget_bytes"] == [n * facts["expert_bytes"] for n in facts["slots"]]
    svg = (tmp_path / "out" / "hit-rate.svg").read_text()
    assert svg.startswith("<svg")
    assert "s3-fifo" in svg
    assert (tmp_path / "out" / "hit-rate.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    kept = saved.load(shape)
    assert kept is not None
    assert str(saved.saved_path(shape)) == facts["saved"]
    assert list(kept.bound) == pytest.approx(facts["bound"], abs=1e-4)

    again = stride("experts", "--trace", tmp_path / "out" / "routing.trace", "--out", tmp_path / "again", **data)
    assert again.returncode == 0, again.stderr
    for text in ("lru, global", "s3-fifo, per layer", "bound (Bélády)", "µs for each layer", facts["saved"]):
        assert text in again.stdout


def test_the_same_seed_gives_the_same_trace(stride, tmp_path):
    for name in ("a", "b"):
        result = stride("experts", "-p", "Hello", "-n", 24, "--out", tmp_path / name, XDG_DATA_HOME=str(tmp_path))
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "a/routing.trace").read_bytes() == (tmp_path / "b/routing.trace").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("tests/golden/qwen2.gguf",), "has no routed experts"),
        (("--trace", "t", "-p", "x"), "--trace and -p exclude each other"),
        (("--trace", "README.md"), "README.md is no routing trace"),
        (("-n", 4, "-p", "x"), "too few to say anything"),
        (("-n", 400, "-p", "x", "-c", 256), "pass the context of 256"),
        (("--out", "README.md"), "README.md cannot be made"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_is_refused_by_name(stride, tmp_path, arguments, what):
    out = () if "--out" in arguments else ("--out", tmp_path)
    result = stride("experts", *arguments, *out, XDG_DATA_HOME=str(tmp_path))
    assert result.returncode == 1
    assert what in result.stderr
    assert "Traceback" not in result.stderr


def test_a_trace_of_another_model_is_refused(stride, tmp_path):
    import numpy as np

    from stride.experts.trace import Recorder, Shape

    with Recorder(tmp_path / "t", Shape("other", 2, 9, 3)) as recorder:
        recorder.record(0, np.array([[1, 2, 3]]))
    result = stride("experts", "--trace", tmp_path / "t", "--out", tmp_path, XDG_DATA_HOME=str(tmp_path))
    assert result.returncode == 1
    assert "is of other, 3 of 9 experts in 2 layers; Stride demo uses 2 of 7" in result.stderr

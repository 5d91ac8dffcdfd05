"""A measurement's folder: what was written is read again, whatever moment the program was ended at."""

from __future__ import annotations

import hashlib
import shutil

import pytest

from stride.bench.client import Answer, Reply, Times
from stride.bench.plan import LEVELS
from stride.bench.results import Run
from stride.bench.store import Manifest, Store
from stride.bench.targets import Launched, ServedModel, Url
from stride.bench.tasks import grade_tools
from stride.errors import StrideError
from stride.types import ToolCall

TARGETS = [Url("http://x", "m", api_key="secret"), ServedModel("a.gguf"), Launched("server {port}")]
MANIFEST = Manifest(["stride", "bench"], {"cpu": "c", "date": "d"}, TARGETS, LEVELS["full"])


def run(repeat: int) -> Run:
    answer = Answer("naïve 😀", "hm", (ToolCall("id", "f", '{"x": 1}'),), "stop")
    reply = Reply(answer, Times(0.1, 0.2, 0.3, 0.4, 0.5), {"prompt_tokens": 3}, None, (0.2, 0.4))
    return Run("x", "tools", repeat, repeat, "abcd", "2026-02-19T12:00:00+00:00", reply, None, None)


@pytest.fixture
def store(tmp_path):
    made = Store.create(tmp_path / "out", MANIFEST)
    first = made.results.targets[0]
    first.label, first.props = "x", {"n_ctx": 5}
    made.connected(first)
    for repeat in range(3):
        made.finished(run(repeat))
    return made


def test_what_was_written_is_read_again(store):
    again = Store.open(store.folder)
    assert again.manifest.plan == MANIFEST.plan
    assert again.manifest.targets == [Url("http://x", "m"), ServedModel("a.gguf"), Launched("server {port}")]
    first, second, _ = again.results.targets
    assert first.props == {"n_ctx": 5}
    assert first.runs == [run(0), run(1), run(2)]
    assert (second.label, second.runs) == ("a", [])


def test_the_manifest_tells_servers_apart(store):
    first = store.results.targets[0]
    first.url, first.engine, first.command = "http://x", "Stride", ["python", "-m", "stride", "serve"]
    first.props = {"build_info": "stride-1", "n_ctx": 5, "chat_template": "{{ x }}"}
    store.connected(first)
    told = Store.open(store.folder).manifest.servers
    assert list(told) == ["x"]
    assert told["x"]["command"] == ["stride", "serve"]
    assert (told["x"]["build"], told["x"]["n_ctx"], told["x"]["model_hash"]) == ("stride-1", 5, None)
    assert told["x"]["template_hash"] == hashlib.sha256(b"{{ x }}").hexdigest()
    assert not list(store.folder.glob("*.new"))


def test_keys_are_never_written(store):
    assert all("secret" not in path.read_text("utf-8") for path in store.folder.iterdir())


def test_a_journal_cut_anywhere_gives_its_whole_lines(store, tmp_path):
    journal = (store.folder / "runs.jsonl").read_bytes()
    ends = [i + 1 for i, byte in enumerate(journal) if byte == ord("\n")]
    for cut in range(0, len(journal) + 1, 7):
        folder = tmp_path / "cut"
        shutil.copytree(store.folder, folder)
        (folder / "runs.jsonl").write_bytes(journal[:cut])
        opened = Store.open(folder)
        whole = sum(end <= cut for end in ends)
        assert len(opened.results.targets[0].runs) == max(0, whole - 1)
        opened.results.targets[0].label = "x"
        opened.finished(run(9))
        assert Store.open(folder).results.targets[0].runs[-1:] == [run(9)]
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("manifest.json", "{", "manifest.json cannot be read"),
        ("manifest.json", '{"command": []}', "manifest.json cannot be read: machine: Field required"),
        ("runs.jsonl", "{}\n", "runs.jsonl, line 1: index: Field required"),
        ("runs.jsonl", '{"index": 7}\n', "runs.jsonl, line 1"),
    ],
)
def test_damage_is_named(store, name, text, said):
    (store.folder / name).write_text(text, "utf-8")
    with pytest.raises(StrideError) as caught:
        Store.open(store.folder)
    assert said in str(caught.value)


def test_a_folder_without_a_measurement_is_said_to_be_one(tmp_path):
    with pytest.raises(StrideError, match="holds no measurement"):
        Store.open(tmp_path)


def test_answers_are_graded_again(store):
    opened = Store.open(store.folder)
    opened.regrade({"tools": grade_tools})
    runs = Store.open(store.folder).results.targets[0].runs
    assert [run.grade.outcome if run.grade else None for run in runs] == [None, "fail", "fail"]
    assert runs == opened.results.targets[0].runs


def test_that_time_was_up_is_remembered_through_a_regrade(store):
    store.results.time_is_up = True
    store.over()
    opened = Store.open(store.folder)
    assert opened.results.time_is_up
    opened.regrade({"tools": grade_tools})
    assert Store.open(store.folder).results.time_is_up

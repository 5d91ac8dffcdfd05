"""The prefix cache across restarts: what was kept is used, what is damaged or foreign is not, and nothing breaks."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stride.engine import Engine, EngineConfig, prefix_store

# Of conftest.py: the class Client, and a FakeModel.
NewClient = Model = Any


def prompt(seed: int, n: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, 97, n).tolist()


@pytest.fixture
def ask(model: Model, new_client: NewClient, tmp_path: Path) -> Callable[..., int]:
    """Starts an engine, asks, checks the answers and ends it: how many tokens of the last prompt were kept."""

    def ask(*prompts: list[int], identity: str = "m", folder: Path = tmp_path / "kept", **config: Any) -> int:
        settings = {"n_ctx": 512, "n_parallel": 1, "cache_bytes": 100_000, "cache_dir": folder, **config}
        engine = Engine(model, EngineConfig(cache_identity=identity, **settings))
        clients = [new_client(one) for one in prompts]
        for client in clients:
            engine.submit(client.request)
            assert client.wait().tokens == model.greedy(client.request.prompt_ids, 8)
        engine.close()
        found: int = clients[-1].end.usage.cached_tokens if clients else 0
        return found

    return ask


@pytest.fixture
def files(tmp_path: Path) -> Callable[[], list[Path]]:
    return lambda: sorted(path for path in (tmp_path / "kept").rglob("*") if path.is_file())


FIRST = prompt(1, 300)


def test_what_was_kept_is_used_after_a_restart(ask: Any, files: Any) -> None:
    assert ask(FIRST) == 0
    assert len(files()) == 10  # 307 tokens
    assert ask(FIRST) == 299
    assert ask([*FIRST, *prompt(2, 50)]) == 300
    assert ask(FIRST[:200]) >= 0  # between two snapshots
    assert ask(FIRST, [*FIRST, *prompt(3, 50)]) == 300


def test_scopes_stay_apart_on_disk(ask: Any, model: Model, new_client: NewClient, tmp_path: Path) -> None:
    ask(FIRST)
    engine = Engine(
        model, EngineConfig(n_ctx=512, cache_bytes=100_000, cache_dir=tmp_path / "kept", cache_identity="m")
    )
    stranger, owner = new_client(FIRST, cache_scope="another"), new_client(FIRST)
    for client in (stranger, owner):
        engine.submit(client.request)
        client.wait()
    engine.close()
    assert stranger.end.usage.cached_tokens == 0
    assert owner.end.usage.cached_tokens == 299
    text = b"".join(path.read_bytes() for path in tmp_path.rglob("*.prefix"))
    assert b"another" not in text


def test_only_the_owner_may_read_it(ask: Any, files: Any) -> None:
    ask(FIRST)
    assert {path.stat().st_mode & 0o777 for path in files()} == {0o600}
    assert files()[0].parent.stat().st_mode & 0o777 == 0o700


def test_another_identity_finds_nothing_and_harms_nothing(ask: Any) -> None:
    ask(FIRST)
    assert ask(FIRST, identity="other") == 0
    assert ask(FIRST) == 299


def test_it_is_written_while_nothing_else_is_to_do(
    model: Model, new_client: NewClient, tmp_path: Path, files: Any
) -> None:
    config = EngineConfig(n_ctx=512, cache_bytes=100_000, cache_dir=tmp_path / "kept")
    engine = Engine(model, config)
    client = new_client(FIRST)
    engine.submit(client.request)
    client.wait()
    while len(files()) < 10:
        engine.exclusively(lambda: None)
    shutil.copytree(tmp_path / "kept", tmp_path / "copy")  # as if the process had ended here
    engine.close()
    other = Engine(model, EngineConfig(n_ctx=512, cache_bytes=100_000, cache_dir=tmp_path / "copy"))
    again = new_client(FIRST)
    other.submit(again.request)
    assert again.wait().end.usage.cached_tokens == 299
    other.close()


def test_what_is_pushed_out_stays_on_disk(ask: Any, files: Any) -> None:
    for seed in range(4):
        ask(prompt(seed, 300), cache_bytes=1)
    assert len(files()) > 16  # pages of a context
    assert ask(*(prompt(seed, 300) for seed in range(4))) == 299


def test_a_smaller_cache_takes_the_latest_and_leaves_the_rest(ask: Any, files: Any) -> None:
    ask(*(prompt(seed, 300) for seed in range(4)))
    before = files()
    assert ask(prompt(3, 300), cache_bytes=1) >= 256
    assert set(before) <= set(files())
    assert ask(prompt(0, 300)) == 299


def test_the_disk_holds_so_many_bytes_of_all_identities(ask: Any, files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(FIRST, identity="old")
    old = files()
    most = 3 * sum(path.stat().st_size for path in old) // 2
    monkeypatch.setattr(prefix_store, "DISK_BYTES", most)
    ask(FIRST)
    ask(prompt(2, 300))
    assert sum(path.stat().st_size for path in files()) <= most
    assert not set(old) & set(files())
    assert not old[0].parent.exists() or not list(old[0].parent.iterdir())
    assert ask(prompt(2, 300)) == 299


def test_what_a_process_left_half_written_goes(ask: Any, files: Any) -> None:
    ask(FIRST)
    gone = files()[0].with_name(".999999999.partial")
    gone.write_bytes(b"x")
    alive = files()[0].with_name(f".{os.getppid()}.partial")
    alive.write_bytes(b"x")
    ask()
    assert not gone.exists()
    assert alive.exists()


def test_nodes_are_written_while_there_is_work(
    model: Model, new_client: NewClient, tmp_path: Path, files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefix_store, "CLOSE_SECONDS", -1.0)
    engine = Engine(model, EngineConfig(n_ctx=512, cache_bytes=100_000, cache_dir=tmp_path / "kept"))
    client = new_client(FIRST, max_tokens=100)
    engine.submit(client.request)
    engine.close(drain=True)  # never idle
    client.wait()
    assert len(files()) > 4


def flip(data: bytearray, at: int) -> bytes:
    data[at] ^= 1
    return bytes(data)


DAMAGES: dict[str, Callable[[bytearray], bytes]] = {
    "empty": lambda data: b"",
    "magic": lambda data: flip(data, 3),
    "digest": lambda data: flip(data, 20),
    "header": lambda data: flip(data, 60),
    "page": lambda data: flip(data, len(data) - 5),
    "short": lambda data: bytes(data[:-1]),
    "cut in its header": lambda data: bytes(data[:70]),
    "long": lambda data: bytes(data) + b"x",
    "zeros": lambda data: bytes(len(data)),
    "noise": lambda data: np.random.default_rng(0).bytes(len(data)),
    "deep": lambda data: bytes(data[:48]) + b"[" * 60_000 + b"\n",
    "a list": lambda data: bytes(data[:48]) + b"[]\n",
    "other types": lambda data: bytes(data[:48]) + b'{"parent": 1, "scope": 2, "tokens": 3, "pages": 4}\n',
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_noted_and_gone(ask: Any, files: Any, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    ask(FIRST)
    for path in files():
        path.write_bytes(DAMAGES[damage](bytearray(path.read_bytes())))
    with caplog.at_level(logging.WARNING):
        assert ask(FIRST) == 0
    assert "10 of 10 files" in caplog.text
    assert ask(FIRST) == 299


def test_one_damaged_file_costs_what_follows_it(ask: Any, files: Any) -> None:
    ask(prompt(5, 100))
    before = set(files())
    ask([*prompt(5, 100), *prompt(6, 200)])
    for path in set(files()) - before:
        path.write_bytes(b"")
    assert 0 < ask([*prompt(5, 100), *prompt(6, 200)]) <= 100


def test_a_file_under_anothers_name_is_not_believed(ask: Any, files: Any) -> None:
    ask(FIRST)
    names = files()
    contents = [path.read_bytes() for path in names]
    for path, content in zip(names, contents[1:] + contents[:1], strict=True):
        path.write_bytes(content)
    assert ask(FIRST) == 0


def test_other_things_in_the_folder_are_left_alone(ask: Any, files: Any) -> None:
    ask(FIRST)
    stranger = files()[0].with_name("notes.txt")
    stranger.write_text("mine")
    assert ask(FIRST) == 299
    assert stranger.read_text() == "mine"


def test_a_disk_that_fails_ends_the_keeping_and_nothing_else(
    ask: Any, files: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_folder = tmp_path / "file"
    no_folder.write_text("")
    assert ask(FIRST, FIRST, folder=no_folder) == 299
    assert "no longer kept" in caplog.text
    caplog.clear()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert ask(FIRST, FIRST) == 299
    assert caplog.text.count("no longer kept") == 1
    assert [path for path in files() if path.suffix == ".prefix"] == []

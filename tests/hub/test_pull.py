"""`stride pull` as a process, against the stand-in hub."""

from __future__ import annotations

import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stride.errors import StrideError
from stride.hub import resolve
from stride.hub.repo import safe_path


def data(seed: int, size: int = 300_000) -> bytes:
    return random.Random(seed).randbytes(size)


PARTS = {f"IQ4_XS/m-IQ4_XS-{i:05}-of-00002.gguf": data(i) for i in (1, 2)}
FILES = {**PARTS, "Q8_0/m-Q8_0.gguf": data(3, 400_000), "README.md": b"hello\n"}


@pytest.fixture
def stride(hub, tmp_path):
    """Starts `stride pull` in an environment of its own."""

    def start(*arguments: str, **extra: str) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DOWNLOAD_TIMEOUT": "5",
            **extra,
        }
        for name in ("HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE"):
            if name not in extra:
                environment.pop(name, None)
        return subprocess.Popen(
            [sys.executable, "-c", "from stride.cli import main; main()", "pull", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def finish(process: subprocess.Popen[str], status: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    return out, err


def test_include_pattern_to_a_folder(stride, hub, tmp_path):
    hub.add("org/model", FILES)
    out, err = finish(stride("org/model", "--include", "IQ4_XS/*", "--local-dir", str(tmp_path / "my models")))
    for path, content in PARTS.items():
        assert (tmp_path / "my models" / path).read_bytes() == content
    assert not (tmp_path / "my models/Q8_0").exists()
    first = tmp_path / "my models/IQ4_XS/m-IQ4_XS-00001-of-00002.gguf"
    assert shlex.split(out) == ["stride", "serve", "-m", str(first)]
    assert "585.94 KiB in 2 files; 585.94 KiB to download" in err


def test_cache_then_resolve(stride, hub, tmp_path, monkeypatch):
    commit = hub.add("org/model", FILES)
    finish(stride("org/model:IQ4_XS"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    path = resolve("org/model")
    assert path.read_bytes() == FILES["IQ4_XS/m-IQ4_XS-00001-of-00002.gguf"]
    assert commit in str(path)

    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache("org/model", "IQ4_XS/m-IQ4_XS-00002-of-00002.gguf", cache_dir=tmp_path / "hf/hub")
    assert isinstance(found, str)
    assert Path(found).read_bytes() == FILES["IQ4_XS/m-IQ4_XS-00002-of-00002.gguf"]


def test_several_quantisations_are_listed(stride, hub):
    hub.add("org/model", FILES)
    _, err = finish(stride("org/model"), status=1)
    assert "org/model:IQ4_XS" in err
    assert "org/model:Q8_0" in err
    assert "390.62 KiB" in err


def test_pattern_without_match(stride, hub):
    hub.add("org/model", FILES)
    _, err = finish(stride("org/model", "--include", "Q2_K/*"), status=1)
    assert "no file that matches Q2_K/*" in err


def test_killed_then_resumed(stride, hub, tmp_path):
    content = data(9, 4 << 20)
    hub.add("org/model", {"m.gguf": content})
    hub.pause = 0.02
    process = stride("org/model", "--local-dir", str(tmp_path))
    partial = wait_for_partial(tmp_path)
    process.send_signal(signal.SIGKILL)
    finish(process, status=-signal.SIGKILL)
    have = partial.stat().st_size
    assert 0 < have < len(content)
    assert not (tmp_path / "m.gguf").exists()
    hub.pause = 0.0
    finish(stride("org/model", "--local-dir", str(tmp_path)))
    assert (tmp_path / "m.gguf").read_bytes() == content
    assert hub.ranges("m.gguf")[1] == f"bytes={have}-{len(content) - 1}"


def test_interrupt_ends_it_soon_and_keeps_what_came(stride, hub, tmp_path):
    hub.add("org/model", {"m.gguf": data(9, 4 << 20), "m.txt": data(8, 4 << 20)})
    hub.pause = 0.1
    process = stride("org/model", "--include", "m.*", "--local-dir", str(tmp_path))
    partial = wait_for_partial(tmp_path)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert time.monotonic() - started < 5, "the whole takes 7 seconds"
    assert 0 < partial.stat().st_size < 4 << 20


def wait_for_partial(folder: Path) -> Path:
    """The partial file of a download under way, once it holds something."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for path in folder.rglob("*.incomplete"):
            if path.stat().st_size:
                return path
        time.sleep(0.01)
    raise AssertionError("no partial file appeared")


def test_two_downloaders_share_one_download(stride, hub, tmp_path):
    content = data(9, 8 << 20)
    hub.add("org/model", {"m.gguf": content})
    hub.pause = 0.1
    first = stride("org/model", "--local-dir", str(tmp_path))
    wait_for_partial(tmp_path)
    second = stride("org/model", "--local-dir", str(tmp_path))
    assert second.stderr is not None
    assert "m.gguf is being downloaded by somebody else; waiting\n" in iter(second.stderr.readline, "")
    hub.pause = 0.0
    finish(first)
    finish(second)
    assert (tmp_path / "m.gguf").read_bytes() == content
    assert len(hub.ranges("m.gguf")) == 1


def test_moved_revision_does_not_mix_commits(stride, hub, tmp_path):
    old, new = data(1, 4 << 20), data(2, 4 << 20)
    hub.add("org/model", {"m.gguf": old})
    hub.pause = 0.02
    process = stride("org/model", "--local-dir", str(tmp_path))
    wait_for_partial(tmp_path)
    hub.add("org/model", {"m.gguf": new})
    hub.pause = 0.0
    finish(process)
    assert (tmp_path / "m.gguf").read_bytes() == old
    finish(stride("org/model", "--local-dir", str(tmp_path)))
    assert (tmp_path / "m.gguf").read_bytes() == new


def test_names_that_lead_outside_are_refused(stride, hub, tmp_path):
    hub.add("org/model", {"../evil.gguf": data(1), "fine.gguf": data(2)})
    _, err = finish(stride("org/model", "--include", "*", "--local-dir", str(tmp_path / "in")), status=1)
    assert "'../evil.gguf', which leads outside of its folder; refused" in err
    assert not list(tmp_path.rglob("*.gguf"))


@pytest.mark.parametrize(
    "name", ["a/../../evil", "..", "/tmp/evil", "a\\..\\..\\evil", "C:\\evil", "\\\\host\\x", "a\0b", "a\nb"]
)
def test_names(name):
    with pytest.raises(StrideError, match="refused"):
        safe_path(name)
    assert safe_path("IQ4_XS/Step-3.5..Flash.gguf") == "IQ4_XS/Step-3.5..Flash.gguf"


def test_small_disk_is_an_error_before_anything_is_downloaded(stride, hub, tmp_path):
    hub.add("org/model", {"m.gguf": data(1)})
    hub.claimed_size = 1 << 60
    _, err = finish(stride("org/model", "--local-dir", str(tmp_path)), status=1)
    assert "the download needs 1024.00 PiB, but the disk of" in err
    assert hub.ranges("m.gguf") == []


def test_folder_that_cannot_be_made(stride, hub, tmp_path):
    hub.add("org/model", {"m.gguf": data(1)})
    (tmp_path / "file").touch()
    _, err = finish(stride("org/model", "--local-dir", str(tmp_path / "file/in")), status=1)
    assert "m.gguf cannot be kept: " in err
    assert "Traceback" not in err


def test_damaged_download_leaves_no_file(stride, hub, tmp_path):
    hub.add("org/model", {"m.gguf": data(1)})
    hub.corrupt = 2
    _, err = finish(stride("org/model", "--local-dir", str(tmp_path)), status=1)
    assert "m.gguf came damaged twice" in err
    assert not list(tmp_path.rglob("m.gguf"))


def test_private_repository_needs_the_token(stride, hub, tmp_path):
    hub.add("org/model", {"m.gguf": data(1)})
    hub.token = "secret"
    _, err = finish(stride("org/model", "--local-dir", str(tmp_path)), status=1)
    assert "or it is private" in err
    finish(stride("org/model", "--local-dir", str(tmp_path), HF_TOKEN="secret"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("org/nothing",), "there is no org/nothing on http://127.0.0.1"),
        (("org/model", "--revision", "v9"), "org/model has no revision 'v9'"),
        (("not a repo",), "'not a repo' is no repository"),
    ],
)
def test_what_is_not_there(stride, hub, arguments, message):
    hub.add("org/model", FILES)
    _, err = finish(stride(*arguments), status=1)
    assert message in err


def test_no_network(stride):
    _, err = finish(stride("org/model", HF_ENDPOINT="http://127.0.0.1:9"), status=1)
    assert "http://127.0.0.1:9 does not answer for org/model" in err

"""A file on the hub, read in pieces: exactly what was asked for, or an error that says why not."""

import hashlib
from contextlib import closing

import numpy as np
import pytest

from stride.errors import ModelFileError, StrideError
from stride.hub.download import RemoteFile, Source
from stride.hub.remote import STEP, HubFile


@pytest.fixture
def opened(hub, payload):
    """Opens the payload on the hub."""
    commit = hub.add("org/model", {"m.gguf": payload})
    url = f"{hub.url}/org/model/resolve/{commit}/m.gguf"
    remote = RemoteFile("m.gguf", len(payload), hashlib.sha256(payload).hexdigest(), url)
    with closing(Source(hub.url, {}, timeout=2.0, retry_wait=0.001)) as source:
        yield HubFile("org/model", remote, source, 1000)


def test_pieces_are_the_files_and_are_counted(opened, hub, payload):
    assert opened.read(0, 1000).tobytes() == payload[:1000]
    assert opened.view(70_000, 200_000).tobytes() == payload[70_000:270_000]
    assert opened.read(len(payload) - 5, 5).tobytes() == payload[-5:]
    assert opened.n_fetched == 201_005
    assert hub.ranges("m.gguf") == ["bytes=0-999", "bytes=70000-269999", f"bytes={len(payload) - 5}-{len(payload) - 1}"]
    assert opened.read(0, 3).dtype == np.uint8


def test_the_head_grows_by_steps(opened):
    assert opened.ahead(0, 8) == 1000
    assert opened.ahead(1000, 1200) == 1000 + STEP
    assert opened.ahead(1000, 5 * STEP) == 5 * STEP


def test_a_server_that_ignores_ranges_is_refused_before_it_sends_the_file(opened, hub):
    hub.ignore_range = True
    with pytest.raises(
        StrideError, match=r"org/model/m\.gguf: 127\.0\.0\.1 sends whole files only.*3\.00 MiB: refused"
    ):
        opened.read(0, 1000)
    assert opened.n_fetched == 0
    assert len(hub.requests) == 1


def test_short_replies_and_busy_servers_are_asked_again(opened, hub, payload):
    hub.cut_after = [400]
    assert opened.read(0, 1000).tobytes() == payload[:1000]
    for busy in (503, 429):
        hub.status = [busy]
        assert opened.read(0, 1000).tobytes() == payload[:1000]


def test_in_vain_three_times_is_an_error_that_names_the_place(opened, hub):
    hub.status = [500, 500, 500]
    with pytest.raises(StrideError, match=r"m\.gguf: the hub answers 500, 3 times in a row at byte 64"):
        opened.read(64, 10)
    hub.cut_after = [1, 1, 1]
    with pytest.raises(StrideError, match="3 times in a row"):
        opened.read(0, 10)


@pytest.mark.parametrize(("status", "what"), [(403, "answers 403: give the consent"), (404, "answers 404$")])
def test_a_refusal_is_not_asked_again(opened, hub, status, what):
    hub.status = [status]
    with pytest.raises(StrideError, match=what):
        opened.read(0, 10)
    assert len(hub.requests) == 1


def test_another_length_than_listed_is_named(opened, payload):
    opened._file = RemoteFile("m.gguf", len(payload) + 9, "0" * 64, opened._file.url)
    opened.size = len(payload) + 9
    with pytest.raises(ModelFileError, match=f"lists {len(payload) + 9} bytes, but the file has {len(payload)}"):
        opened.read(0, 10)


def test_a_network_that_is_down_is_named(opened, hub):
    opened._file = RemoteFile("m.gguf", 10, "0" * 64, "http://127.0.0.1:1/m.gguf")
    with pytest.raises(StrideError, match=r"m\.gguf: .*3 times in a row"):
        opened.read(0, 10)

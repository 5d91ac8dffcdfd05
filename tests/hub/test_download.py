"""One file: resumed, verified, and never half under its final name."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from stride.errors import StrideError
from stride.hub.download import Place, RemoteFile, Source, download


@pytest.fixture
def fetch(hub, payload, tmp_path):
    """Downloads the payload from the stand-in; gives its place."""
    commit = hub.add("org/model", {"model.gguf": payload, "README.md": b"small\n"})
    place = Place(tmp_path / "model.gguf", tmp_path / "model.incomplete")

    def run(name: str = "model.gguf", timeout: float = 5.0, headers: dict[str, str] | None = None) -> Place:
        data = hub.repos["org/model"][commit][name]
        digest = hashlib.sha256(data).hexdigest()
        if name == "README.md":
            digest = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        file = RemoteFile(name, len(data), digest, f"{hub.url}/org/model/resolve/{commit}/{name}")
        source = Source(hub.url, headers or {}, timeout, retry_wait=0.01)
        try:
            download(file, place, source, lambda path, have: None)
        finally:
            source.close()
        return place

    run.place = place
    return run


def test_whole(fetch, payload):
    place = fetch()
    assert place.final.read_bytes() == payload
    assert not place.partial.exists()


def test_small_files_are_checked_against_gits_digest(fetch, hub):
    hub.corrupt = 2
    with pytest.raises(StrideError, match="damaged twice"):
        fetch("README.md")
    assert fetch("README.md").final.read_bytes() == b"small\n"


def test_cut_connections_resume_where_they_stopped(fetch, hub, payload):
    hub.cut_after = [1 << 20, 1 << 20]
    assert fetch().final.read_bytes() == payload
    assert hub.ranges("model.gguf") == [f"bytes={start}-{len(payload) - 1}" for start in (0, 1 << 20, 2 << 20)]


def test_what_an_earlier_process_left_is_kept(fetch, hub, payload):
    fetch.place.partial.write_bytes(payload[:1000])
    assert fetch().final.read_bytes() == payload
    assert hub.ranges("model.gguf") == [f"bytes=1000-{len(payload) - 1}"]


def test_too_long_a_partial_file_starts_again(fetch, payload):
    fetch.place.partial.write_bytes(payload + b"more")
    assert fetch().final.read_bytes() == payload


def test_ignored_range_starts_again(fetch, hub, payload):
    hub.ignore_range, hub.cut_after = True, [1 << 20]
    assert fetch().final.read_bytes() == payload


def test_corrupt_bytes_are_discarded_and_fetched_again(fetch, hub, payload):
    hub.corrupt = 1
    assert fetch().final.read_bytes() == payload
    assert len(hub.ranges("model.gguf")) == 2


def test_corrupt_partial_file_is_discarded(fetch, payload):
    fetch.place.partial.write_bytes(b"\0" * 1000)
    assert fetch().final.read_bytes() == payload


def test_twice_corrupt_is_an_error_and_leaves_nothing(fetch, hub):
    hub.corrupt = 2
    with pytest.raises(StrideError, match=r"model\.gguf came damaged twice"):
        fetch()
    assert not fetch.place.final.exists()
    assert not fetch.place.partial.exists()


def test_stall_times_out_and_resumes(fetch, hub, payload):
    hub.stall = 1
    assert fetch(timeout=0.3).final.read_bytes() == payload
    assert len(hub.ranges("model.gguf")) == 2


def test_server_errors_are_tried_again(fetch, hub, payload):
    hub.status = [503, 429]
    assert fetch().final.read_bytes() == payload


def test_endless_server_errors_end(fetch, hub):
    hub.status = [503] * 20
    with pytest.raises(StrideError, match="answers 503, 6 times in a row at byte 0"):
        fetch()


def test_no_access_says_what_to_do(fetch, hub):
    hub.status = [403]
    with pytest.raises(StrideError, match="answers 403: give the consent"):
        fetch()


def test_present_file_is_verified_not_downloaded(fetch, hub, payload):
    fetch.place.final.write_bytes(payload)
    fetch()
    assert hub.ranges("model.gguf") == []
    fetch.place.final.write_bytes(payload[:-1] + b"?")
    assert fetch().final.read_bytes() == payload
    assert len(hub.ranges("model.gguf")) == 1


def test_disk_full_is_an_error_and_a_retry_works(fetch, payload):
    if not Path("/dev/full").exists():
        pytest.fail("this test needs /dev/full, a device on which every write fails for lack of space")
    fetch.place.partial.symlink_to("/dev/full")
    with pytest.raises(StrideError, match="No space left on device"):
        fetch()
    assert not fetch.place.final.exists()
    fetch.place.partial.unlink()
    assert fetch().final.read_bytes() == payload


def test_token_is_sent_to_the_hub_and_not_forwarded(fetch, hub, start_hub, payload):
    other = start_hub()
    other.repos = hub.repos
    hub.redirect = other.url
    hub.token = "secret"
    assert fetch(headers={"Authorization": "Bearer secret"}).final.read_bytes() == payload
    assert all("authorization" not in headers for *_, headers in other.requests)
    assert len(other.requests) == 1


def test_redirect_to_a_private_address_is_refused(fetch, hub):
    hub.redirect = hub.url.replace("127.0.0.1", "localhost")
    with pytest.raises(StrideError, match="a private address"):
        fetch()
    hub.redirect = "http://169.254.169.254"
    with pytest.raises(StrideError, match=r"169\.254\.169\.254, a private address"):
        fetch()
    assert len(hub.ranges("model.gguf")) == 2


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("http://x:port", "Invalid URL in location header"),
        ("ftp://example.com", "not encrypted"),
        ("http://name.invalid", r"name\.invalid: .* 6 times in a row"),
    ],
)
def test_redirect_to_nowhere(fetch, hub, location, message):
    hub.redirect = location
    with pytest.raises(StrideError, match=message):
        fetch()


def test_redirect_loop_ends(fetch, hub):
    hub.redirect = hub.url
    with pytest.raises(StrideError, match="redirects more than"):
        fetch()

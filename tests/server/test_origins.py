"""Which hosts and pages are answered without a key."""

from __future__ import annotations

import pytest

from stride.errors import RequestError
from stride.server.origins import Welcome, is_loopback


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("192.168.1.5", False),
        ("127.evil.example", False),
        ("127.0.0.1.evil.example", False),
    ],
)
def test_loopback(host, expected):
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("localhost:8090", True),
        ("127.0.0.2:8090", True),
        ("192.168.1.5", True),
        ("[fe80::1]:8090", True),
        ("host.docker.internal:8090", True),
        ("desk.local", True),
        ("LLM.example", True),
        ("127.evil.example", False),
        ("evillocal", False),
        ("llm.example.evil.example", False),
        ("[", False),
        ("", False),
    ],
)
def test_hosts(header, expected):
    assert Welcome(["llm.example"]).host(header) is expected


@pytest.mark.parametrize(
    ("header", "host", "expected"),
    [
        ("http://localhost:3000", "", True),
        ("https://127.0.0.2", "", True),
        ("http://[::1]:1", "", True),
        ("app://obsidian.md", "", True),
        ("file://", "", True),
        ("https://chat.example", "", True),
        ("http://192.168.1.5:8090", "192.168.1.5:8090", True),
        ("http://192.168.1.5:8090", "192.168.1.5:8091", False),
        ("http://192.168.1.5:8090", "", False),
        ("http://chat.example", "localhost", False),
        ("https://chat.example.evil.example", "localhost", False),
        ("null", "localhost", False),
        ("null", "", False),
        ("http://[", "", False),
    ],
)
def test_origins(header, host, expected):
    assert Welcome([], ["https://chat.example"]).origin(header, host) is expected


@pytest.mark.parametrize("host", ["::1", "fe80::1", "0.0.0.0", "llm.example", "desk"])
def test_what_a_server_may_be_bound_to_is_a_host(host):
    assert Welcome([host]).host("localhost")


@pytest.mark.parametrize("host", ["", "https://llm.example", "llm.example:80", "a/b"])
def test_what_is_no_host(host):
    with pytest.raises(RequestError) as caught:
        Welcome([host])
    assert caught.value.field == "--allowed-host"


@pytest.mark.parametrize("origin", ["", "*", "chat.example", "https://chat.example/path", "null"])
def test_what_is_no_origin(origin):
    with pytest.raises(RequestError) as caught:
        Welcome([], [origin])
    assert caught.value.field == "--allowed-origin"

"""Connections that misbehave, against a real listener whose time-outs are short."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import uvicorn

from stride.server.connections import MAX_HEADER_BYTES, Connection, ConnectionLimits, raise_file_limit
from stride.server.process import listen

CHUNK = b"x" * (1 << 16)


def answering(gone: threading.Event) -> Any:
    """An application that answers "ok"; at /endless it goes on until ``gone``."""

    async def app(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while scope["path"] == "/endless" and not gone.is_set():
            await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"ok"})

    return app


@pytest.fixture
def start() -> Iterator[Callable[..., tuple[str, int]]]:
    """``start(**limits)``: serves, and gives the address."""
    ending: list[Callable[[], None]] = []

    def start(**limits: float) -> tuple[str, int]:
        gone = threading.Event()
        listener = listen("127.0.0.1", 0)
        config = uvicorn.Config(
            answering(gone),
            http=partial(Connection, limits=ConnectionLimits(**limits)),
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            log_config=None,
            ws="none",
            lifespan="off",
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        address = listener.getsockname()

        def end() -> None:
            gone.set()
            server.should_exit = True
            thread.join(20)
            listener.close()

        ending.append(end)
        return address

    yield start
    for end in ending:
        end()


def everything(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    try:
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))
    except ConnectionResetError:
        return b""


def test_headers_have_to_come_in_time(start):
    with socket.create_connection(start(header_seconds=0.2), timeout=20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        for _ in range(3):  # drops do not help
            time.sleep(0.05)
            connection.sendall(b"X-Slow: 1\r\n")
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert re.search(rb"\r\nx-request-id: [0-9a-f]{32}\r\n", answer)
    assert json.loads(answer.split(b"\r\n\r\n")[1])["error"]["type"] == "timeout_error"


def test_an_idle_connection_is_closed(start):
    address = start(idle_seconds=0.2)
    with socket.create_connection(address, timeout=20) as fresh, socket.create_connection(address, timeout=20) as used:
        used.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert everything(fresh) == b""
        assert everything(used).startswith(b"HTTP/1.1 200 ")


def test_large_headers_are_431(start):
    with socket.create_connection(start(), timeout=20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * (MAX_HEADER_BYTES + 1))
        assert everything(connection).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "request_", [b"\x16\x03\x01\r\n\r\n", b"GET / HTTP/1.1\r\nno header\r\n\r\n", b"nonsense\r\n\r\n"]
)
def test_what_is_no_http_is_400(start, request_):
    with socket.create_connection(start(), timeout=20) as connection:
        connection.sendall(request_)
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.split(b"\r\n\r\n")[1])["error"]["type"] == "invalid_request_error"


def test_a_client_that_never_reads_is_dropped(start):
    with socket.create_connection(start(write_seconds=0.2), timeout=20) as connection:
        connection.sendall(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
        deadline = time.monotonic() + 20
        dropped = False
        while not dropped and time.monotonic() < deadline:
            time.sleep(0.02)
            try:
                connection.sendall(b" ")
            except OSError:
                dropped = True
    assert dropped


def test_beyond_the_limit_the_longest_idle_is_closed(start):
    address = start(max_connections=2)
    first, second, third = (socket.create_connection(address, timeout=20) for _ in range(3))
    with first, second, third:
        assert everything(first) == b""
        for connection in (second, third):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200 ")


def test_as_many_files_as_allowed():
    assert raise_file_limit() > 0

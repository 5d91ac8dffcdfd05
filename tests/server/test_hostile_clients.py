"""Clients that misbehave, against a whole server, in a process, whose patience is short and whose files are few."""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from stride.server.connections import MAX_HEADER_BYTES, capacity, raise_file_limit

N_FILES = 600
N_CTX = 8192
MAX_QUEUE = 2
SERVER = f"""
import resource
from functools import partial
from stride import LLM
from stride.server import Models, Settings, process
resource.setrlimit(resource.RLIMIT_NOFILE, ({N_FILES}, {N_FILES}))
process.ConnectionLimits = partial(process.ConnectionLimits, header_seconds=0.5, write_seconds=0.5)
llm = partial(LLM, n_ctx={N_CTX}, n_parallel=1, max_queue={MAX_QUEUE}, cache_ram=0)
process.serve(Models({{"": lambda stopping: llm()}}), Settings(body_seconds=0.5), port=0)
"""
LONG = {"prompt": "Once", "n_predict": 8000, "ignore_eos": True, "stream": True}
"""Some seconds of work."""


@pytest.fixture(scope="module")
def server(served_program: Callable[[str], Any]) -> Any:
    return served_program(SERVER)


@pytest.fixture
def address(server: Any) -> Iterator[tuple[str, int]]:
    """Where it listens; at the end it is idle, healthy and answers as it should."""
    at = urlsplit(server.url)
    yield at.hostname, at.port
    wait_until(lambda: number(server, "requests_processing") == 0)
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
    assert httpx.post(f"{server.url}/completion", json={"prompt": "x", "regex": "abc"}).json()["content"] == "abc"


def wait_until(condition: Callable[[], object]) -> None:
    ends = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.005)


def number(server: Any, name: str) -> float:
    """One of the server's metrics; counters are there with "_total"."""
    text = httpx.get(f"{server.url}/metrics").text
    found = re.search(rf"^stride:{name}{{[^}}]*}} (\S+)$", text, re.MULTILINE)
    assert found, name
    return float(found[1])


def everything(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    try:
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))
    except ConnectionResetError:
        return b""


def posted(path: str, body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


@pytest.mark.parametrize(
    "begun",
    [
        b"GET /health HTTP/1.1\r\nX-Slow: ",
        b"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n",
    ],
    ids=["headers", "body"],
)
def test_what_comes_in_drops_runs_out_of_time(address, begun):
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(begun)
        for _ in range(4):
            time.sleep(0.05)
            connection.sendall(b"x")
        answer = b""
        while b"}}" not in answer:
            answer += connection.recv(1 << 16)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.split(b"\r\n\r\n")[1])["error"]["type"] == "timeout_error"


def test_headers_and_bodies_that_are_too_large(address):
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * (MAX_HEADER_BYTES + 1))
        assert everything(connection).startswith(b"HTTP/1.1 431 ")
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(b"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "lengths",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 5, 6\r\n",
        b"Content-Length: -5\r\n",
        b"Content-Length: 0x5\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Host: elsewhere\r\nContent-Length: 5\r\n",
    ],
)
def test_ambiguous_requests_are_refused_and_nothing_after_them_is_read(address, lengths):
    with socket.create_connection(address, timeout=20) as connection:
        smuggled = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        connection.sendall(b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\n" + lengths + b"\r\n0\r\n\r\n" + smuggled)
        answers = everything(connection)
    assert re.match(rb"HTTP/1.1 (400|501) ", answers), answers
    assert answers.count(b"HTTP/1.1") == 1


def test_a_client_that_never_reads_is_dropped_and_not_computed_for(server, address):
    before = number(server, "tokens_predicted_total")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        connection.connect(address)
        connection.sendall(posted("/completion", {**LONG, "n_probs": 256}))
        wait_until(lambda: number(server, "requests_processing") == 1)
        wait_until(lambda: number(server, "requests_processing") == 0)
        assert number(server, "tokens_predicted_total") - before < LONG["n_predict"] / 2
        assert b'"stop":true' not in everything(connection)


@pytest.mark.parametrize("when", ["queued", "in prefill", "in a stream", "in a whole answer"])
def test_who_goes_away_is_not_computed_for(server, address, when):
    generated, processed = number(server, "tokens_predicted_total"), number(server, "prompt_tokens_total")
    stream = when != "in a whole answer"
    n_prompt = 7500 if when == "in prefill" else 40
    with socket.create_connection(address, timeout=20) as first, socket.create_connection(address, timeout=20) as gone:
        if when == "queued":
            first.sendall(posted("/completion", LONG))
            wait_until(lambda: number(server, "requests_processing") == 1)
        prompt = [5 + i % 900 for i in range(n_prompt)]
        gone.sendall(posted("/completion", {**LONG, "prompt": prompt, "stream": stream}))
        if when == "queued":
            wait_until(lambda: number(server, "requests_deferred") == 1)
        elif when == "in prefill":
            wait_until(lambda: number(server, "prompt_tokens_total") > processed)
        else:
            wait_until(lambda: number(server, "tokens_predicted_total") > generated)
        gone.close()
        if when == "queued":
            wait_until(lambda: number(server, "requests_deferred") == 0)
            assert number(server, "requests_processing") == 1, "the other goes on"
    wait_until(lambda: number(server, "requests_processing") == 0)
    assert number(server, "tokens_predicted_total") - generated < LONG["n_predict"] / 2
    if when == "queued":
        assert number(server, "prompt_tokens_total") - processed < n_prompt, "of the one that waited nothing"
    if when == "in prefill":
        assert number(server, "prompt_tokens_total") - processed < n_prompt
        assert number(server, "tokens_predicted_total") == generated


def test_a_burst_is_served_as_far_as_there_is_room_and_told_to_come_again(server, address):
    def ask(_: int) -> httpx.Response:
        return httpx.post(f"{server.url}/completion", json={"prompt": "x", "n_predict": 2}, timeout=60)

    with ThreadPoolExecutor(12) as pool, socket.create_connection(address, timeout=20) as first:
        first.sendall(posted("/completion", LONG))
        wait_until(lambda: number(server, "requests_processing") == 1)
        waiting = [pool.submit(ask, i) for i in range(MAX_QUEUE)]
        wait_until(lambda: number(server, "requests_deferred") == MAX_QUEUE)
        for answer in pool.map(ask, range(10)):
            assert answer.status_code == 429
            assert answer.json()["error"]["type"] == "rate_limit_error"
            assert int(answer.headers["retry-after"]) > 0
        first.close()
        assert [future.result().status_code for future in waiting] == [200] * MAX_QUEUE


@pytest.mark.parametrize("said", [b"", b"G", b"GET /health HTTP/1.1\r\nX-Slow: "])
def test_more_connections_than_there_may_be(server, address, said):
    at_most, _ = capacity(N_FILES)
    raise_file_limit()
    connections: list[socket.socket] = []
    try:
        for i in range(4 * at_most):
            connections.append(socket.create_connection(address, timeout=20))
            connections[-1].sendall(said)
            if i % at_most == 0:
                assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
        wait_until(lambda: sum(map(is_open, connections)) <= at_most)
        answering = http.client.HTTPConnection(*address, timeout=20)
        answering.request("GET", "/health")
        assert answering.getresponse().status == 200
        answering.close()
    finally:
        for connection in connections:
            connection.close()


def is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False

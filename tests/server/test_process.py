"""The server's process: its listening socket, its signals, its end, and clients that go away."""

from __future__ import annotations

import json
import signal
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from urllib.parse import urlsplit

import httpx
import pytest

from stride.errors import StrideError
from stride.server.process import listen


def test_connections_send_small_events_at_once():
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_a_taken_port_is_named():
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(StrideError, match=f"port {port}"):
            listen("127.0.0.1", port)


# --- a process of one's own ---

CHAT = "/v1/chat/completions"


def asked(**more) -> dict:
    """A request for as many tokens as the context holds, or ``max_tokens``."""
    return {"messages": [{"role": "user", "content": "Hello!"}], "ignore_eos": True, **more}


def post(path: str, body: dict) -> bytes:
    data = json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


def wait_until_draining(url: str) -> None:
    """It takes no new connections."""
    address = urlsplit(url)
    ends = time.monotonic() + 20
    while time.monotonic() < ends:
        try:
            socket.create_connection((address.hostname, address.port)).close()
        except OSError:
            return
        time.sleep(0.01)
    raise AssertionError("it still listens")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_at_a_signal_requests_finish(serve, number):
    server = serve("-c", "2048").start()
    with (
        ThreadPoolExecutor(1) as pool,
        httpx.stream("POST", server.url + CHAT, json=asked(stream=True, max_tokens=400), timeout=60) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        whole = pool.submit(httpx.post, server.url + CHAT, json=asked(max_tokens=400), timeout=60)
        server.wait_until_running(2)
        server.process.send_signal(number)
        assert [line for line in lines if line][-1] == "data: [DONE]"
        assert whole.result().json()["usage"]["completion_tokens"] == 400
    assert server.process.wait(timeout=30) == 0
    assert "did not finish" not in server.log


def test_what_does_not_finish_in_time_fails(serve):
    server = serve("-c", "32768", "-np", "1", "--drain-timeout", "0.2").start()
    address = urlsplit(server.url)
    with (
        ThreadPoolExecutor(1) as pool,
        socket.create_connection((address.hostname, address.port)) as unfinished,
        httpx.stream("POST", server.url + CHAT, json=asked(stream=True), timeout=60) as response,
    ):
        unfinished.sendall(post(CHAT, asked())[:-1])
        lines = response.iter_lines()
        next(lines)
        queued = pool.submit(httpx.post, server.url + CHAT, json=asked(), timeout=60)
        server.wait_until_running(1, queued=1)
        server.process.send_signal(signal.SIGTERM)
        error = json.loads([line for line in lines if line][-1].removeprefix("data: "))["error"]
        assert (error["code"], error["type"]) == (503, "unavailable_error")
        assert error["message"].startswith("shutting down")
        assert queued.result().status_code == 503
        assert queued.result().json()["error"] == error
        assert server.process.wait(timeout=30) == 0, "the client that never finishes its request does not keep it"
    server.wait_for("did not finish within 0.2 s, and fail: 3")
    assert "Traceback" not in server.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(serve, number):
    server = serve("-c", "32768").start()
    with httpx.stream("POST", server.url + CHAT, json=asked(stream=True), timeout=60) as response:
        lines = response.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        wait_until_draining(server.url)
        next(lines)
        server.process.send_signal(number)
        assert server.process.wait(timeout=30) == -number
        with pytest.raises(httpx.RemoteProtocolError):
            list(lines)


def test_sighup_reads_the_keys_again(serve, tmp_path):
    file = tmp_path / "keys"
    file.write_text("old\n")
    server = serve("-c", "512", "--api-key-file", str(file)).start()

    def statuses() -> list[int]:
        return [
            httpx.get(f"{server.url}/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code
            for key in ("old", "new")
        ]

    assert statuses() == [200, 401]
    file.write_text("# the old one was lost\nnew\n")
    assert statuses() == [200, 401]
    server.process.send_signal(signal.SIGHUP)
    server.wait_for("keys were read again")
    assert statuses() == [401, 200]
    for i, (content, problem) in enumerate(((b"# none", "has no key"), (b"\xff", "cannot be read"), (None, "No such"))):
        file.write_bytes(content) if content else file.unlink()
        server.process.send_signal(signal.SIGHUP)
        server.wait_for(f"(?s)(the keys stay as they were.*){{{i + 1}}}")
        assert problem in server.log.splitlines()[-1]
        assert statuses() == [401, 200]


def vanish(url: str, request: bytes, n_reads: int, how: str) -> None:
    """Send what there is, take some of the answer, and go."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(request)
        for _ in range(n_reads):
            connection.recv(1 << 12)
        if how == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif how == "half":
            connection.shutdown(socket.SHUT_WR)


def test_clients_that_vanish_leave_no_trace(serve):
    server = serve("-c", "2048", "-v", "--max-queue", "1000", "--sse-ping-interval", "0.01").start()
    chat, prompt = {"messages": asked()["messages"]}, {"prompt": "Once"}
    bodies = {
        CHAT: {**chat, "n": 2},
        "/v1/completions": prompt,
        "/completion": prompt,
        "/v1/responses": {"input": "Hello!"},
        "/v1/messages": chat,
        "/api/chat": chat,
        "/api/generate": prompt,
    }
    requests = [
        post(path, {"model": "any", "max_tokens": 1000, "ignore_eos": True, "stream": stream, **body})
        for (path, body), stream in product(bodies.items(), (True, False))
    ]
    visits = [
        (server.url, request, n_reads, how)
        for request, how in product(requests, ("reset", "half", "close"))
        for n_reads in ((0, 1, 3) if b'"stream": true' in request else (0,))
    ]
    visits += [(server.url, request[:-9], 0, how) for request, how in product(requests, ("reset", "half", "close"))]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(vanish, *zip(*visits, strict=True)))
    server.wait_until_running(0)
    assert httpx.post(server.url + CHAT, json=asked(max_tokens=3), timeout=60).status_code == 200
    assert server.stop() == 0
    for trace in ("Traceback", "never retrieved", "was destroyed", "ERROR", "status=500"):
        assert trace not in server.log
    assert server.log.count("status=499") >= 3 * len(requests), "those who did not finish their request, at least"

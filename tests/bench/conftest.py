"""A small real HTTP server that speaks OpenAI's streaming as its script says: bytes, pauses, errors."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from stride.bench.client import Answer, Reply, Times
from stride.bench.plan import LEVELS
from stride.bench.results import Run
from stride.bench.store import Manifest, Store
from stride.bench.targets import ServedModel

Step = bytes | float
"""Bytes to send at once, or seconds to wait."""


class Wire:
    """What OpenAI-style servers send."""

    @staticmethod
    def event(payload: Any) -> bytes:
        data = payload if isinstance(payload, str) else json.dumps(payload)
        return f"data: {data}\n\n".encode()

    @classmethod
    def delta(cls, finish: str | None = None, **fields: Any) -> bytes:
        return cls.event({"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]})

    @classmethod
    def usage(cls, prompt: int, completion: int, cached: int = 0, **more: Any) -> bytes:
        details = {"cached_tokens": cached}
        counts = {"prompt_tokens": prompt, "completion_tokens": completion, "prompt_tokens_details": details}
        return cls.event({"choices": [], "usage": counts, **more})

    DONE = b"data: [DONE]\n\n"


@dataclass
class Stand:
    """The server: set ``answer`` to say what a request gets; read ``requests`` afterwards."""

    url: str = ""
    answer: Callable[[dict[str, Any]], int | Sequence[Step]] = lambda body: [Wire.DONE]
    requests: list[dict[str, Any]] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    props: dict[str, Any] = field(default_factory=dict)


@pytest.fixture
def wire() -> type[Wire]:
    return Wire


@pytest.fixture
def stand() -> Iterator[Stand]:
    made = Stand()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def send_json(self, status: int, payload: Any) -> None:
            body = json.dumps(payload).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            known = {
                "/health": {"status": "ok"},
                "/props": made.props,
                "/v1/models": {"data": [{"id": "tiny", "meta": {"size": 12345678, "n_params": 7_000_000}}]},
            }
            found = known.get(self.path)
            self.send_json(200 if found is not None else 404, found or {})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            made.requests.append(body)
            made.authorizations.append(self.headers.get("Authorization"))
            steps = made.answer(body)
            if isinstance(steps, int):
                self.send_json(steps, {"error": {"code": steps, "message": "as the test wants", "type": "test"}})
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for step in steps:
                if isinstance(step, float):
                    time.sleep(step)
                else:
                    self.wfile.write(f"{len(step):x}\r\n".encode() + step + b"\r\n")
                    self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def measured() -> Callable[[Path, float], Store]:
    """``measured(folder, seconds)``: a measurement of a model whose generation of 201 tokens takes so long."""

    def make(folder: Path, seconds: float) -> Store:
        machine = {"cpu": "Test CPU", "date": "2026-02-19T12:00:00+00:00", "stride": "1"}
        store = Store.create(folder, Manifest(["stride"], machine, [ServedModel("tiny.gguf")], LEVELS["quick"]))
        for repeat in range(1, 6):
            arrivals = tuple(0.2 + seconds * piece / 200 for piece in range(201))
            usage = {"prompt_tokens": 30, "completion_tokens": 201}
            reply = Reply(Answer("x"), Times(0.1, 0.2, 0.2, 0.2 + seconds, 0.3 + seconds), usage, None, arrivals)
            store.results.targets[0].runs.append(Run("tiny", "speed", repeat, 1, "n", "now", reply, None, None))
        return store

    return make

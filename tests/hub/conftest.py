"""A stand-in hub on loopback: the endpoints that a pull calls, real HTTP, and faults on demand."""

from __future__ import annotations

import hashlib
import json
import random
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

LFS_FROM = 1000


def blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Hub:
    """Repositories by name: revision to commit, commit to files. The knobs break what it sends."""

    repos: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    refs: dict[tuple[str, str], str] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    cut_after: list[int] = field(default_factory=list)
    """The next downloads end after so many bytes, one entry each."""
    corrupt: int = 0
    """So many of the next downloads carry a wrong byte."""
    ignore_range: bool = False
    stall: int = 0
    """So many of the next downloads send half and then nothing."""
    pause: float = 0.0
    """Seconds between the pieces of a download."""
    redirect: str = ""
    """Downloads are redirected to this host (scheme and port included)."""
    claimed_size: int | None = None
    """What the listing says of every file's size."""
    token: str = ""
    """The token without which everything is 401."""
    status: list[int] = field(default_factory=list)
    """The next downloads are answered with these statuses."""
    url: str = ""
    released: threading.Event = field(default_factory=threading.Event)

    def add(self, repo: str, files: dict[str, bytes], revision: str = "main") -> str:
        """A commit of a repository, which ``revision`` points to from now on."""
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.repos.setdefault(repo, {})[commit] = files
        self.refs[repo, revision] = commit
        return commit

    def ranges(self, name: str) -> list[str | None]:
        """The Range headers with which a file was asked for."""
        return [h.get("range") for method, path, h in self.requests if method == "GET" and path.endswith(name)]

    def tree(self, files: dict[str, bytes]) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = []
        for path, data in files.items():
            size = self.claimed_size or len(data)
            row: dict[str, object] = {"type": "file", "path": path, "size": size, "oid": blob_id(data)}
            if len(data) >= LFS_FROM:
                row["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": size, "pointerSize": 130}
            rows.append(row)
        return rows


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.requests.append(("GET", path, {k.lower(): v for k, v in self.headers.items()}))
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.reply(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/]+)", path):
            return self.api(*match.groups())
        if match := re.fullmatch(r"(/[^/]+/[^/]+)/resolve/([0-9a-f]{40})/(.+)", path):
            if hub.redirect:
                return self.reply(302, b"", {"Location": hub.redirect + path})
            return self.file(hub.repos[match[1][1:]][match[2]][match[3]])
        return self.reply(404, b"{}")

    def api(self, repo: str, what: str, revision: str) -> None:
        commit = self.hub.refs.get((repo, revision), revision)
        if repo not in self.hub.repos:
            return self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if commit not in self.hub.repos[repo]:
            return self.reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        rows = self.hub.tree(self.hub.repos[repo][commit])
        answer = rows if what == "tree" else {"id": repo, "sha": commit, "siblings": []}
        return self.reply(200, json.dumps(answer).encode())

    def file(self, data: bytes) -> None:
        hub, start, stop = self.hub, 0, len(data)
        if hub.status:
            self.reply(hub.status.pop(0), b"")
            return
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        partial = wanted is not None and not hub.ignore_range
        if partial:
            assert wanted is not None
            start, stop = int(wanted[1]), min(int(wanted[2]) + 1, len(data))
        body = data[start:stop]
        if hub.corrupt:
            hub.corrupt -= 1
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.send_response(206 if partial else 200)
        self.send_header("Content-Length", str(len(body)))
        if partial:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        self.end_headers()
        self.close_connection = True
        if hub.cut_after:
            body = body[: hub.cut_after.pop(0)]
        if hub.stall:
            hub.stall -= 1
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            hub.released.wait(10)
            return
        for i in range(0, len(body), 1 << 16):
            self.wfile.write(body[i : i + (1 << 16)])
            self.wfile.flush()
            time.sleep(hub.pause)

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in mid-download is what these tests are about."""


@pytest.fixture
def start_hub() -> Iterator[object]:
    """Starts any number of hubs."""
    servers: list[tuple[Server, Hub]] = []

    def start() -> Hub:
        hub = Hub()
        server = Server(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
        hub.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append((server, hub))
        return hub

    yield start
    for server, hub in servers:
        hub.released.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def hub(start_hub) -> Hub:
    return start_hub()


@pytest.fixture
def payload() -> bytes:
    """A file of 3 MiB and a bit."""
    return random.Random(7).randbytes((3 << 20) + 17)

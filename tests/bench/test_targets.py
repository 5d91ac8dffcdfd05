"""Servers: started, waited for, stopped, mourned; and addresses as people write them."""

from __future__ import annotations

import sys
import textwrap
import time

import psutil
import pytest

from stride.bench.servers import TargetError, serve
from stride.bench.targets import Launched, ServedModel, Url
from stride.errors import RequestError

SERVER = textwrap.dedent(
    """
    import sys
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        asked = 0
        def log_message(self, *args): pass
        def do_GET(self):
            Handler.asked += 1
            self.send_response(503 if Handler.asked < 3 else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print("loading weights", file=sys.stderr, flush=True)
    print(f"listening on http://127.0.0.1:{server.server_address[1]}", file=sys.stderr, flush=True)
    server.serve_forever()
    """
)


def test_a_server_is_ready_when_health_says_so_and_gone_afterwards():
    with serve([sys.executable, "-c", SERVER], "test") as endpoint:
        process = endpoint.process
        assert process is not None
        assert process.is_running()
        assert endpoint.http.get(f"{endpoint.url}/health").status_code == 200
        assert endpoint.obituary() is None
        assert endpoint.ready_seconds is not None
        assert 0 < endpoint.ready_seconds < 30
    assert not psutil.pid_exists(process.pid)


def test_a_server_that_cannot_start_leaves_its_last_words():
    program = "import sys; print('no such model: x.gguf', file=sys.stderr); sys.exit(3)"
    with (
        pytest.raises(TargetError, match=r"status 3: no such model: x\.gguf"),
        serve([sys.executable, "-c", program], "x"),
    ):
        pass


def test_a_server_that_dies_is_mourned():
    with serve([sys.executable, "-c", SERVER], "test") as endpoint:
        assert endpoint.process is not None
        endpoint.process.kill()
        deadline = time.monotonic() + 10
        while endpoint.obituary() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "status -9" in (endpoint.obituary() or "")


@pytest.mark.parametrize(
    "written", ["http://127.0.0.1:80", "http://127.0.0.1:80/", "http://127.0.0.1:80/v1", "127.0.0.1:80/v1/"]
)
def test_addresses_with_and_without_v1(written):
    assert Url(written).root == "http://127.0.0.1:80"


def test_the_model_and_the_key_reach_the_server(stand):
    with Url(stand.url, api_key="secret").connect(lambda text: None) as endpoint:
        assert endpoint.model == "tiny"
        assert endpoint.size_bytes == 12345678
        assert endpoint.http.headers["Authorization"] == "Bearer secret"
    with Url(stand.url, "other").connect(lambda text: None) as endpoint:
        assert endpoint.model == "other"


@pytest.mark.parametrize(
    ("model", "label"),
    [
        (None, "Stride demo model"),
        ("/m/Step-3.5-Flash-IQ4_XS-00001-of-00004.gguf", "Step-3.5-Flash-IQ4_XS"),
        ("/m/IQ4_XS", "IQ4_XS"),
        ("ubergarm/Step-3.5-Flash-GGUF", "Step-3.5-Flash-GGUF"),
    ],
)
def test_labels(model, label):
    assert ServedModel(model).label == label


def test_another_server_is_launched_on_a_free_port_and_stopped(tmp_path):
    program = tmp_path / "server.py"
    program.write_text(SERVER.replace('("127.0.0.1", 0)', '("127.0.0.1", int(sys.argv[1]))'))
    with Launched(f"{sys.executable} {program} {{port}}").connect(lambda text: None) as endpoint:
        assert endpoint.process is not None
        pid = endpoint.process.pid
        assert endpoint.command[-1] == endpoint.url.rpartition(":")[2]
        assert endpoint.label == "python3" or endpoint.label.startswith("python")
    assert not psutil.pid_exists(pid)


def test_what_a_shell_started_ends_with_it(tmp_path):
    program = tmp_path / "server.py"
    program.write_text(SERVER.replace('("127.0.0.1", 0)', '("127.0.0.1", int(sys.argv[1]))'))
    with Launched(f"sh -c '{sys.executable} {program} {{port}} & wait'").connect(lambda text: None) as endpoint:
        assert endpoint.process is not None
        [server] = endpoint.process.children()
        assert server.is_running()
    server.wait(5)
    assert not server.is_running()


def test_what_cannot_be_launched_is_named():
    for line in ("server --port 80", "", "'unfinished {port}"):
        with pytest.raises(RequestError) as caught:
            Launched(line)
        assert caught.value.field == "launch"
    with (
        pytest.raises(TargetError, match="no-such-program cannot be started"),
        Launched("no-such-program {port}").connect(lambda text: None),
    ):
        pass

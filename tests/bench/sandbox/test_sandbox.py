"""Running commands and talking to servers, when all goes well, and when the sandbox itself does not."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import fastapi
import httpx
import psutil
import pytest

from stride.bench.sandbox import Limits, NotServingError, Sandbox, SandboxError, processes, running
from stride.bench.sandbox.none import none

SERVER = """
import os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind("app.sock")
server.listen()
signal.signal(signal.SIGTERM, lambda *_: (print("goodbye", flush=True), os._exit(0)))
print("listening", flush=True)
while True:
    connection, _ = server.accept()
    with connection:
        if connection.recv(65536):
            connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\nConnection: close\\r\\n\\r\\nhello")
"""
APP = """
import sqlite3
from fastapi import FastAPI

app = FastAPI()

def database():
    connection = sqlite3.connect("todos.db")
    connection.execute("CREATE TABLE IF NOT EXISTS todos (title TEXT)")
    return connection

@app.post("/todos", status_code=201)
def create(title: str) -> str:
    with database() as connection:
        connection.execute("INSERT INTO todos VALUES (?)", (title,))
    return title

@app.get("/todos")
def all_of_them() -> list[str]:
    return [title for title, in database().execute("SELECT title FROM todos")]
"""


def test_status_output_seconds(run):
    ended = run("import sys, time; print('out'); print('err', file=sys.stderr); time.sleep(0.1); sys.exit(3)")
    assert (ended.status, ended.limit, ended.reason) == (3, None, "")
    assert sorted(ended.output.split()) == ["err", "out"]
    assert ended.seconds >= 0.1


def test_output_that_is_no_text(run):
    assert run("import os; os.write(1, b'\\xff!')").output == "\ufffd!"


def test_a_signal_is_a_status_as_in_a_shell(run):
    assert run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)").status == 128 + signal.SIGKILL


def test_a_command_that_does_not_exist(sandbox, folder):
    ended = sandbox.run(["/nowhere/python"], folder)
    assert (ended.status, ended.output) == (127, "/nowhere/python: No such file or directory\n")


def test_environment(sandbox, folder, command):
    ended = sandbox.run(
        command("import os; print(os.getcwd(), os.environ['HOME'], os.environ['EXTRA'])"),
        folder,
        environment={"EXTRA": "more"},
    )
    assert ended.output.split() == [os.fspath(folder), os.fspath(folder), "more"]


def test_files_stay(run, folder):
    (folder / "given").write_text("given")
    assert run("open('made', 'w').write(open('given').read())").status == 0
    assert run("open('made', 'a').write(' again')").status == 0
    assert (folder / "made").read_text() == "given again"


def test_a_removed_file_counts_once(run):
    ended = run(
        """
        import os, time
        held = open("file", "wb", buffering=0)
        os.remove("file")
        held.write(bytes(5 << 20))
        for _ in range(3): os.fork()
        time.sleep(0.3)
        """,
        disk_bytes=16 << 20,
    )
    assert (ended.status, ended.limit) == (0, None)


def test_a_server(sandbox, folder, command):
    with sandbox.start(command(SERVER), folder) as server:
        with httpx.Client(transport=httpx.HTTPTransport(uds=server.address("app.sock"))) as client:
            assert [client.get("http://app/").text for _ in range(3)] == ["hello"] * 3
        assert server.ended is None
    assert server.ended is not None
    assert (server.ended.status, server.ended.limit) == (0, None)
    assert server.output == "listening\ngoodbye\n"


def test_fastapi_and_sqlite_over_a_restart(sandbox, folder, command):
    (folder / "app.py").write_text(APP)
    packages = Path(fastapi.__file__).parent.parent
    start = "import uvicorn; uvicorn.run('app:app', uds='app.sock')"
    environment = {"PYTHONPATH": f"{folder}:{packages}"}
    arguments = [argument for argument in command(start) if argument not in ("-I", "-S")]
    for titles in (["milk"], ["milk", "bread"]):
        with sandbox.start(arguments, folder, readable=[packages], environment=environment) as server:
            transport = httpx.HTTPTransport(uds=server.address("app.sock"))
            with httpx.Client(transport=transport, base_url="http://app") as client:
                assert client.post("/todos", params={"title": titles[-1]}).status_code == 201
                assert client.get("/todos").json() == titles
        assert "Application shutdown complete" in server.output
        assert (folder / "todos.db").exists()


def test_a_server_that_does_not_end_is_ended(sandbox, folder, command, monkeypatch):
    monkeypatch.setattr(running, "GRACE", 0.1)
    stubborn = SERVER.replace('(print("goodbye", flush=True), os._exit(0))', "None")
    with sandbox.start(command(stubborn), folder) as server:
        server.address("app.sock")
    assert server.ended is not None
    assert (server.ended.status, server.ended.limit) == (None, None)


def test_an_error_outside_ends_it(sandbox, folder, command):
    with pytest.raises(SandboxError, match="one part"), sandbox.start(command(SERVER), folder) as server:
        server.address("no/name")
    assert server.ended is not None


def test_a_socket_that_never_comes(sandbox, folder, command):
    none_comes = pytest.raises(NotServingError, match=r"nothing listens on app\.sock after 0\.2 s")
    with sandbox.start(command("import time; time.sleep(60)"), folder) as server, none_comes:
        server.address("app.sock", seconds=0.2)


def test_a_limit_ends_a_server(sandbox, folder, command):
    with sandbox.start(command(SERVER), folder, Limits(seconds=0.5)) as server:
        assert server.wait().limit == "time"


def test_who_starts_it_dies(sandbox, folder, command, tmp_path):
    """A grader that is killed leaves nothing running."""
    grader = f"""
        import sys
        from pathlib import Path
        from stride.bench.sandbox import available
        sandbox = next(each for each in available.SANDBOXES if each.name == {sandbox.name!r})
        with sandbox.start(sys.argv[1:], Path({os.fspath(folder)!r})) as server:
            print(server.address("app.sock"), flush=True)
            server.wait()
    """
    detached = (
        "import os, time\nif not os.fork():\n    if not os.fork(): time.sleep(3600)\n    os._exit(0)\nos.wait()\n"
    )
    arguments = [sys.executable, "-c", textwrap.dedent(grader), *command(detached + SERVER)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env={**os.environ}) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        everybody = psutil.process_iter(["cmdline"])
        inside = [
            each for each in everybody if arguments[-1] in (each.info["cmdline"] or ()) and each.pid != process.pid
        ]
        process.kill()
    assert len(inside) >= 3  # the command, what it has detached, and the first of the sandbox
    _, alive = psutil.wait_procs(inside, timeout=5)
    assert not alive


@pytest.mark.parametrize("says", ["", "no permission"])
def test_a_sandbox_that_does_not_start_runs_nothing(folder, says):
    broken = Sandbox("broken", (), lambda task, control: ["/bin/sh", "-c", f"echo {says}"], processes.SESSION)
    with pytest.raises(SandboxError, match=f"does not start: {says or 'it says nothing'}"):
        broken.run(["/bin/true"], folder)


def test_what_cannot_be_put_in_place_keeps_the_command_from_running(sandbox, folder, command):
    """Fails closed: here, a folder that nobody may be allowed to read because it is not there."""

    def command_line(task, control):
        line = sandbox.command_line(task, control)
        return [argument.replace('"control_fd"', '"other"') for argument in line]

    with pytest.raises(SandboxError, match="does not start"):
        dataclasses.replace(sandbox, command_line=command_line).run(command("open('ran', 'w')"), folder)
    assert not (folder / "ran").exists()


def test_nothing_to_run(sandbox, folder):
    with pytest.raises(SandboxError, match="no command"):
        sandbox.run([], folder)
    with pytest.raises(FileNotFoundError):
        sandbox.run(["/bin/true"], folder / "missing")


def test_without_a_sandbox_limits_hold(folder, command):
    assert none.run(command("import time; time.sleep(60)"), folder, Limits(seconds=0.2)).limit == "time"
    assert none.run(command("print('x' * 100_000)"), folder, Limits(output_bytes=1000)).limit == "output"
    assert none.run(command("print('well')"), folder).output == "well\n"

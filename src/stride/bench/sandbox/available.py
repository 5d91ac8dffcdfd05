"""The best sandbox that works here, found by trying: what is installed may still be forbidden."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from stride.bench.sandbox import launch
from stride.bench.sandbox.bubblewrap import bubblewrap
from stride.bench.sandbox.folder import workspace
from stride.bench.sandbox.landlock import landlock
from stride.bench.sandbox.limits import Limits, SandboxError
from stride.bench.sandbox.macos import seatbelt
from stride.bench.sandbox.none import none
from stride.bench.sandbox.sandbox import Sandbox

SANDBOXES: Sequence[Sandbox] = (bubblewrap, landlock) if sys.platform == "linux" else (seatbelt,)
"""Best first."""

PROBE = """
import json, socket, sys
secret, outside, port = sys.argv[1:]
done = []
def attempt(what, action):
    try: action()
    except OSError: pass
    else: done.append(what)
attempt("works", lambda: open("file", "w").close())
attempt("reads other files", lambda: open(secret).close())
attempt("writes other files", lambda: open(outside, "w").close())
attempt("reaches the network", lambda: socket.create_connection(("127.0.0.1", int(port)), 1))
print(json.dumps(done))
"""


def find(unsafe: bool = False, sandboxes: Sequence[Sandbox] = SANDBOXES) -> Sandbox:
    """The first of ``sandboxes`` that does what it has to on this machine.

    :raises SandboxError: none does, and why each does not; with ``unsafe`` `none` is returned instead.
    """
    reasons = []
    for sandbox in sandboxes:
        if not (fault := probe(sandbox)):
            return sandbox
        reasons.append(f"{sandbox.name}: {fault}")
    if unsafe:
        return none
    raise SandboxError(
        "code that a model wrote is run in a sandbox only, and none works here; "
        "--unsafe runs it without. " + "; ".join(reasons)
    )


def probe(sandbox: Sandbox) -> str | None:
    """Why ``sandbox`` cannot be used here, from having tried it; None if it can."""
    with (
        workspace() as folder,
        tempfile.TemporaryDirectory() as other,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        secret, outside = Path(other, "secret"), Path(other, "outside")
        secret.write_text("secret")
        command = [os.fspath(launch.PYTHON), "-I", "-S", "-c", PROBE, *map(os.fspath, (secret, outside))]
        try:
            ended = sandbox.run([*command, str(server.getsockname()[1])], folder, Limits(seconds=10))
        except (SandboxError, OSError) as error:
            return str(error).removeprefix("the sandbox does not start: ").strip().rpartition("\n")[2]
    try:
        done = json.loads(ended.output)
    except ValueError:
        done = []
    if done == ["works"]:
        return None
    return ", ".join(done[1:]) or f"runs nothing: {ended.output.strip()[-200:] or ended.reason or ended.status}"

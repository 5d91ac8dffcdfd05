"""Runs code that nobody has looked at, and tells what was seen from outside: the code's own word proves nothing.

with workspace(files) as folder, find().start(command, folder, readable=[packages]) as running:
    transport = httpx.HTTPTransport(uds=running.address("app.sock"))
    …
running.wait()  # how it ended, and which limit it broke
"""

from stride.bench.sandbox.available import find
from stride.bench.sandbox.folder import read, workspace
from stride.bench.sandbox.limits import Ended, FilesError, Limit, Limits, NotServingError, SandboxError
from stride.bench.sandbox.running import Running
from stride.bench.sandbox.sandbox import Sandbox

__all__ = [
    "Ended",
    "FilesError",
    "Limit",
    "Limits",
    "NotServingError",
    "Running",
    "Sandbox",
    "SandboxError",
    "find",
    "read",
    "workspace",
]

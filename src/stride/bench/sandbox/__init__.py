"""Runs code that nobody has looked at, and tells what was seen from outside: the code's own word proves nothing."""

from stride.bench.sandbox.available import find
from stride.bench.sandbox.folder import read, workspace
from stride.bench.sandbox.limits import Ended, Limit, Limits, NotServingError, SandboxError
from stride.bench.sandbox.running import Running
from stride.bench.sandbox.sandbox import Sandbox

__all__ = [
    "Ended",
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

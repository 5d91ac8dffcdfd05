"""Servers that answer: found, or started for as long as they are measured."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from stride.bench import machine
from stride.bench.client import Reply
from stride.bench.engines import OTHER, Engine, recognise
from stride.errors import ModelFileError, StrideError
from stride.gguf import open_gguf

READY_TIMEOUT = 3600.0
"""Seconds to load a model: a hundred gigabytes from a slow disk take their time."""
STOP_TIMEOUT = 15.0
READ_TIMEOUT = 600.0


class TargetError(StrideError):
    """A target that cannot be measured at all; the report says why."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """Facts from a GGUF's head. ``description`` is what its maker says of it."""

    paths: tuple[str, ...]
    n_bytes: int
    name: str
    description: str
    fingerprint: str


@dataclass(slots=True)
class Endpoint:
    """A server that answers. ``process`` is None where it cannot be seen from here."""

    label: str
    url: str
    http: httpx.Client
    model: str | None
    process: psutil.Process | None = None
    command: Sequence[str] = ()
    ready_seconds: float | None = None
    props: Mapping[str, Any] = field(default_factory=dict)
    listed: Mapping[str, Any] = field(default_factory=dict)
    file: ModelFile | None = None
    engine: Engine = OTHER
    obituary: Callable[[], str | None] = lambda: None
    """Why the server is gone, if it is ours and gone."""

    def ask(self, body: Mapping[str, Any]) -> Reply:
        """One chat completion."""
        return self.engine.ask(self.http, self.url, body)

    @property
    def size_bytes(self) -> int | None:
        """Of the model: its files, or what the server says."""
        if self.file is not None:
            return self.file.n_bytes
        size = (self.listed.get("meta") or {}).get("size")
        return int(size) if size else None


@contextmanager
def serve(command: Sequence[str], label: str, url: str | None = None) -> Iterator[Endpoint]:
    """Run a server; yield when it answers, at ``url`` or where it says ``listening on URL``; stop it at the end.

    Raises:
        TargetError: it ended, or was not ready in time; with its last words.
    """
    started = time.perf_counter()
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is for the benchmark, which then stops the server itself
        )
    except OSError as error:
        raise TargetError(f"{command[0]} cannot be started: {error}") from error
    lines: deque[str] = deque(maxlen=40)
    found: deque[str] = deque([url] if url else [], maxlen=1)

    def read() -> None:
        for line in process.stdout or ():
            lines.append(line.rstrip())
            match = re.search(r"listening on (http://\S+)", line)
            if match and not url:
                found.append(match[1])

    def obituary() -> str | None:
        if process.poll() is None:
            return None
        reader.join(timeout=1.0)
        last_words = " / ".join(line for line in list(lines)[-3:] if line)
        return f"the server ended with status {process.returncode}: {last_words or '(it said nothing)'}"

    reader = threading.Thread(target=read, name="server's output", daemon=True)
    reader.start()
    try:
        with open_client({}, local=True) as http:
            while not (found and _healthy(http, found[0])):
                if process.poll() is not None:
                    raise TargetError(obituary() or "the server ended")
                if time.perf_counter() - started > READY_TIMEOUT:
                    raise TargetError(f"the server was not ready after {READY_TIMEOUT:.0f} s")
                time.sleep(0.02)
            endpoint = Endpoint(
                label=label,
                url=found[0].rstrip("/"),
                http=http,
                model=None,
                process=psutil.Process(process.pid),
                command=command,
                ready_seconds=time.perf_counter() - started,
                obituary=obituary,
            )
            describe(endpoint, local=True)
            yield endpoint
    finally:
        _stop(process)
        reader.join(timeout=1.0)
        if process.stdout:
            process.stdout.close()


def describe(endpoint: Endpoint, local: bool) -> None:
    """Fill in what the server tells of itself."""
    endpoint.engine, facts = recognise(endpoint.http, endpoint.url)
    endpoint.props = facts.props
    models = facts.models.get("data")
    listed = [entry for entry in models if isinstance(entry, dict)] if isinstance(models, list) else []
    wanted = [entry for entry in listed if endpoint.model in (None, entry.get("id"))]
    if wanted:
        endpoint.listed = wanted[0]
        endpoint.model = endpoint.model or wanted[0].get("id")
    path = endpoint.props.get("model_path")
    if local and isinstance(path, str) and path:
        endpoint.file = model_file(Path(path))


def open_client(headers: Mapping[str, str], local: bool) -> httpx.Client:
    """No proxy stands between us and a server on this machine."""
    return httpx.Client(headers=headers, timeout=httpx.Timeout(READ_TIMEOUT, connect=10.0), trust_env=not local)


def _healthy(http: httpx.Client, url: str) -> bool:
    """Whether a server answers: /health where there is one, which says 503 while loading; the list of models else."""
    try:
        health = http.get(f"{url.rstrip('/')}/health").status_code
        if health != httpx.codes.NOT_FOUND:
            return health == httpx.codes.OK
        return http.get(f"{url.rstrip('/')}/v1/models").status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def model_file(path: Path) -> ModelFile | None:
    """None where the path is no GGUF that can be read from here (another machine's, for instance)."""
    try:
        with open_gguf(path) as file:
            return ModelFile(
                paths=tuple(str(part) for part in file.paths),
                n_bytes=file.n_bytes,
                name=file.metadata.string("general.name", default=""),
                description=file.metadata.string("general.description", default=""),
                fingerprint=machine.fingerprint(list(file.paths)),
            )
    except (ModelFileError, OSError):
        return None


def _stop(process: subprocess.Popen[str]) -> None:
    """SIGTERM to the server, then SIGKILL to what is left of its group: a shell ends before what it started."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

"""What is measured: a model file behind a server of our own, or a server that runs already."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeAlias

import httpx
import psutil
import pydantic

from stride.api import model_path
from stride.bench import machine
from stride.bench.memory import listener
from stride.errors import ModelFileError, StrideError
from stride.gguf import open_gguf

READY_TIMEOUT = 3600.0
"""Seconds to load a model: a hundred gigabytes from a slow disk take their time."""
STOP_TIMEOUT = 15.0
READ_TIMEOUT = 600.0
DEMO_LABEL = "Stride demo model"
LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")

Status = Callable[[str], None]


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
    obituary: Callable[[], str | None] = lambda: None
    """Why the server is gone, if it is ours and gone."""

    @property
    def chat_url(self) -> str:
        return f"{self.url}/v1/chat/completions"

    @property
    def size_bytes(self) -> int | None:
        """Of the model: its files, or what the server says."""
        if self.file is not None:
            return self.file.n_bytes
        size = (self.listed.get("meta") or {}).get("size")
        return int(size) if size else None


class Target(Protocol):
    """Something to measure. `connect` raises `TargetError` when there is nothing to measure."""

    @property
    def label(self) -> str: ...

    @property
    def n_bytes(self) -> int:
        """Memory that connecting will take here; 0 for a server that runs already."""

    def connect(self, status: Status) -> AbstractContextManager[Endpoint]: ...


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that ``stride serve`` serves for as long as it is measured; None is the demo model."""

    model: str | None = None
    n_ctx: int | None = None

    @property
    def label(self) -> str:
        if self.model is None:
            return DEMO_LABEL
        path = Path(self.model)
        name = path.stem if path.suffix == ".gguf" else path.name
        return re.sub(r"-\d{5}-of-\d{5}$", "", name)

    @property
    def n_bytes(self) -> int:
        try:
            file = _model_file(model_path(self.model))
        except StrideError:  # no such model: the server will say so, and take no memory
            return 0
        return 0 if file is None else file.n_bytes

    @property
    def command(self) -> list[str]:
        arguments = ["--port", "0"]
        if self.model is not None:
            arguments += ["-m", self.model]
        if self.n_ctx is not None:
            arguments += ["-c", str(self.n_ctx)]
        return [sys.executable, "-m", "stride", "serve", *arguments]

    @contextmanager
    def connect(self, status: Status) -> Iterator[Endpoint]:
        status(f"{self.label}: starting a server")
        with serve(self.command, self.label) as endpoint:
            endpoint.file = endpoint.file or _model_file(model_path(self.model))
            yield endpoint


@dataclass(frozen=True, slots=True)
class Url:
    """An OpenAI-compatible server, measured as it is."""

    url: str
    model: str | None = None
    api_key: Annotated[str | None, pydantic.Field(exclude=True)] = None
    """Never written down."""

    @property
    def label(self) -> str:
        netloc = httpx.URL(self.root).netloc.decode()
        return f"{Path(self.model).name} at {netloc}" if self.model else netloc

    @property
    def root(self) -> str:
        """Without a slash or /v1 at the end."""
        url = self.url if "://" in self.url else f"http://{self.url}"
        return url.rstrip("/").removesuffix("/v1")

    @property
    def n_bytes(self) -> int:
        return 0

    @contextmanager
    def connect(self, status: Status) -> Iterator[Endpoint]:
        status(f"{self.label}: connecting")
        url = httpx.URL(self.root)
        local = url.host in LOOPBACK
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        with _client(headers, local) as http:
            try:
                http.get(f"{self.root}/v1/models").raise_for_status()
            except httpx.HTTPError as error:
                raise TargetError(f"{self.root} does not answer: {error}") from error
            endpoint = Endpoint(self.label, self.root, http, self.model)
            describe(endpoint, local)
            endpoint.label = replace(self, model=endpoint.model).label
            if local:
                endpoint.process = listener(url.port or {"https": 443}.get(url.scheme, 80))
            yield endpoint


TargetSpec: TypeAlias = ServedModel | Url
"""Every kind of target, as a manifest keeps it."""


@contextmanager
def serve(command: Sequence[str], label: str) -> Iterator[Endpoint]:
    """Run a server that says ``listening on URL`` on stderr; yield when /health is well; stop it at the end.

    Raises:
        TargetError: it ended, or was not ready in time; with its last words.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C is for the benchmark, which then stops the server itself
    )
    lines: deque[str] = deque(maxlen=40)
    found: deque[str] = deque(maxlen=1)

    def read() -> None:
        for line in process.stderr or ():
            lines.append(line.rstrip())
            match = re.search(r"listening on (http://\S+)", line)
            if match:
                found.append(match[1])

    def obituary() -> str | None:
        if process.poll() is None:
            return None
        reader.join(timeout=1.0)
        last_words = " / ".join(line for line in list(lines)[-3:] if line)
        return f"the server ended with status {process.returncode}: {last_words or '(it said nothing)'}"

    reader = threading.Thread(target=read, name="server's stderr", daemon=True)
    reader.start()
    try:
        with _client({}, local=True) as http:
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
        if process.stderr:
            process.stderr.close()


def describe(endpoint: Endpoint, local: bool) -> None:
    """Fill in what the server tells of itself: /props (llama-server's and Stride's) and /v1/models."""
    endpoint.props = _json(endpoint.http, f"{endpoint.url}/props")
    models = _json(endpoint.http, f"{endpoint.url}/v1/models").get("data")
    listed = [entry for entry in models if isinstance(entry, dict)] if isinstance(models, list) else []
    wanted = [entry for entry in listed if endpoint.model in (None, entry.get("id"))]
    if wanted:
        endpoint.listed = wanted[0]
        endpoint.model = endpoint.model or wanted[0].get("id")
    path = endpoint.props.get("model_path")
    if local and isinstance(path, str) and path:
        endpoint.file = _model_file(Path(path))


def _client(headers: Mapping[str, str], local: bool) -> httpx.Client:
    """No proxy stands between us and a server on this machine."""
    return httpx.Client(headers=headers, timeout=httpx.Timeout(READ_TIMEOUT, connect=10.0), trust_env=not local)


def _healthy(http: httpx.Client, url: str) -> bool:
    try:
        return http.get(f"{url.rstrip('/')}/health").status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _json(http: httpx.Client, url: str) -> Mapping[str, Any]:
    """A JSON object that a server may or may not offer; empty if not."""
    try:
        found = http.get(url).raise_for_status().json()
    except (httpx.HTTPError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _model_file(path: Path) -> ModelFile | None:
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
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

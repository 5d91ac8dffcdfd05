"""What is measured: a model file behind a server of ours, another server that is started, or one that runs already."""

from __future__ import annotations

import re
import shlex
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Protocol, TypeAlias

import httpx
import pydantic

from stride.bench.engines import OTHER
from stride.bench.memory import listener
from stride.bench.servers import Endpoint, TargetError, describe, model_file, open_client, serve
from stride.errors import RequestError, StrideError
from stride.load import model_path

DEMO_LABEL = "Stride demo model"
LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")

Status = Callable[[str], None]


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
    memory: str | None = None

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
            file = model_file(model_path(self.model))
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
        if self.memory is not None:
            arguments += ["--memory", self.memory]
        return [sys.executable, "-m", "stride", "serve", *arguments]

    @contextmanager
    def connect(self, status: Status) -> Iterator[Endpoint]:
        status(f"{self.label}: starting a server")
        with serve(self.command, self.label) as endpoint:
            endpoint.file = endpoint.file or model_file(model_path(self.model))
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
        with open_client(headers, local) as http:
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


@dataclass(frozen=True, slots=True)
class Launched:
    """Another server, started for as long as it is measured. ``{port}`` in its command line is a free port."""

    line: str

    def __post_init__(self) -> None:
        try:
            words = shlex.split(self.line)
        except ValueError as error:
            raise RequestError(f"{self.line!r} is no command line: {error}", field="launch") from None
        if not words or "{port}" not in self.line:
            raise RequestError(
                f"{self.line!r} cannot be launched: it must be a command with {{port}} where its port goes",
                field="launch",
            )

    @property
    def label(self) -> str:
        """The program, and its model if one is named."""
        words = shlex.split(self.line)
        model = self._model
        return Path(words[0]).name + (f", {Path(model).stem}" if model else "")

    @property
    def _model(self) -> str | None:
        """The GGUF that the command line names."""
        return next((word for word in shlex.split(self.line) if word.endswith(".gguf")), None)

    @property
    def n_bytes(self) -> int:
        file = model_file(Path(self._model)) if self._model else None
        return 0 if file is None else file.n_bytes

    @contextmanager
    def connect(self, status: Status) -> Iterator[Endpoint]:
        status(f"{self.label}: starting it")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [word.replace("{port}", str(port)) for word in shlex.split(self.line)]
        with serve(command, self.label, f"http://127.0.0.1:{port}") as endpoint:
            if endpoint.file is None and self._model:
                endpoint.file = model_file(Path(self._model))
            if endpoint.engine is not OTHER:
                endpoint.label = endpoint.engine.name + (f", {Path(self._model).stem}" if self._model else "")
            yield endpoint


TargetSpec: TypeAlias = ServedModel | Url | Launched
"""Every kind of target, as a manifest keeps it."""

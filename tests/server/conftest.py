"""Servers to ask: a real process with the demo model, and an application whose model says what a test wants."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from tests.server.answers import FINISH

from stride import LLM
from stride.chat.constraints import Constraints, TextFormat
from stride.errors import GenerationError
from stride.server import Models, Settings, create_app
from stride.types import Event, SamplingParams, Timings

FACTS = {"architecture": "script", "quantization": "Q8_0"}


@dataclass
class Script:
    """A stream that gives what it was told to: events, pauses in seconds, errors."""

    steps: Sequence[Event | float | Exception]
    timings: Timings = FINISH.timings
    prompt_tokens: int = 7
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    given: list[Event] = field(default_factory=list)
    error: Exception | None = None

    def cancel(self) -> None:
        self.cancelled.set()

    def subscribe(self, notify: Callable[[], object]) -> None:
        self.playing = asyncio.get_running_loop().create_task(self._play(notify))

    def arrived(self) -> list[Event]:
        events, self.given = self.given, []
        if self.error is not None and not events:
            raise self.error
        return events

    async def _play(self, notify: Callable[[], object]) -> None:
        for step in self.steps:
            if isinstance(step, Exception):
                self.error = step
            elif not isinstance(step, float):
                self.given.append(step)
            else:
                try:
                    await asyncio.wait_for(self.cancelled.wait(), step)
                except TimeoutError:
                    continue
                self.error = GenerationError("cancelled")
                break
            notify()
        notify()


@dataclass
class ScriptedModel:
    """What the application asks of an `LLM`, answered by a script; remembers what it was asked."""

    steps: Sequence[Event | float | Exception] = ()
    name: str = "scripted"
    n_ctx: int = 128
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    streams: list[Script] = field(default_factory=list)
    scopes: list[str] = field(default_factory=list)
    streaming: None = None
    engine: object = field(default_factory=object)
    template: Any = field(default_factory=lambda: SimpleNamespace(source="{{ messages }}"))
    tokenizer: Any = field(default_factory=lambda: SimpleNamespace(bos_token="", eos_token="</s>"))
    tool_format: Any = field(default_factory=lambda: SimpleNamespace(reasoning=("<think>", "</think>"), call=print))

    @property
    def info(self) -> dict[str, Any]:
        names = ("n_vocab", "n_embd", "n_ctx", "n_ctx_train", "n_params", "file_bytes", "kv_bytes")
        numbers = dict.fromkeys(names, 1)
        return {
            **numbers,
            "n_ctx": self.n_ctx,
            "path": "scripted.gguf",
            "n_parallel": 1,
            "kv_type": "f16",
            "backend": "script",
            **FACTS,
        }

    def close(self) -> None:
        """Nothing is held."""

    def scoped(self, cache_scope: str) -> ScriptedModel:
        self.scopes.append(cache_scope)
        return self

    def grouped(self) -> ScriptedModel:
        return self

    def chat_stream(
        self, messages: Any, tools: Any, params: SamplingParams, variables: Any, constraints: Constraints
    ) -> Script:
        return self._start(messages, tools, params, variables, constraints)

    def count_tokens(self, messages: Any, tools: Any, variables: Any, constraints: Constraints) -> int:
        self.asked.append((messages, tools, variables, constraints))
        return 7

    def stream(
        self, prompt: Any, params: SamplingParams, text_format: TextFormat | None, *, prompt_logprobs: bool = False
    ) -> Script:
        return self._start(prompt, params, text_format, prompt_logprobs)

    def _start(self, *asked: Any) -> Script:
        self.asked.append(asked)
        self.streams.append(Script(self.steps))
        return self.streams[-1]

    @property
    def params(self) -> SamplingParams:
        """How the last request was to be sampled."""
        return next(part for part in self.asked[-1] if isinstance(part, SamplingParams))


class Client(httpx.Client):
    """Requests to an application, on an event loop of their own."""

    def __init__(self, app: Any, **arguments: Any) -> None:
        super().__init__(transport=_Bridge(app), base_url="http://localhost", **arguments)
        self.app = app

    def ask(
        self, path: str = "/v1/chat/completions", headers: dict[str, str] | None = None, **body: Any
    ) -> httpx.Response:
        default = {} if "prompt" in body or "messages" in body else {"messages": [{"role": "user", "content": "Hi"}]}
        return self.post(path, json={**default, **body}, headers=headers)


class _Bridge(httpx.BaseTransport):
    def __init__(self, app: Any) -> None:
        self._inner = httpx.ASGITransport(app, raise_app_exceptions=False)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def run() -> httpx.Response:
            response = await self._inner.handle_async_request(request)
            content = await response.aread()
            return httpx.Response(response.status_code, headers=response.headers, content=content, request=request)

        return asyncio.run(run())


@pytest.fixture
def scripted():
    """``scripted(*steps, **settings)``: a client, and the model behind it."""

    def start(*steps: Event | float | Exception, **settings: Any) -> tuple[Client, ScriptedModel]:
        model = ScriptedModel(steps or (FINISH,))
        return Client(create_app(Models.of(model), Settings(**settings))), model  # type: ignore[arg-type]

    return start


@pytest.fixture
def scripted_models():
    """``scripted_models({name: steps})``: a client of a server of several models, and the models by name."""
    opened: list[Models] = []

    def start(steps: dict[str, Sequence[Event | float | Exception]]) -> tuple[Client, dict[str, ScriptedModel]]:
        scripts = {name: ScriptedModel(each, name) for name, each in steps.items()}
        opened.append(Models({name: lambda stopping, name=name: scripts[name] for name in scripts}))  # type: ignore
        return Client(create_app(opened[-1], Settings())), scripts

    yield start
    for models in opened:
        models.close()


@pytest.fixture(scope="session")
def demo_llm() -> Iterator[LLM]:
    """The demo model, in this process."""
    with LLM(n_ctx=512, n_parallel=2) as llm:
        yield llm


@pytest.fixture
def demo(demo_llm: LLM) -> Client:
    """A client of an application with the demo model."""
    return Client(create_app(Models.of(demo_llm), Settings()))


class Live:
    """An application with a scripted model, on a port of this machine, for clients that open connections."""

    def __init__(self) -> None:
        self.model = ScriptedModel()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        app = create_app(Models.of(self.model), Settings())  # type: ignore[arg-type]
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none"))
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],))
        self._thread.start()

    def play(self, *steps: Event | float | Exception) -> ScriptedModel:
        """What the model says from now on."""
        self.model.steps = steps
        self.model.asked.clear()
        self.model.streams.clear()
        return self.model

    def wait_until_cancelled(self) -> None:
        """The last stream was cancelled, by whoever went away."""
        ends = time.monotonic() + 10
        while not self.model.streams[-1].cancelled.is_set():
            assert time.monotonic() < ends
            time.sleep(0.01)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()


@pytest.fixture(scope="session")
def _live() -> Iterator[Live]:
    server = Live()
    yield server
    server.stop()


@pytest.fixture
def live(_live: Live) -> Live:
    _live.play(FINISH)
    return _live


class Served:
    """A ``stride serve`` process; ``log`` grows while it runs. ``program`` is what Python runs as ``stride``."""

    def __init__(self, *arguments: str, program: Sequence[str] = ("-m", "stride")) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *program, "serve", "--port", "0", *arguments],
            env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log = ""
        self._grown = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.url = ""

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._grown:
                self.log += line
                self._grown.notify_all()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first match of a pattern in the log."""
        with self._grown:
            found = self._grown.wait_for(lambda: re.search(pattern, self.log), timeout=60)
        assert found, self.log
        return found

    def start(self, *, loads: bool = True) -> Served:
        """Until it listens, and has loaded its only model."""
        self.url = self.wait_for(r"listening on (http://\S+)")[1]
        if loads:
            self.wait_for(r"ready in [\d.]+ s")
        return self

    def wait_until_running(self, n: int, queued: int = 0) -> None:
        """Until so many requests are in work, and so many wait."""
        told = f"(?s)requests_processing{{.*}} {n}\\.0\n.*requests_deferred{{.*}} {queued}\\.0\n"
        ends = time.monotonic() + 30
        while not re.search(told, text := httpx.get(f"{self.url}/metrics").text):
            assert time.monotonic() < ends, text
            time.sleep(0.02)

    def stop(self) -> int:
        """End it kindly; gives its status."""
        self.process.terminate()
        status = self.process.wait(timeout=60)
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    """The demo model, served."""
    server = Served("-c", "2048").start()
    yield server
    assert server.stop() == 0


@pytest.fixture
def serve() -> Iterator[Any]:
    """Starts servers of a test's own."""
    servers: list[Served] = []

    def start(*arguments: str, **options: Any) -> Served:
        servers.append(Served(*arguments, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def served_program() -> Iterator[Callable[[str], Served]]:
    """Starts programs that serve, for a module's tests."""
    servers: list[Served] = []

    def start(program: str) -> Served:
        servers.append(Served(program=("-c", program)))
        return servers[-1].start()

    yield start
    for server in servers:
        assert server.stop() == 0

"""The server's process: it listens at once, loads its model beside, and drains when it is told to end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial

import uvicorn

from stride.api import LLM
from stride.errors import StrideError
from stride.server.app import create_app
from stride.server.connections import (
    BACKLOG,
    MAX_HEADER_BYTES,
    Connection,
    ConnectionLimits,
    capacity,
    raise_file_limit,
)
from stride.server.guard import Keys
from stride.server.models import Models
from stride.server.observe import configure_logging
from stride.server.service import Settings

STOPPING = (signal.SIGINT, signal.SIGTERM)
DRAIN_SECONDS = 30.0
LAST_WORDS_SECONDS = 1.0
"""For the errors of requests that were failed to reach their clients."""


class Server(uvicorn.Server):
    """uvicorn's, with a limit of our own to its end: what has not finished within ``drain_seconds`` is failed.

    ``fail_all`` does that; it may block until all have heard of it.
    """

    def __init__(self, config: uvicorn.Config, drain_seconds: float, fail_all: Callable[[], object]) -> None:
        super().__init__(config)
        self._drain_seconds = drain_seconds
        self._fail_all = fail_all

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """They are those of the whole process."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        limit = asyncio.create_task(self._end_late())
        await super().shutdown(sockets)
        limit.cancel()

    async def _end_late(self) -> None:
        await asyncio.sleep(self._drain_seconds)
        if n := len(self.server_state.tasks):
            _say(f"requests that did not finish within {self._drain_seconds:g} s, and fail: {n}")
        await asyncio.to_thread(self._fail_all)
        await asyncio.sleep(LAST_WORDS_SECONDS)
        self.force_exit = True
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def serve(
    models: Models,
    settings: Settings,
    port: int,
    verbose: bool = False,
    log_json: bool = False,
    drain_seconds: float = DRAIN_SECONDS,
) -> None:
    """Serve until SIGINT or SIGTERM, and then until requests under way have finished. Closes the models.

    After ``drain_seconds``, what has not finished fails. A second signal kills the process.

    Raises:
        StrideError: the address cannot be listened on, or the only model cannot be loaded.
    """
    app = create_app(models, settings)
    configure_logging(logging.INFO if verbose or log_json else logging.WARNING, log_json)
    listener = listen(settings.host, port)
    name = f"[{settings.host}]" if ":" in settings.host else settings.host
    _say(f"listening on http://{name}:{listener.getsockname()[1]}")

    max_connections, backlog = capacity(raise_file_limit())
    limits = ConnectionLimits(max_connections=max_connections)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        http=partial(Connection, limits=limits),  # type: ignore[arg-type]
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        backlog=backlog,
        ws="none",
        lifespan="off",
    )
    server = Server(config, drain_seconds, models.close)

    def stop(*_: object) -> None:
        server.should_exit = True
        for number in STOPPING:
            signal.signal(number, signal.SIG_DFL)

    for number in STOPPING:
        signal.signal(number, stop)
    signal.signal(signal.SIGHUP, lambda *_: _reload(app.state.keys))
    failures: list[BaseException] = []

    def loaded(result: Future[LLM]) -> None:
        if (error := result.exception()) is not None and not server.should_exit:
            failures.append(error)
            server.should_exit = True

    try:
        if models.is_single:
            models.start().add_done_callback(loaded)
        server.run(sockets=[listener])
    finally:
        models.close()
        listener.close()
    if failures:
        raise failures[0]


def _reload(keys: Keys) -> None:
    try:
        keys.reload()
        _say("keys were read again")
    except StrideError as error:
        _say(f"the keys stay as they were: {error}")


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 picks a free one.

    Raises:
        StrideError: the address is taken, or is none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise StrideError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    # Connections inherit this. Without it each small event after the first waits for the client's delayed
    # acknowledgement, some 40 ms; asyncio sets it only on sockets that it made itself.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

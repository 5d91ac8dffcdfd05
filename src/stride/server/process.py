"""The server's process: it listens at once, loads its model beside, and drains when it is told to end."""

from __future__ import annotations

import logging
import signal
import socket
import sys
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
    Server,
    capacity,
    raise_file_limit,
)
from stride.server.guard import Keys
from stride.server.models import Models
from stride.server.observe import configure_logging
from stride.server.service import Settings


def serve(models: Models, settings: Settings, port: int, verbose: bool = False, log_json: bool = False) -> None:
    """Serve until SIGINT or SIGTERM; requests under way are finished first. Closes the models.

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
    server = Server(config)

    def stop(*_: object) -> None:
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn drains at these, then raises them once more, for us
        signal.signal(number, stop)
    signal.signal(signal.SIGHUP, lambda *_: _reload(app.state.keys))
    failures: list[BaseException] = []

    def loaded(result: Future[LLM]) -> None:
        if (error := result.exception()) is not None and not server.should_exit:
            failures.append(error)
            stop()

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

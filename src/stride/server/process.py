"""The server's process: it listens at once, loads the model beside, and drains when it is told to end."""

from __future__ import annotations

import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

import uvicorn

from stride.api import LLM
from stride.errors import StrideError
from stride.server.app import create_app
from stride.server.observe import configure_logging
from stride.server.service import Settings

BACKLOG = 2048
Load = Callable[[threading.Event], LLM]
"""Loads the model; gives up with an error soon after the event is set."""


def serve(load: Load, settings: Settings, port: int, verbose: bool = False, log_json: bool = False) -> None:
    """Serve until SIGINT or SIGTERM; requests under way are finished first.

    Raises:
        StrideError: the address cannot be listened on, or the model cannot be loaded.
    """
    configure_logging(logging.INFO if verbose or log_json else logging.WARNING, log_json)
    listener = listen(settings.host, port)
    name = f"[{settings.host}]" if ":" in settings.host else settings.host
    _say(f"listening on http://{name}:{listener.getsockname()[1]}")

    model = _Loading(load, lambda: stop())
    app = create_app(lambda: model.llm, settings)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, http="h11", ws="none", lifespan="off"
    )
    server = uvicorn.Server(config)

    def stop(*_: object) -> None:
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn drains at these, then raises them once more, for us
        signal.signal(number, stop)
    try:
        model.start()
        server.run(sockets=[listener])
    finally:
        model.close()
        listener.close()
    if model.error is not None:
        raise model.error


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


class _Loading:
    """A model that is loaded on a thread of its own. ``failed`` is called where it cannot be."""

    def __init__(self, load: Load, failed: Callable[[], None]) -> None:
        self.llm: LLM | None = None
        self.error: BaseException | None = None
        self._load = load
        self._failed = failed
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stride-load")

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End loading, or the model."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self.llm is not None:
            self.llm.close()

    def _run(self) -> None:
        started = time.perf_counter()
        try:
            self.llm = self._load(self._stopping)
            _say(f"ready in {time.perf_counter() - started:.1f} s")
        except BaseException as error:  # handed to the main thread, which raises it
            self.error = None if self._stopping.is_set() else error
            self._failed()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

"""What every route shares: the model, once it is loaded, and how the server was started."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from stride.api import LLM
from stride.server import errors

Provider = Callable[[], LLM | None]
"""Gives the model, or None while it loads."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a server answers.

    Attributes:
        host: the address it is bound to; on loopback, Host and Origin of requests are checked.
        api_keys: keys of which each request must bring one; none are asked for where there are none.
        alias: the model's name on the wire; None is the model's own.
        sampling: sampling parameters where a request says nothing.
        template_kwargs: variables of the chat template where a request says nothing.
        ping_seconds: silence on a stream after which a comment is sent.
        max_body_bytes: size of a request's body at most.
    """

    host: str = "127.0.0.1"
    api_keys: tuple[str, ...] = ()
    alias: str | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    ping_seconds: float = 15.0
    max_body_bytes: int = 32 << 20


class Service:
    """The model behind the routes."""

    def __init__(self, provider: Provider, settings: Settings) -> None:
        self._provider = provider
        self.settings = settings
        self.started = int(time.time())
        self.requests: Counter[tuple[str, str, int]] = Counter()
        """How many requests ended, by method, route and status."""

    def llm(self) -> LLM:
        """The model.

        Raises:
            LoadingError: it is not there yet.
        """
        llm = self._provider()
        if llm is None:
            raise errors.LoadingError
        return llm

    def loaded(self) -> dict[str, LLM]:
        """The models that are in memory, by the names that clients call them."""
        llm = self._provider()
        return {} if llm is None else {self.name(llm): llm}

    def name(self, llm: LLM) -> str:
        """What clients call the model."""
        return self.settings.alias or llm.name

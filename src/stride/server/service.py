"""What every route shares: the models, and how the server was started."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from stride.api import LLM
from stride.chat.constraints import NO_CONSTRAINTS, Constraints
from stride.chat.reasoning import effort_variables
from stride.server import errors
from stride.server.guard import KEY
from stride.server.limits import USAGE
from stride.server.models import Models
from stride.server.schema import sampled
from stride.types import SamplingParams

HELD = "stride.held"
"""Key of a request's scope: the stack of what is let go of once its response has been sent."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a server answers.

    Attributes:
        host: the address it is bound to.
        allowed_hosts: more hosts' names that are answered without a key.
        allowed_origins: more origins whose pages are answered.
        api_keys: keys of which each request must bring one; none are asked for where there are none.
        api_key_file: more keys, one on each line.
        key_parallel: answers of one key at a time; 0: any number.
        key_per_minute: requests of one key in a minute; 0: any number.
        alias: the model's name on the wire; None is the model's own.
        sampling: sampling parameters where a request says nothing.
        template_kwargs: variables of the chat template where a request says nothing.
        reasoning_budget: tokens of reasoning at most, whatever a request asks for; -1 is no limit.
        ping_seconds: silence on a stream after which a comment is sent.
        max_body_bytes: size of a request's body at most.
        max_bodies_bytes: size of all bodies at most whose requests are not answered yet.
        body_seconds: time for a body to arrive.
    """

    host: str = "127.0.0.1"
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    api_keys: tuple[str, ...] = ()
    api_key_file: Path | None = None
    key_parallel: int = 0
    key_per_minute: int = 0
    alias: str | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    reasoning_budget: int = -1
    ping_seconds: float = 15.0
    max_body_bytes: int = 32 << 20
    max_bodies_bytes: int = 256 << 20
    body_seconds: float = 60.0


class Asked(Protocol):
    """What a request says of how its answer is to be made."""

    @property
    def sampling_fields(self) -> Mapping[str, Any]: ...

    @property
    def sampling_names(self) -> Mapping[str, str]: ...

    @property
    def constraints(self) -> Constraints: ...


class Service:
    """The models behind the routes."""

    def __init__(self, models: Models, settings: Settings) -> None:
        self.models = models
        self.settings = settings
        self.started = int(time.time())
        self.requests: Counter[tuple[str, str, int]] = Counter()
        """How many requests ended, by method, route and status."""

    async def llm(self, http: Request, name: str | None = None, *, load: bool = True) -> LLM:
        """The model that a request asks for by ``name``, loaded first where it must be and ``load`` lets it.

        The request holds it until its response has been sent, to the end of its stream. Prompts that it shares with
        others are shared with those of the same API key only.

        Raises:
            LoadingError, UnloadedError, RequestError, NoModelError, StrideError: as `Models.acquire` does.
        """
        slot = await self.models.acquire(name, load=load)
        http.scope[HELD].callback(self.models.release, slot)
        assert slot.llm is not None
        return slot.llm.scoped(http.scope[KEY])

    def sampling(self, asked: Asked) -> SamplingParams:
        """How to sample: what the request says, else what the server was started with.

        Raises:
            RequestError: a value out of its range.
        """
        said = {name: value for name, value in asked.sampling_fields.items() if value is not None}
        return sampled({**self.settings.sampling, **said}, asked.sampling_names)

    def constraints(self, asked: Asked) -> Constraints:
        """What the answer must be; of the request's budget of reasoning and the server's the smaller one counts.

        Raises:
            RequestError: names the field that is not what it must be.
        """
        budget = self.settings.reasoning_budget
        return asked.constraints.at_most(None if budget < 0 else budget)

    def template_variables(
        self, constraints: Constraints = NO_CONSTRAINTS, own: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """What the chat template is given: the server's, over them what the effort means, over them the request's."""
        return {**self.settings.template_kwargs, **effort_variables(constraints.reasoning_effort), **(own or {})}

    def count(self, http: Request, n_answers: int, field: str) -> None:
        """Count the answers that a request wants as its key's, until its response has been sent.

        Raises:
            RequestError: a key may not have so many, and ``field`` asks for it.
            OverloadedError: a key may not have so many more now.
        """
        if n_answers > 1:
            http.scope[HELD].enter_context(http.scope[USAGE].more(n_answers - 1, field))

    def check_ready(self) -> None:
        """Requests are welcome.

        Raises:
            LoadingError: the only model is not there yet.
        """
        if self.models.is_single and not self.models.loaded():
            raise errors.LoadingError

    def loaded(self) -> dict[str, LLM]:
        """The models that are in memory, by the names that clients call them."""
        return {self.name(llm): llm for llm in self.models.loaded().values()}

    def name(self, llm: LLM) -> str:
        """What clients call the model."""
        names = [name for name, loaded in self.models.loaded().items() if loaded.engine is llm.engine and name]
        return names[0] if names else self.settings.alias or llm.name


class Holding:
    """ASGI middleware: lets go of what a request holds once its response has been sent, or could not be."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with ExitStack() as held:
            scope[HELD] = held  # in place: what routing adds to the scope is for those outside too
            await self.app(scope, receive, send)

"""The HTTP routes: OpenAI's chat and completions, and llama-server's health and props, over one `LLM`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response, StreamingResponse

from stride import __version__
from stride.api import LLM
from stride.chat.stream import collect
from stride.errors import StrideError
from stride.server import errors, sse
from stride.server.body import read_json
from stride.server.guard import Guard, is_loopback
from stride.server.schema import ChatRequest, CompletionRequest, read
from stride.server.wire import FINGERPRINT, Answer, ChatAnswer, TextAnswer, timings
from stride.stream import Stream
from stride.types import Completion, Delta, Event, Finish

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


def create_app(provider: Provider, settings: Settings | None = None) -> FastAPI:
    """The application; it answers 503 until ``provider`` gives a model, and closes nothing when it ends."""
    settings = settings or Settings()
    app = FastAPI(title="Stride", version=__version__)
    routes = Routes(provider, settings)
    app.include_router(routes.router(), prefix="/v1")
    app.include_router(routes.router(), include_in_schema=False)
    for kind in (StrideError, HTTPException, Exception):
        app.add_exception_handler(kind, lambda request, error: errors.response(error))
    app.add_middleware(Guard, api_keys=settings.api_keys, loopback=is_loopback(settings.host))
    app.add_middleware(
        CORSMiddleware,
        allow_origin_regex=r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?",
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
    )
    return app


class Routes:
    """The handlers, and what they share."""

    def __init__(self, provider: Provider, settings: Settings) -> None:
        self._provider = provider
        self._settings = settings
        self._started = int(time.time())

    def router(self) -> APIRouter:
        router = APIRouter()
        router.add_api_route("/health", self.health, methods=["GET"])
        router.add_api_route("/models", self.models, methods=["GET"])
        router.add_api_route("/models/{name:path}", self.model, methods=["GET"])
        router.add_api_route("/props", self.props, methods=["GET"])
        router.add_api_route(
            "/chat/completions", self.chat, methods=["POST"], response_model=None, openapi_extra=_body(ChatRequest)
        )
        router.add_api_route(
            "/completions", self.complete, methods=["POST"], response_model=None, openapi_extra=_body(CompletionRequest)
        )
        return router

    # --- facts ---

    async def health(self) -> dict[str, Any]:
        """Whether the model is loaded: 200, or 503 while it is not."""
        self._llm()
        return {"status": "ok"}

    async def models(self) -> dict[str, Any]:
        """The one model that is served."""
        llm = self._llm()
        info = llm.info
        meta = {
            "n_vocab": info["n_vocab"],
            "n_ctx": info["n_ctx"],
            "n_ctx_train": info["n_ctx_train"],
            "n_params": info["n_params"],
            "size": info["file_bytes"],
        }
        card = {"id": self._name(llm), "object": "model", "created": self._started, "owned_by": "stride", "meta": meta}
        return {"object": "list", "data": [card]}

    async def model(self, name: str) -> dict[str, Any]:
        """One model by its name."""
        (card,) = (await self.models())["data"]
        if name != card["id"]:
            raise HTTPException(404, f"there is no model {name!r}, only {card['id']!r}")
        result: dict[str, Any] = card
        return result

    async def props(self) -> dict[str, Any]:
        """What is served and how."""
        llm = self._llm()
        info = llm.info
        return {
            "default_generation_settings": {"n_ctx": llm.n_ctx, "params": self._settings.sampling},
            "total_slots": info["n_parallel"],
            "model_alias": self._name(llm),
            "model_path": info["path"],
            "modalities": {"vision": False, "audio": False},
            "chat_template": llm.template.source,
            "build_info": FINGERPRINT,
            **{name: info[name] for name in ("n_ctx", "kv_bytes", "kv_type", "backend", "file_bytes")},
        }

    # --- generation ---

    async def chat(self, http: Request) -> Response:
        """The next turn of a conversation, whole or as server-sent events."""
        llm = self._llm()
        asked = read(ChatRequest, await read_json(http, self._settings.max_body_bytes))
        params = asked.sampling(self._settings.sampling)
        variables = {**self._settings.template_kwargs, **asked.template_variables}
        stream = await asyncio.to_thread(llm.chat_stream, asked.messages, asked.offered_tools, params, variables)
        answer = ChatAnswer(self._name(llm), one_call=asked.parallel_tool_calls is False)
        return await self._respond(http, stream, answer, asked)

    async def complete(self, http: Request) -> Response:
        """A text continued as it stands, whole or as server-sent events."""
        llm = self._llm()
        asked = read(CompletionRequest, await read_json(http, self._settings.max_body_bytes))
        params = asked.sampling(self._settings.sampling)
        stream = await asyncio.to_thread(llm.stream, asked.prompt, params)
        return await self._respond(http, stream, TextAnswer(self._name(llm)), asked)

    async def _respond(
        self, http: Request, stream: Stream, answer: Answer, asked: ChatRequest | CompletionRequest
    ) -> Response:
        """Send what a stream gives. A client that goes away cancels it, wherever it stands.

        An error before the first token is an HTTP error, unless it comes after a silence that had to be broken.
        """
        watch = asyncio.create_task(_cancel_when_gone(http, stream))
        feed = sse.with_silences(stream, self._settings.ping_seconds)
        try:
            if not asked.stream:
                return JSONResponse(answer.whole(await _gather(feed)))
            first = await anext(feed)
        except BaseException:
            stream.cancel()
            raise
        finally:
            if not asked.stream:
                watch.cancel()
        chunks = self._frames(first, feed, stream, answer, asked)
        return StreamingResponse(_closing(chunks, stream, watch), media_type=sse.MEDIA_TYPE, headers=sse.HEADERS)

    async def _frames(
        self,
        first: Event | None,
        feed: AsyncIterator[Event | None],
        stream: Stream,
        answer: Answer,
        asked: ChatRequest | CompletionRequest,
    ) -> AsyncIterator[bytes]:
        for chunk in answer.opening():
            yield sse.frame(chunk)
        try:
            async for event in _chain(first, feed):
                match event:
                    case None:
                        yield sse.PING
                    case Finish():
                        for chunk in answer.closing(event, asked.wants_usage):
                            yield sse.frame(chunk)
                    case _:
                        for chunk in answer.delta(event):
                            if asked.timings_per_token:
                                chunk["timings"] = timings(stream.timings)
                            yield sse.frame(chunk)
        except StrideError as error:
            yield sse.frame(errors.body(error))
            return
        yield sse.DONE

    # --- helpers ---

    def _llm(self) -> LLM:
        llm = self._provider()
        if llm is None:
            raise errors.LoadingError
        return llm

    def _name(self, llm: LLM) -> str:
        return self._settings.alias or llm.name


async def _gather(feed: AsyncIterator[Event | None]) -> Completion:
    deltas: list[Delta] = []
    async for event in feed:
        if isinstance(event, Finish):
            return Completion(collect(deltas), event.reason, event.usage, event.timings)
        if event is not None:
            deltas.append(event)
    raise AssertionError("a stream ends with Finish or an error")


async def _chain(first: Event | None, rest: AsyncIterator[Event | None]) -> AsyncIterator[Event | None]:
    yield first
    async for event in rest:
        yield event


async def _closing(chunks: AsyncIterator[bytes], stream: Stream, watch: asyncio.Task[None]) -> AsyncIterator[bytes]:
    """The chunks; afterwards, also when nobody wanted the rest, generation has ended."""
    try:
        async for chunk in chunks:
            yield chunk
    finally:
        stream.cancel()
        watch.cancel()


async def _cancel_when_gone(http: Request, stream: Stream) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        while (await http.receive())["type"] != "http.disconnect":
            pass
        stream.cancel()


def _body(schema: type[ChatRequest] | type[CompletionRequest]) -> dict[str, Any]:
    """The body's schema for the OpenAPI page; `stride.server.body` reads it, with its own limits."""
    content = {"application/json": {"schema": schema.model_json_schema(ref_template="#/components/schemas/{model}")}}
    return {"requestBody": {"required": True, "content": content}}

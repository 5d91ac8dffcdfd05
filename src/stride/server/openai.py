"""OpenAI's routes of models and chat completions; `completions`, `responses` and `embeddings` have others."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from stride.api import LLM
from stride.server.body import read_json
from stride.server.choices import start_all
from stride.server.errors import NoModelError
from stride.server.respond import respond_all
from stride.server.schema import ChatRequest, openapi_body, read
from stride.server.schema_answers import ChatCompletion, InputTokens, answers
from stride.server.service import Service
from stride.server.wire import ChatAnswer, Envelope, OpenAIChoices, input_tokens, new_id
from stride.stream import Stream
from stride.types import SamplingParams


def router(service: Service) -> APIRouter:
    routes = APIRouter()
    settings = service.settings

    @routes.get("/models")
    async def models() -> dict[str, Any]:
        """The models that are served, loaded or not."""
        return {"object": "list", "data": _cards(service)}

    @routes.get("/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """One model by its name."""
        cards = {card["id"]: card for card in _cards(service)}
        if name not in cards:
            raise NoModelError(name, tuple(cards))
        return cards[name]

    @routes.post(
        "/chat/completions",
        response_model=None,
        responses=answers(ChatCompletion, streamed=True),
        openapi_extra=openapi_body(ChatRequest),
    )
    async def chat(http: Request) -> Response:
        """The next turn of a conversation, whole or as server-sent events."""
        asked = read(ChatRequest, await read_json(http, settings.max_body_bytes))
        llm = await service.llm(http, asked.model)
        params, constraints = service.sampling(asked), service.constraints(asked)
        variables = service.template_variables(constraints, asked.template_variables)
        n = asked.n or 1
        service.count(http, n, "n")

        def start(llm: LLM, params: SamplingParams) -> Stream:
            return llm.chat_stream(asked.messages, asked.tools or (), params, variables, constraints)

        streams = await asyncio.to_thread(start_all, llm, [start], params, n)
        envelope = Envelope(service.name(llm), new_id("chatcmpl-"))
        answers = [ChatAnswer(envelope, index) for index in range(n)]
        return await respond_all(http, streams, OpenAIChoices(answers, n), asked, settings.ping_seconds)

    @routes.post(
        "/chat/completions/input_tokens",
        response_model=None,
        responses=answers(InputTokens),
        openapi_extra=openapi_body(ChatRequest),
    )
    async def count(http: Request) -> dict[str, Any]:
        """Tokens of the prompt that a conversation makes."""
        asked = read(ChatRequest, await read_json(http, settings.max_body_bytes))
        llm = await service.llm(http, asked.model)
        service.sampling(asked)  # what would be wrong with the request for an answer is wrong with this one
        constraints = asked.constraints
        variables = service.template_variables(constraints, asked.template_variables)
        n = await asyncio.to_thread(llm.count_tokens, asked.messages, asked.tools or (), variables, constraints)
        return input_tokens(n)

    return routes


def _cards(service: Service) -> list[dict[str, Any]]:
    service.check_ready()
    loaded = service.models.loaded()
    return [_card(service, name, loaded.get(name)) for name in service.models.names]


def _card(service: Service, name: str, llm: LLM | None) -> dict[str, Any]:
    """A model in a list; what is in its file is known once it is loaded."""
    card = {
        "id": name if llm is None else service.name(llm),
        "object": "model",
        "created": service.started,
        "owned_by": "stride",
        "status": {"value": service.models.state(name)},
    }
    return card if llm is None else {**card, "meta": _meta(llm)}


def _meta(llm: LLM) -> dict[str, Any]:
    info = llm.info
    return {
        "n_vocab": info["n_vocab"],
        "n_ctx": info["n_ctx"],
        "n_ctx_train": info["n_ctx_train"],
        "n_embd": info["n_embd"],
        "n_params": info["n_params"],
        "size": info["file_bytes"],
    }

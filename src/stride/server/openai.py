"""OpenAI's routes: models, chat completions, completions."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from stride.server.body import read_json
from stride.server.respond import respond
from stride.server.schema import ChatRequest, CompletionRequest, openapi_body, read
from stride.server.service import Service
from stride.server.wire import ChatAnswer, TextAnswer


def router(service: Service) -> APIRouter:
    routes = APIRouter()
    settings = service.settings

    @routes.get("/models")
    async def models() -> dict[str, Any]:
        """The one model that is served."""
        return {"object": "list", "data": [_card(service)]}

    @routes.get("/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """One model by its name."""
        card = _card(service)
        if name != card["id"]:
            raise HTTPException(404, f"there is no model {name!r}, only {card['id']!r}")
        return card

    @routes.post("/chat/completions", response_model=None, openapi_extra=openapi_body(ChatRequest))
    async def chat(http: Request) -> Response:
        """The next turn of a conversation, whole or as server-sent events."""
        llm = service.llm()
        asked = read(ChatRequest, await read_json(http, settings.max_body_bytes))
        params = asked.sampling(settings.sampling)
        constraints = asked.constraints(settings.reasoning_budget)
        variables = {**settings.template_kwargs, **asked.template_variables}
        stream = await asyncio.to_thread(
            llm.chat_stream, asked.messages, asked.tools or (), params, variables, constraints
        )
        return await respond(http, stream, ChatAnswer(service.name(llm)), asked, settings.ping_seconds)

    @routes.post("/completions", response_model=None, openapi_extra=openapi_body(CompletionRequest))
    async def complete(http: Request) -> Response:
        """A text continued as it stands, whole or as server-sent events."""
        llm = service.llm()
        asked = read(CompletionRequest, await read_json(http, settings.max_body_bytes))
        params = asked.sampling(settings.sampling)
        stream = await asyncio.to_thread(llm.stream, asked.prompt, params, asked.constraints().text)
        return await respond(http, stream, TextAnswer(service.name(llm)), asked, settings.ping_seconds)

    return routes


def _card(service: Service) -> dict[str, Any]:
    llm = service.llm()
    info = llm.info
    meta = {
        "n_vocab": info["n_vocab"],
        "n_ctx": info["n_ctx"],
        "n_ctx_train": info["n_ctx_train"],
        "n_params": info["n_params"],
        "size": info["file_bytes"],
    }
    return {
        "id": service.name(llm),
        "object": "model",
        "created": service.started,
        "owned_by": "stride",
        "meta": meta,
    }

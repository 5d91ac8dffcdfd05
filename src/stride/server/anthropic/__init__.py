"""Anthropic's routes: messages, and how many tokens they are."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from stride.server.anthropic.answer import MessagesAnswer
from stride.server.anthropic.request import MessagesPrompt, MessagesRequest
from stride.server.body import read_json
from stride.server.respond import respond
from stride.server.schema import openapi_body, read
from stride.server.schema_answers import MessagesMessage, TokenCount, answers
from stride.server.service import Service


def router(service: Service) -> APIRouter:
    routes = APIRouter(prefix="/v1/messages")
    settings = service.settings

    @routes.post(
        "",
        response_model=None,
        responses=answers(MessagesMessage, streamed=True),
        openapi_extra=openapi_body(MessagesRequest),
    )
    async def messages(http: Request) -> Response:
        """The next turn of a conversation, whole or as server-sent events."""
        asked = read(MessagesRequest, await read_json(http, settings.max_body_bytes))
        llm = await service.llm(http, asked.model)
        constraints = service.constraints(asked)
        stream = await asyncio.to_thread(
            llm.chat_stream,
            asked.conversation,
            asked.offered,
            service.sampling(asked),
            service.template_variables(constraints, asked.chat_template_kwargs),
            constraints,
        )
        answer = MessagesAnswer(service.name(llm), stream.prompt_tokens, asked.max_tokens, asked.shows_thinking)
        return await respond(http, stream, answer, asked, settings.ping_seconds)

    @routes.post(
        "/count_tokens", response_model=None, responses=answers(TokenCount), openapi_extra=openapi_body(MessagesPrompt)
    )
    async def count_tokens(http: Request) -> dict[str, Any]:
        """Tokens of the prompt that a conversation makes."""
        asked = read(MessagesPrompt, await read_json(http, settings.max_body_bytes))
        llm = await service.llm(http, asked.model)
        constraints = asked.constraints
        variables = service.template_variables(constraints, asked.chat_template_kwargs)
        n = await asyncio.to_thread(llm.count_tokens, asked.conversation, asked.offered, variables, constraints)
        return {"input_tokens": n}

    return routes

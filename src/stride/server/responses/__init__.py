"""OpenAI's Responses: to make one, and to come back to it."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from stride.errors import RequestError
from stride.server.body import read_json
from stride.server.guard import KEY
from stride.server.respond import respond
from stride.server.responses.answer import ResponsesAnswer
from stride.server.responses.items import conversation
from stride.server.responses.request import ResponsesRequest
from stride.server.responses.store import Store
from stride.server.schema import openapi_body, read
from stride.server.schema_answers import InputTokens, ResponsesResponse, answers
from stride.server.service import Service
from stride.server.wire import input_tokens
from stride.types import Message


def router(service: Service) -> APIRouter:
    routes = APIRouter(prefix="/responses")
    settings = service.settings
    store = Store()

    def messages(who: str, asked: ResponsesRequest) -> list[Message]:
        history = conversation([*store.history(who, asked.previous_response_id), *asked.items])
        if not asked.items or not history:
            raise RequestError("input must end with somebody's words or a tool's output", field="input")
        if history[-1].tool_calls:
            raise RequestError("input ends with a function call, whose output must follow", field="input")
        return [*([Message("system", asked.instructions)] if asked.instructions else []), *history]

    @routes.post(
        "",
        response_model=None,
        responses=answers(ResponsesResponse, streamed=True),
        openapi_extra=openapi_body(ResponsesRequest),
    )
    async def create(http: Request) -> Response:
        """The next turn of a conversation, whole or as server-sent events."""
        asked = read(ResponsesRequest, await read_json(http, settings.max_body_bytes))
        llm = await service.llm(http, asked.model)
        who = http.scope[KEY]
        params, constraints = service.sampling(asked), service.constraints(asked)
        stream = await asyncio.to_thread(
            llm.chat_stream,
            messages(who, asked),
            asked.offered,
            params,
            service.template_variables(constraints, asked.chat_template_kwargs),
            constraints,
        )

        def keep(response: dict[str, Any]) -> None:
            if asked.store is not False:
                store.keep(who, response, asked.items)

        answer = ResponsesAnswer(service.name(llm), asked, params, keep)
        return await respond(http, stream, answer, asked, settings.ping_seconds)

    @routes.post(
        "/input_tokens",
        response_model=None,
        responses=answers(InputTokens),
        openapi_extra=openapi_body(ResponsesRequest),
    )
    async def count(http: Request) -> dict[str, Any]:
        """Tokens of the prompt that a conversation makes."""
        asked = read(ResponsesRequest, await read_json(http, settings.max_body_bytes))
        llm = await service.llm(http, asked.model)
        service.sampling(asked)  # what would be wrong with the request for an answer is wrong with this one
        constraints = asked.constraints
        variables = service.template_variables(constraints, asked.chat_template_kwargs)
        turns = messages(http.scope[KEY], asked)
        return input_tokens(await asyncio.to_thread(llm.count_tokens, turns, asked.offered, variables, constraints))

    @routes.get("/{response_id}")
    async def retrieve(http: Request, response_id: str) -> dict[str, Any]:
        """A response that was made with this API key, as long as it is remembered."""
        return store.get(http.scope[KEY], response_id).response

    @routes.delete("/{response_id}")
    async def delete(http: Request, response_id: str) -> dict[str, Any]:
        """Forget a response."""
        store.delete(http.scope[KEY], response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    @routes.get("/{response_id}/input_items")
    async def input_items(http: Request, response_id: str) -> dict[str, Any]:
        """The items of the request that a response answers, the last one first."""
        items = [
            {"id": f"msg_{index}_{response_id}", "type": "message", **item}
            for index, item in enumerate(store.get(http.scope[KEY], response_id).input)
        ]
        data = items[::-1]
        return {
            "object": "list",
            "data": data,
            "first_id": data[0]["id"],
            "last_id": data[-1]["id"],
            "has_more": False,
        }

    return routes

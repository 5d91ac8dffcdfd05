"""Ollama's own routes: chat, generate, embed, and what is known of the models. They pull and make none."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from stride.api import LLM
from stride.embeddings import EUCLIDEAN, normalized
from stride.errors import UnsupportedError
from stride.server import sse
from stride.server.body import read_json
from stride.server.embeddings import check_dimensions, embed
from stride.server.ollama.answer import NDJSON, OllamaAnswer, Times
from stride.server.ollama.cards import card, description
from stride.server.ollama.request import (
    OllamaChatRequest,
    OllamaEmbeddingsRequest,
    OllamaEmbedRequest,
    OllamaGenerateRequest,
    OllamaRequest,
    OllamaShowRequest,
)
from stride.server.respond import respond
from stride.server.schema import openapi_body, read
from stride.server.schema_answers import OllamaChatAnswer, OllamaGenerateAnswer, OllamaVector, OllamaVectors, answers
from stride.server.service import Service

API_VERSION = "0.12.11"
"""The release of Ollama whose interface this is; clients refuse servers that are too old."""
ABSENT = {
    "pull": "models come with 'stride pull', and are served from the next start on",
    "push": "models are files; Stride uploads none",
    "create": "models are GGUF files; Stride makes none",
    "copy": "models are files; 'stride serve --alias' names one",
    "delete": "models are files; remove them as such",
}
"""Route → why it does not do what Ollama's does."""


def router(service: Service) -> APIRouter:
    routes = APIRouter(prefix="/api")
    settings = service.settings

    def known(name: str | None) -> str | None:
        return _without_default_tag(name, service.models.names)

    async def llm(http: Request, name: str | None, times: Times | None = None) -> LLM:
        model = await service.llm(http, known(name))
        if times is not None:
            times.loaded()
        return model

    async def without_words(http: Request, asked: OllamaRequest, form: Literal["chat", "generate"]) -> Response:
        """Load the model, or let it go."""
        if asked.unloads:
            await asyncio.to_thread(service.models.unload, known(asked.model))
            return JSONResponse(OllamaAnswer(asked.model or "", form, Times()).without_words("unload"))
        model = await llm(http, asked.model)
        return JSONResponse(OllamaAnswer(service.name(model), form, Times()).without_words("load"))

    @routes.post(
        "/chat",
        response_model=None,
        responses=answers(OllamaChatAnswer, True, NDJSON.media_type),
        openapi_extra=openapi_body(OllamaChatRequest),
    )
    async def chat(http: Request) -> Response:
        """The next turn of a conversation, on lines of JSON or whole."""
        times = Times()
        asked = read(OllamaChatRequest, await read_json(http, settings.max_body_bytes))
        if not asked.messages:
            return await without_words(http, asked, "chat")
        model = await llm(http, asked.model, times)
        answer = OllamaAnswer(service.name(model), "chat", times)
        constraints = service.constraints(asked)
        stream = await asyncio.to_thread(
            model.chat_stream,
            asked.conversation,
            asked.tools or (),
            service.sampling(asked),
            service.template_variables(constraints),
            constraints,
        )
        return await respond(http, stream, answer, asked, settings.ping_seconds)

    @routes.post(
        "/generate",
        response_model=None,
        responses=answers(OllamaGenerateAnswer, True, NDJSON.media_type),
        openapi_extra=openapi_body(OllamaGenerateRequest),
    )
    async def generate(http: Request) -> Response:
        """An answer to one prompt, or its continuation, on lines of JSON or whole."""
        times = Times()
        asked = read(OllamaGenerateRequest, await read_json(http, settings.max_body_bytes))
        if not asked.prompt:
            return await without_words(http, asked, "generate")
        model = await llm(http, asked.model, times)
        answer = OllamaAnswer(service.name(model), "generate", times)
        params, constraints = service.sampling(asked), service.constraints(asked)
        if asked.raw:
            stream = await asyncio.to_thread(model.stream, asked.prompt, params, asked.text_format)
        else:
            variables = service.template_variables(constraints)
            stream = await asyncio.to_thread(model.chat_stream, asked.conversation, (), params, variables, constraints)
        return await respond(http, stream, answer, asked, settings.ping_seconds)

    @routes.post(
        "/embed", response_model=None, responses=answers(OllamaVectors), openapi_extra=openapi_body(OllamaEmbedRequest)
    )
    async def vectors(http: Request) -> Response:
        """Vectors of texts. Without a text it loads the model."""
        times = Times()
        asked = read(OllamaEmbedRequest, await read_json(http, settings.max_body_bytes))
        model = await llm(http, asked.model, times)
        check_dimensions(asked.dimensions, model)
        head: dict[str, Any] = {"model": service.name(model)}
        if asked.input in (None, [], [""]):
            return JSONResponse({**head, "embeddings": []})
        done = await embed(http, model, asked.input or [], "input", truncate=asked.truncate is not False)
        head["prompt_eval_count"] = done.usage.prompt_tokens

        def render() -> bytes:
            found = normalized(done.vectors, EUCLIDEAN)
            return sse.with_list({**head, **times.told()}, "embeddings", map(np.ndarray.tolist, found))

        return Response(await asyncio.to_thread(render), media_type="application/json")

    @routes.post(
        "/embeddings",
        response_model=None,
        responses=answers(OllamaVector),
        openapi_extra=openapi_body(OllamaEmbeddingsRequest),
    )
    async def vector(http: Request) -> Response:
        """The vector of one text, not normalised, as before ``/api/embed``. Without a text it loads the model."""
        asked = read(OllamaEmbeddingsRequest, await read_json(http, settings.max_body_bytes))
        model = await llm(http, asked.model)
        if not asked.prompt:
            return JSONResponse({"embedding": []})
        done = await embed(http, model, [asked.prompt], "prompt")
        return JSONResponse({"embedding": done.vectors[0].tolist()})

    @routes.get("/tags")
    async def tags() -> dict[str, Any]:
        """The models that are served."""
        service.check_ready()
        loaded = service.models.loaded()
        return {"models": [card(service, name, loaded.get(name)) for name in service.models.names]}

    @routes.get("/ps")
    async def loaded() -> dict[str, Any]:
        """The models that are in memory."""
        service.check_ready()
        return {"models": [card(service, name, model) for name, model in service.models.loaded().items()]}

    @routes.post("/show", response_model=None, openapi_extra=openapi_body(OllamaShowRequest))
    async def show(http: Request) -> dict[str, Any]:
        """What is known of one model; it is loaded for it."""
        asked = read(OllamaShowRequest, await read_json(http, settings.max_body_bytes))
        return description(await llm(http, asked.model), settings.sampling)

    @routes.get("/version")
    async def version() -> dict[str, Any]:
        """The release of Ollama whose interface this is."""
        return {"version": API_VERSION}

    @routes.api_route("/{route}", methods=["POST", "DELETE"], response_model=None, include_in_schema=False)
    async def absent(route: str) -> Response:
        raise _absent(route)

    return routes


def _without_default_tag(name: str | None, served: tuple[str, ...]) -> str | None:
    """Ollama's clients say ``name:latest`` where ``name`` is meant."""
    return name.removesuffix(":latest") if name is not None and name not in served else name


def _absent(route: str) -> Exception:
    if route in ABSENT:
        return UnsupportedError(f"/api/{route} is not supported: {ABSENT[route]}")
    return HTTPException(404, "Not Found")

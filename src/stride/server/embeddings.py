"""Vectors of texts: OpenAI's ``/v1/embeddings``, llama-server's ``/embedding`` and ``/embeddings``."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import AliasChoices, Field
from starlette.responses import Response

from stride.api import LLM
from stride.embeddings import EUCLIDEAN, UNCHANGED, Embedded, normalized
from stride.errors import RequestError
from stride.ops.api import FloatArray
from stride.server import sse
from stride.server.body import read_json
from stride.server.observe import note
from stride.server.respond import cancel_when_gone
from stride.server.schema import MAX_TEXTS, PROMPTS, Int32, ListOf, Schema, openapi_body, read
from stride.server.schema_answers import NativeVector, Vectors, answers
from stride.server.service import Service
from stride.types import Finish, Prompt

Texts = Annotated[ListOf[str | ListOf[int]], PROMPTS, Field(min_length=1, max_length=MAX_TEXTS)]


class EmbeddingsRequest(Schema):
    """Body of ``/v1/embeddings``: texts, or token ids; a single one may stand for itself."""

    model: str | None = None
    input: Texts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Int32 | None = None


class NativeEmbeddingRequest(Schema):
    """Body of ``/embedding``, llama-server's own. ``embd_normalize``: as the norm of `stride.embeddings.normalized`."""

    model: str | None = None
    content: Annotated[Texts, Field(validation_alias=AliasChoices("content", "input"))]
    embd_normalize: Annotated[Int32, Field(ge=UNCHANGED)] | None = None


def router(service: Service) -> APIRouter:
    routes = APIRouter()
    settings = service.settings

    @routes.post(
        "/v1/embeddings",
        response_model=None,
        responses=answers(Vectors),
        openapi_extra=openapi_body(EmbeddingsRequest),
    )
    async def openai(http: Request) -> Response:
        """Vectors of texts, of Euclidean norm 1."""
        asked = read(EmbeddingsRequest, await read_json(http, settings.max_body_bytes))
        llm = await service.llm(http, asked.model)
        check_dimensions(asked.dimensions, llm)
        done = await embed(http, llm, asked.input, "input")
        n_tokens = done.usage.prompt_tokens
        usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
        head = {"object": "list", "model": service.name(llm), "usage": usage}
        written: Callable[[FloatArray], list[float] | str] = _base64 if asked.encoding_format == "base64" else _floats

        def render() -> bytes:
            vectors = enumerate(normalized(done.vectors, EUCLIDEAN))
            items = ({"object": "embedding", "index": i, "embedding": written(vector)} for i, vector in vectors)
            return sse.with_list(head, "data", items)

        return Response(await asyncio.to_thread(render), media_type="application/json")

    @routes.post(
        "/embedding",
        response_model=None,
        responses=answers(list[NativeVector]),
        openapi_extra=openapi_body(NativeEmbeddingRequest),
    )
    @routes.post("/embeddings", response_model=None, include_in_schema=False)
    async def native(http: Request) -> Response:
        """Vectors of texts in llama-server's own form, a list of one for each."""
        asked = read(NativeEmbeddingRequest, await read_json(http, settings.max_body_bytes))
        llm = await service.llm(http, asked.model)
        done = await embed(http, llm, asked.content, "content")
        norm = EUCLIDEAN if asked.embd_normalize is None else asked.embd_normalize

        def render() -> bytes:
            vectors = enumerate(normalized(done.vectors, norm))
            return sse.list_of({"index": index, "embedding": [vector.tolist()]} for index, vector in vectors)

        return Response(await asyncio.to_thread(render), media_type="application/json")

    return routes


async def embed(http: Request, llm: LLM, texts: Sequence[Prompt], field: str, *, truncate: bool = False) -> Embedded:
    """Vectors of texts; a client that goes away cancels them. Errors call the texts ``field``.

    Raises:
        StrideError: a text is empty or too long, or the engine failed or has no place.
    """
    vectors = await asyncio.to_thread(llm.embeddings, texts, field, truncate=truncate)
    watch = asyncio.create_task(cancel_when_gone(http, vectors))
    try:
        done = await asyncio.wrap_future(vectors.future)
    except BaseException:
        vectors.cancel()
        raise
    finally:
        watch.cancel()
    note(http, Finish("stop", done.usage, done.timings))
    return done


def check_dimensions(dimensions: int | None, llm: LLM) -> None:
    """Vectors have the model's width: no file says that a part of one means anything.

    Raises:
        RequestError: another width is asked for.
    """
    width = llm.info["n_embd"]
    if dimensions is not None and dimensions != width:
        problem = f"dimensions is {dimensions}, but this model's vectors have {width}, which cannot be shortened"
        raise RequestError(problem, field="dimensions")


def _floats(vector: FloatArray) -> list[float]:
    floats: list[float] = vector.tolist()
    return floats


def _base64(vector: FloatArray) -> str:
    """float32 in little-endian order, as OpenAI's clients read it."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()

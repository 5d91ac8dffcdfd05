"""llama-server's own routes: health, props, slots, metrics, tokens, templates."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response

from stride.api import LLM
from stride.errors import RequestError
from stride.server import metrics, sse
from stride.server.body import read_json
from stride.server.schema import (
    DetokenizeRequest,
    TemplateRequest,
    TokenizeRequest,
    openapi_body,
    read,
)
from stride.server.schema_answers import Detokenized, Rendered, Tokenized, answers
from stride.server.service import Service
from stride.server.wire import FINGERPRINT
from stride.server.wire_native import generation_settings
from stride.types import sampling_params

TOKENIZED_CHARACTERS = 1 << 20
"""A text to tokenize may be as long, even where it does not fit the context."""


def router(service: Service) -> APIRouter:
    routes = APIRouter()
    settings = service.settings

    @routes.get("/health")
    async def health() -> dict[str, Any]:
        """200, or 503 while the only model is not loaded."""
        service.check_ready()
        return {"status": "ok"}

    @routes.get("/props")
    async def props(http: Request, model: str | None = None) -> dict[str, Any]:
        """What is served and how; no model is loaded for it."""
        llm = await service.llm(http, model, load=False)
        info = llm.info
        params = generation_settings(sampling_params(settings.sampling))
        return {
            "default_generation_settings": {"n_ctx": llm.n_ctx, "params": params},
            "total_slots": info["n_parallel"],
            "model_alias": service.name(llm),
            "model_path": info["path"],
            "modalities": {"vision": False, "video": False, "audio": False},
            "endpoint_slots": True,
            "endpoint_props": False,
            "endpoint_metrics": True,
            "chat_template": llm.template.source,
            "bos_token": llm.tokenizer.bos_token,
            "eos_token": llm.tokenizer.eos_token,
            "build_info": FINGERPRINT,
            "is_sleeping": False,
            **{name: info[name] for name in ("n_ctx", "kv_bytes", "kv_type", "backend", "file_bytes")},
        }

    @routes.get("/slots")
    async def slots(http: Request, model: str | None = None, fail_on_no_slot: str = "") -> list[dict[str, Any]]:
        """The places for sequences, and how far each has come; no text. 503 where none is free and that was asked.

        No model is loaded for it.
        """
        llm = await service.llm(http, model, load=False)
        running = {state.slot: state for state in llm.engine.slots}
        n_slots = llm.engine.config.n_parallel
        if fail_on_no_slot and len(running) >= n_slots:
            raise HTTPException(503, "no slot available")
        answer: list[dict[str, Any]] = []
        for slot in range(n_slots):
            entry: dict[str, Any] = {
                "id": slot,
                "n_ctx": llm.n_ctx,
                "speculative": llm.draft_kind != "off",
                "is_processing": slot in running,
            }
            if state := running.get(slot):
                progress = {"has_next_token": True, "n_remain": state.n_remaining, "n_decoded": state.n_generated}
                entry |= {
                    "n_prompt_tokens": state.n_prompt,
                    "n_prompt_tokens_processed": min(state.n_computed, state.n_prompt),
                    "params": generation_settings(state.params),
                    "next_token": [progress],
                }
            answer.append(entry)
        return answer

    @routes.get("/metrics", response_class=PlainTextResponse)
    async def scrape() -> Response:
        """Counters, gauges and histograms in Prometheus' text format."""
        text = metrics.exposition(service.loaded(), service.requests, service.started)
        return Response(text, media_type=metrics.MEDIA_TYPE)

    @routes.post(
        "/tokenize", response_model=None, responses=answers(Tokenized), openapi_extra=openapi_body(TokenizeRequest)
    )
    async def tokenize(http: Request) -> Response:
        """A text's token ids; with ``with_pieces``, each with its text, or its bytes where they are no text."""
        asked = read(TokenizeRequest, await read_json(http, settings.max_body_bytes))
        llm = await service.llm(http, asked.model)
        return Response(await asyncio.to_thread(_tokenize, llm, asked), media_type="application/json")

    @routes.post(
        "/detokenize",
        response_model=None,
        responses=answers(Detokenized),
        openapi_extra=openapi_body(DetokenizeRequest),
    )
    async def detokenize(http: Request) -> Response:
        """The text of token ids."""
        asked = read(DetokenizeRequest, await read_json(http, settings.max_body_bytes))
        llm = await service.llm(http, asked.model)
        if not all(0 <= token_id < llm.tokenizer.n_vocab for token_id in asked.tokens):
            raise RequestError(f"tokens must be token ids from 0 to {llm.tokenizer.n_vocab - 1}", field="tokens")
        text = await asyncio.to_thread(llm.detokenize, asked.tokens)
        return Response(sse.to_json({"content": text}), media_type="application/json")

    @routes.post(
        "/apply-template", response_model=None, responses=answers(Rendered), openapi_extra=openapi_body(TemplateRequest)
    )
    async def apply_template(http: Request) -> dict[str, Any]:
        """The prompt that a conversation becomes."""
        asked = read(TemplateRequest, await read_json(http, settings.max_body_bytes))
        llm = await service.llm(http, asked.model)
        variables = service.template_variables(own=asked.template_variables)
        render = partial(llm.apply_template, asked.messages, asked.tools, **variables)
        return {"prompt": await asyncio.to_thread(render)}

    return routes


def _tokenize(llm: LLM, asked: TokenizeRequest) -> bytes:
    """The whole answer: of a long text, its JSON takes time too."""
    if len(asked.content) > TOKENIZED_CHARACTERS:
        llm.check_length(asked.content)
    tokenizer = llm.tokenizer
    ids = tokenizer.encode(asked.content, special=asked.parse_special is not False)
    if asked.add_special:
        ids = [
            *([tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []),
            *ids,
            *([tokenizer.eos_id] if tokenizer.add_eos and tokenizer.eos_id is not None else []),
        ]
    if not asked.with_pieces:
        return sse.to_json({"tokens": ids})
    pieces = [{"id": token_id, "piece": _piece(tokenizer.token_bytes(token_id))} for token_id in ids]
    return sse.to_json({"tokens": pieces})


def _piece(data: bytes) -> str | list[int]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)

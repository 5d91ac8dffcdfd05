"""Texts continued as they stand: OpenAI's ``/v1/completions``, llama-server's ``/completion`` and ``/completions``."""

from __future__ import annotations

import asyncio
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from stride.api import LLM
from stride.server.body import read_json
from stride.server.choices import as_prompts, continue_text, start_all
from stride.server.respond import respond_all
from stride.server.schema import CompletionRequest, NativeRequest, openapi_body, read
from stride.server.schema_answers import NativeCompletion, TextCompletion, answers
from stride.server.service import Service
from stride.server.wire import Envelope, OpenAIChoices, TextAnswer, new_id
from stride.server.wire_native import NativeAnswer, NativeChoices, whole_settings


def router(service: Service) -> APIRouter:
    routes = APIRouter()
    settings = service.settings

    @routes.post(
        "/v1/completions",
        response_model=None,
        responses=answers(TextCompletion, streamed=True),
        openapi_extra=openapi_body(CompletionRequest),
    )
    async def openai(http: Request) -> Response:
        """A text continued as it stands, whole or as server-sent events."""
        asked = read(CompletionRequest, await read_json(http, settings.max_body_bytes))
        llm = await service.llm(http, asked.model)
        params = service.sampling(asked)
        n, prompts = asked.n or 1, await asyncio.to_thread(as_prompts, llm, asked.prompt)
        service.count(http, n * len(prompts), "n" if n > 1 else "prompt")
        text = asked.constraints.text
        starts = [partial(continue_text, prompt, text, prompt_logprobs=asked.tells_prompt) for prompt in prompts]
        streams = await asyncio.to_thread(start_all, llm, starts, params, n)
        envelope = Envelope(service.name(llm), new_id("cmpl-"))
        echoes = [_text(llm, prompt) if asked.echo else "" for prompt in prompts for _ in range(n)]
        answers = [
            TextAnswer(envelope, index, echo=echo, tells_prompt=asked.tells_prompt) for index, echo in enumerate(echoes)
        ]
        return await respond_all(http, streams, OpenAIChoices(answers, n), asked, settings.ping_seconds)

    @routes.post("/v1/completion", response_model=None, include_in_schema=False)
    @routes.post("/completions", response_model=None, include_in_schema=False)
    @routes.post(
        "/completion",
        response_model=None,
        responses=answers(NativeCompletion | list[NativeCompletion], streamed=True),
        openapi_extra=openapi_body(NativeRequest),
    )
    async def native(http: Request) -> Response:
        """A text continued as it stands, in llama-server's own form, whole or as server-sent events."""
        asked = read(NativeRequest, await read_json(http, settings.max_body_bytes))
        llm = await service.llm(http, asked.model)
        params = service.sampling(asked)
        n, prompts = asked.n or 1, await asyncio.to_thread(as_prompts, llm, asked.prompt)
        service.count(http, n * len(prompts), "n" if n > 1 else "prompt")
        starts = [partial(continue_text, prompt, asked.constraints.text) for prompt in prompts]
        streams = await asyncio.to_thread(start_all, llm, starts, params, n)
        texts = [_text(llm, prompt) for prompt in prompts for _ in range(n)]
        request = {"model": service.name(llm), "generation_settings": whole_settings(params)}
        answers = [
            NativeAnswer(
                {**request, "prompt": text},
                index,
                n_probs=bool(asked.n_probs),
                return_tokens=bool(asked.return_tokens),
                progress=partial(getattr, stream, "timings"),
                n_prompt=stream.prompt_tokens,
                fields=asked.response_fields or (),
            )
            for index, (stream, text) in enumerate(zip(streams, texts, strict=True))
        ]
        return await respond_all(http, streams, NativeChoices(answers), asked, settings.ping_seconds)

    return routes


def _text(llm: LLM, prompt: str | list[int]) -> str:
    return prompt if isinstance(prompt, str) else llm.detokenize(prompt)

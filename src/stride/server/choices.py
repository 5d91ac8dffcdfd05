"""Several continuations of one request: the same prompt, other random numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from stride.api import LLM
from stride.chat.constraints import TextFormat
from stride.stream import Stream
from stride.types import SamplingParams


def start_all(
    llm: LLM, starts: Iterable[Callable[[LLM, SamplingParams], Stream]], params: SamplingParams, n: int
) -> list[Stream]:
    """``n`` streams of each start, in this order; all of them, or none. A seed is the first one's, and counts up.

    Those of one start compute their prompt once.

    Raises:
        StrideError: one of them was refused.
    """
    streams: list[Stream] = []
    try:
        for start in starts:
            together = llm.grouped() if n > 1 else llm
            for i in range(n):
                seed = None if params.seed is None else params.seed + i
                streams.append(start(together, replace(params, seed=seed)))
    except BaseException:
        for stream in streams:
            stream.cancel()
        raise
    return streams


def as_prompts(llm: LLM, given: Iterable[str | list[int | str]]) -> list[str | list[int]]:
    """What may be continued: texts, and token ids, in which texts between ids have become their tokens."""
    return [prompt if isinstance(prompt, str) else _ids(llm, prompt) for prompt in given]


def _ids(llm: LLM, parts: list[int | str]) -> list[int]:
    ids: list[int] = []
    for index, part in enumerate(parts):
        if isinstance(part, int):
            ids.append(part)
        else:
            ids += llm.tokenizer.encode(part, special=True) if index else llm.tokenize(part)
    return ids


def continue_text(
    prompt: str | list[int],
    text_format: TextFormat | None,
    llm: LLM,
    params: SamplingParams,
    *,
    prompt_logprobs: bool = False,
) -> Stream:
    """The start of a plain completion."""
    return llm.stream(prompt, params, text_format, prompt_logprobs=prompt_logprobs)

"""Server-sent events: framing, and a comment whenever there has been silence for long."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, TypeVar

T = TypeVar("T")

PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"
MEDIA_TYPE = "text/event-stream"
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def frame(value: dict[str, Any]) -> bytes:
    """One event."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def with_silences(items: AsyncIterable[T], seconds: float) -> AsyncIterator[T | None]:
    """The items, and None each time that none came for so many seconds."""
    iterator = aiter(items)

    async def step() -> T:
        return await anext(iterator)

    pending = asyncio.create_task(step())
    try:
        while True:
            done, _ = await asyncio.wait({pending}, timeout=seconds)
            if not done:
                yield None
                continue
            try:
                item = pending.result()
            except StopAsyncIteration:
                return
            pending = asyncio.create_task(step())
            yield item
    finally:
        pending.cancel()

"""Events on the wire."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from stride.server import sse


def test_a_frame_is_one_line():
    frame = sse.frame({"text": "a\n\nb  ü"})
    assert frame.startswith(b"data: {")
    assert frame.endswith(b"}\n\n")
    assert frame.count(b"\n") == 2
    assert json.loads(frame.removeprefix(b"data: ")) == {"text": "a\n\nb  ü"}


def test_silences_stand_between_items_and_lose_none():
    async def items() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(0.12)
        yield 2
        yield 3

    async def run() -> list[int | None]:
        return [item async for item in sse.with_silences(items(), 0.05)]

    assert asyncio.run(run()) == [1, None, None, 2, 3]


def test_errors_pass_through():
    async def items() -> AsyncIterator[int]:
        yield 1
        raise ZeroDivisionError

    async def run() -> None:
        async for item in sse.with_silences(items(), 1):
            assert item == 1

    with pytest.raises(ZeroDivisionError):
        asyncio.run(run())


def test_leaving_early_ends_the_source():
    ended = []

    async def items() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    async def run() -> None:
        feed = sse.with_silences(items(), 0.01)
        assert [await anext(feed), await anext(feed)] == [1, None]
        await feed.aclose()
        await asyncio.sleep(0.01)

    asyncio.run(run())
    assert ended == [True]

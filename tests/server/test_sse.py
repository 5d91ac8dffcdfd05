"""Streams on the wire: frames, and a response that ends whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from stride.server import sse
from stride.server.observe import SEND


def test_a_frame_is_one_line():
    frame = sse.frame({"text": "a\n\nb  ü"})
    assert frame.startswith(b"data: {")
    assert frame.endswith(b"}\n\n")
    assert frame.count(b"\n") == 2
    assert json.loads(frame.removeprefix(b"data: ")) == {"text": "a\n\nb  ü"}


def test_a_number_that_json_has_not_is_null():
    assert sse.frame({"logprob": float("-inf"), "rate": float("nan")}) == b'data: {"logprob":null,"rate":null}\n\n'


LINE_ENDS = [char for char in map(chr, range(0x3000)) if len(f"a{char}b".splitlines()) > 1]


@pytest.mark.parametrize("char", LINE_ENDS)
def test_no_text_ends_a_line_of_any_client(char):
    frame = sse.frame({"text": f"a{char}b"})
    assert frame.decode().splitlines() == [frame.decode().strip("\n"), ""]
    assert json.loads(frame.removeprefix(b"data: ")) == {"text": f"a{char}b"}


def test_json_goes_out_as_it_was_written():
    huge = "1" * 5000
    texts = [sse.JsonText(f'{{"a": {huge},\n\t"b": [1e999, 0.10]}}'), sse.JsonText('"\u2028"')]
    assert sse.to_json([0, {"call": texts[0]}, texts[1]]).decode() == (
        f'[0,{{"call":{{"a": {huge},  "b": [1e999, 0.10]}}}},"\\u2028"]'
    )


def test_what_has_no_json_is_an_error():
    with pytest.raises(ValueError, match="object has no JSON"):
        sse.to_json({"a": object()})


def sent(data: AsyncIterator[bytes], fail_at: int = -1):
    """What a response sends, and whether it closed; the connection fails at a message."""
    messages = []
    closed = []

    async def send(message):
        if len(messages) == fail_at:
            raise OSError("gone")
        messages.append(message)

    response = sse.StreamedResponse(data, "text/event-stream", lambda: closed.append(True))
    with contextlib.suppress(OSError):
        asyncio.run(response({"type": "http"}, None, send))
    return messages, closed


async def two() -> AsyncIterator[bytes]:
    yield b"a"
    yield b"b"


def test_data_goes_out_as_it_comes():
    (start, *bodies), closed = sent(two())
    headers = dict(start["headers"])
    assert headers[b"content-type"].startswith(b"text/event-stream")
    assert headers[b"cache-control"] == b"no-cache"
    assert b"content-length" not in headers
    assert [(body["body"], body["more_body"]) for body in bodies] == [(b"a", True), (b"b", True), (b"", False)]
    assert closed == [True]


def test_bodies_take_the_short_way_out():
    ways = []

    async def through_middleware(message):
        ways.append(("all", message["type"]))

    async def straight(message):
        ways.append(("straight", message["type"]))

    response = sse.StreamedResponse(two(), "text/event-stream", lambda: None)
    asyncio.run(response({"type": "http", SEND: straight}, None, through_middleware))
    assert ways == [("all", "http.response.start"), *[("straight", "http.response.body")] * 3]


@pytest.mark.parametrize("fail_at", [0, 1, 2, 3])
def test_it_closes_where_the_connection_fails(fail_at):
    messages, closed = sent(two(), fail_at)
    assert (len(messages), closed) == (fail_at, [True])


def test_it_closes_where_the_data_fail():
    async def failing() -> AsyncIterator[bytes]:
        yield b"a"
        raise OSError("broken")

    assert sent(failing())[1] == [True]

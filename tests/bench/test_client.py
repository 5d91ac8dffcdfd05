"""The streaming client: times of arrival, counts from usage, every way a stream can be cut or fail."""

from __future__ import annotations

import json

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stride.bench.client import EventParser, Recorder, ask, ask_whole


def event(payload: object, end: str = "\n") -> bytes:
    return f"data: {json.dumps(payload)}{end}{end}".encode()


def delta(finish: str | None = None, **fields: object) -> bytes:
    return event({"choices": [{"delta": fields, "finish_reason": finish}]})


USAGE = event({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 21}})
DONE = b"data: [DONE]\n\n"


def record(*arrivals: tuple[float, bytes], sent: float = 100.0):
    recorder = Recorder(sent)
    for at, chunk in arrivals:
        recorder.feed(sent + at, chunk)
    return recorder.reply(sent + arrivals[-1][0] + 0.5)


def test_times_are_those_of_arrival():
    reply = record(
        (0.1, b": ping\n\n"),
        (0.2, delta(role="assistant", content=None)),
        (0.5, delta(reasoning_content="Hm", reasoning="Hm")),
        (0.7, delta(content="Yes")),
        (1.0, delta(content=".") + delta(content="!")),
        (1.1, delta("stop")),
        (1.5, USAGE),
        (1.6, DONE),
    )
    times = reply.times
    assert times.first_byte == pytest.approx(0.1)
    assert times.first_token == pytest.approx(0.5)
    assert times.first_answer == pytest.approx(0.7)
    assert times.last_token == pytest.approx(1.1)
    assert times.end == pytest.approx(2.1)
    assert reply.error is None
    assert (reply.answer.reasoning, reply.answer.content, reply.answer.finish_reason) == ("Hm", "Yes.!", "stop")
    assert reply.usage == {"prompt_tokens": 9, "completion_tokens": 21}


def test_a_role_alone_is_no_token():
    reply = record((0.2, delta(role="assistant", content="")), (0.3, delta("stop")), (0.4, DONE))
    assert reply.times.first_token is None


def test_tool_call_pieces_are_joined_by_index_and_count_as_tokens():
    def piece(index: int | None, **function: str) -> bytes:
        call: dict[str, object] = {"function": function}
        return delta(tool_calls=[call if index is None else call | {"index": index}])

    reply = record(
        (0.3, piece(0, name="f", arguments="")),
        (0.4, piece(0, arguments='{"a"')),
        (0.5, piece(1, name="g", arguments="{}")),
        (0.6, piece(0, arguments=": 1}")),
        (0.7, delta("tool_calls") + DONE),
    )
    assert [(call.name, call.arguments) for call in reply.answer.tool_calls] == [("f", '{"a": 1}'), ("g", "{}")]
    assert reply.times.first_token == reply.times.first_answer == pytest.approx(0.3)


def test_whole_calls_without_index_stay_apart():
    calls = [{"function": {"name": "f", "arguments": {"a": 1}}}, {"function": {"name": "f", "arguments": "{}"}}]
    reply = record((0.1, delta(tool_calls=calls)), (0.2, delta("tool_calls") + DONE))
    assert [call.arguments for call in reply.answer.tool_calls] == ['{"a": 1}', "{}"]


@pytest.mark.parametrize(
    ("chunk", "reason"),
    [
        (delta(content="a") + event({"error": {"message": "out of memory"}}), "out of memory"),
        (delta(content="a") + b"data: {broken\n\n", "no completion chunk"),
        (delta(content="a") + b"data: [1]\n\n", "no completion chunk"),
        (event({"choices": ["text"]}), "no completion chunk"),
        (delta(content="a"), "ended before the answer did"),
    ],
)
def test_a_bad_stream_is_a_failed_reply(chunk, reason):
    reply = record((0.1, chunk))
    assert reason in (reply.error or "")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_events_do_not_depend_on_cuts_or_line_ends(data):
    wanted = data.draw(st.lists(st.sampled_from(['{"a": 1}', '{"é": "ß日"}', "[DONE]", '{"a":\n1}']), max_size=6))
    stream = b""
    for text in wanted:
        end = data.draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
        if data.draw(st.booleans()):
            stream += b": ping" + end + end
        stream += b"".join(b"data: " + line.encode() + end for line in text.split("\n")) + end
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    parser = EventParser()
    found = [e for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True) for e in parser.feed(stream[a:b])]
    assert found == wanted


def test_over_http(stand):
    stand.answer = lambda body: [
        0.05, b": ping\r\n\r\ndata: {\"choices\": [{\"del", b"ta\": {\"content\": \"He\"}}]}\r\n\r\n",
        0.10, delta(content="llo"), delta("stop"), USAGE, DONE,
    ]  # fmt: skip
    with httpx.Client() as http:
        reply = ask(http, f"{stand.url}/v1/chat/completions", {"messages": []})
    assert reply.error is None
    assert reply.answer.content == "Hello"
    assert reply.times.first_token is not None
    assert reply.times.last_token is not None
    assert 0.05 <= reply.times.first_token < reply.times.last_token - 0.09
    assert stand.requests == [{"messages": []}]


def test_http_errors_and_absent_servers_are_named(stand):
    stand.answer = lambda body: 429
    with httpx.Client() as http:
        assert ask(http, f"{stand.url}/v1/chat/completions", {}).error == "HTTP 429: as the test wants"
        gone = ask(http, "http://127.0.0.1:9/v1/chat/completions", {})
    assert gone.error is not None
    assert gone.error.startswith("ConnectError")
    assert gone.times.first_byte is None


def test_an_answer_in_one_piece(stand):
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    message = {"role": "assistant", "content": "Hi", "reasoning_content": "Hm", "tool_calls": [call]}
    whole = {"choices": [{"message": message, "finish_reason": "tool_calls"}], "usage": {"completion_tokens": 3}}
    stand.answer = lambda body: [json.dumps(whole).encode()]
    with httpx.Client() as http:
        reply = ask_whole(http, f"{stand.url}/v1/chat/completions", {"stream": False})
    assert reply.error is None
    assert (reply.answer.content, reply.answer.reasoning, reply.answer.finish_reason) == ("Hi", "Hm", "tool_calls")
    assert [(made.id, made.name, made.arguments) for made in reply.answer.tool_calls] == [("1", "f", '{"a": 1}')]
    assert reply.usage == {"completion_tokens": 3}
    assert len(reply.arrivals) == 1
    assert reply.times.first_byte is not None


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"[]", "no completion"),
        (b"{broken", "no completion"),
        (b'{"choices": [{"text": "Hi"}]}', "no completion"),
        (b"\xff\xfe\xfd", "no completion"),
        (b'{"error": {"message": "out of memory"}}', "out of memory"),
        (b'{"choices": []}', "ended before the answer did"),
        (503, "HTTP 503: as the test wants"),
    ],
)
def test_a_bad_answer_in_one_piece(stand, body, reason):
    stand.answer = lambda asked: body if isinstance(body, int) else [body]
    with httpx.Client() as http:
        assert reason in (ask_whole(http, f"{stand.url}/v1/chat/completions", {}).error or "")
        assert "ConnectError" in (ask_whole(http, "http://127.0.0.1:9/", {}).error or "")


@pytest.mark.parametrize("asks", [ask, ask_whole])
def test_no_connection_is_used_twice(asks):
    seen = []

    def serve(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["connection"])
        return httpx.Response(503)

    with httpx.Client(transport=httpx.MockTransport(serve)) as http:
        asks(http, "http://test/", {})
    assert seen == ["close"]


def test_halves_of_a_character_are_joined_or_replaced(wire):
    """JSON may hold them, and nothing can be written with them."""
    first = b'data: {"choices": [{"delta": {"content": "a\\ud83d"}}]}\n\n'
    second = b'data: {"choices": [{"delta": {"content": "\\ude00 \\ud800b"}, "finish_reason": "stop"}]}\n\n'
    reply = record((0.1, first), (0.2, second), (0.3, wire.usage(3, 4, kind="\ud800")))
    assert reply.answer.content == "a😀 \ufffdb"
    str(reply).encode()


@pytest.mark.parametrize(
    "chunk",
    [
        {"usage": 5},
        {"timings": [1]},
        {"choices": [{"delta": {"content": [1]}}]},
        {"choices": [{"delta": {"reasoning": 5}}]},
        {"choices": [{"delta": {}, "finish_reason": {"a": 1}}]},
        {"choices": [{"delta": {"tool_calls": [{"id": 5, "function": {}}]}}]},
        {"choices": [{"delta": {"tool_calls": [{"function": {"name": 5}}]}}]},
        {"choices": 5},
        {"choices": [5]},
        [],
    ],
)
def test_what_is_no_chunk_is_the_replys_error(wire, chunk):
    reply = record((0.1, wire.event(chunk)), (0.2, wire.delta("stop", content="x")))
    assert "no completion chunk" in reply.error

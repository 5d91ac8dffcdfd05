"""Request ids, the log, and that neither tells what was said."""

from __future__ import annotations

import json
import logging

import pytest

from stride.errors import GenerationError
from stride.server.observe import REQUEST_ID, JsonLines, TextLines
from stride.types import ContentDelta, Finish, Timings, Usage

FINISH = Finish("stop", Usage(7, 3, 2, 0), Timings(prompt_n=7, prompt_ms=70.0, predicted_n=3, predicted_ms=40.0))


@pytest.fixture
def lines(caplog):
    """What was logged, each line parsed from JSON."""
    caplog.set_level(logging.INFO, "stride.requests")
    formatter = JsonLines()
    return lambda: [
        json.loads(formatter.format(record)) for record in caplog.records if record.name.startswith("stride")
    ]


def test_each_response_has_an_id_of_its_own(scripted):
    client, _ = scripted()
    ids = {client.get("/health").headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3
    assert client.get("/nowhere").headers["x-request-id"]


@pytest.mark.parametrize("given", ["abc-123", "7f1d:9!", "x" * 128])
def test_a_clients_id_is_kept(scripted, given):
    client, _ = scripted()
    answer = client.get("/health", headers={"x-request-id": given})
    assert answer.headers["x-request-id"] == answer.headers["request-id"] == given


@pytest.mark.parametrize("given", ["", "two words", "x" * 129, "\xff", "tab\there"])
def test_an_id_that_is_none_is_replaced(scripted, given):
    client, _ = scripted()
    answer = client.get("/health", headers=[(b"x-request-id", given.encode("latin-1"))])
    assert len(answer.headers["x-request-id"]) == 32


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_one_line_without_its_text(scripted, lines, stream):
    client, _ = scripted(ContentDelta("my answer"), FINISH)
    headers = {"x-request-id": "abc"}
    body = {"messages": [{"role": "user", "content": "my secret"}], "n": 2, "stream": stream}
    assert client.post("/v1/chat/completions", json=body, headers=headers).status_code == 200
    (line,) = lines()
    assert line.pop("time").endswith("Z")
    assert line.pop("ms") >= 0
    assert line == {
        "level": "info",
        "logger": "stride.requests",
        "message": "request",
        "request_id": "abc",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "choices": 2,
        "prompt_tokens": 14,
        "cached_tokens": 4,
        "completion_tokens": 6,
        "prompt_ms": 140.0,
        "predicted_ms": 80.0,
        "finish_reason": "stop",
    }


def test_refused_and_failed_requests_are_lines_too(scripted, lines):
    client, _ = scripted(GenerationError("NaN logits"))
    client.ask()
    client.ask(temperature="my secret")
    client.get("/my/secret/path")
    logged = lines()
    assert [(line["path"], line["status"]) for line in logged] == [
        ("/v1/chat/completions", 500),
        ("/v1/chat/completions", 400),
        ("none", 404),
    ]
    assert "secret" not in json.dumps(logged)


def test_what_nobody_foresaw_is_told_like_any_other_error(demo, lines):
    demo.app.add_api_route("/broken", lambda: 1 / 0)
    response = demo.get("/broken", headers={"Origin": "http://localhost:8000", REQUEST_ID: "mine"})
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert response.headers[REQUEST_ID] == "mine"
    assert response.headers["access-control-allow-origin"] == "http://localhost:8000"
    failed, told = lines()
    assert "ZeroDivisionError" in failed["exception"]
    assert (told["path"], told["status"]) == ("/broken", 500)
    assert 'status="500"' in demo.get("/metrics").text


def test_clients_make_up_no_labels(demo):
    for method in ("BREW", "WHEN", "get"):
        demo.request(method, "/health")
    for prefix in ("", "/v1"):
        demo.get(f"{prefix}/responses/input_items/input_items")
        demo.get(f"{prefix}/responses/mine")
    text = demo.get("/metrics").text
    for label in ("BREW", "WHEN", "mine", "/input_items/"):
        assert label not in text
    assert 'method="other",path="/health"' in text
    for path in ("/responses/{response_id}", "/responses/{response_id}/input_items"):
        assert f'path="{path}"' in text
        assert f'path="/v1{path}"' in text


def test_lines_have_what_went_wrong():
    try:
        raise ValueError("broken")
    except ValueError as error:
        record = logging.LogRecord(
            "stride.x", logging.ERROR, "f.py", 1, "%s failed", ("it",), (type(error), error, None)
        )
    record.__dict__["request_id"] = "abc"
    line = json.loads(JsonLines().format(record))
    assert (line["level"], line["message"], line["request_id"]) == ("error", "it failed", "abc")
    assert "ValueError: broken" in line["exception"]
    assert "ERROR stride.x: it failed request_id=abc" in TextLines().format(record)


def test_what_uvicorn_colours_is_told_once():
    record = logging.LogRecord("uvicorn.error", logging.INFO, "f", 1, "Started %d", (5,), None)
    record.color_message = "Started [%d]"
    assert "color" not in TextLines().format(record)
    assert "color_message" not in json.loads(JsonLines().format(record))

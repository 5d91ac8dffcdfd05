"""What the server was started with, in every dialect."""

from __future__ import annotations

import pytest

from stride.server import Settings
from stride.server.schema import ChatRequest, read
from stride.server.service import Service

TURNS = [{"role": "user", "content": "Hi"}]
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
RESPONSES, OLLAMA, GENERATE = "/v1/responses", "/api/chat", "/api/generate"
BODIES = {
    CHAT: {"messages": TURNS},
    MESSAGES: {"messages": TURNS, "max_tokens": 9},
    RESPONSES: {"input": "Hi"},
    OLLAMA: {"messages": TURNS, "stream": False},
    GENERATE: {"prompt": "Hi", "stream": False},
}
LOW = {
    CHAT: {"reasoning_effort": "low"},
    MESSAGES: {"output_config": {"effort": "low"}},
    RESPONSES: {"reasoning": {"effort": "low"}},
    OLLAMA: {"think": "low"},
    GENERATE: {"think": "low"},
}


@pytest.mark.parametrize("path", BODIES)
def test_no_request_thinks_longer_than_the_server_lets_it(scripted, path):
    client, model = scripted(reasoning_budget=9)
    for effort in ({}, LOW[path]):
        assert client.post(path, json={**BODIES[path], **effort}).status_code == 200
        assert model.asked[-1][4].reasoning_budget == 9


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"reasoning_budget": -1}, 9),
        ({"reasoning_budget": 10}, 9),
        ({"reasoning_budget": 8}, 8),
        ({"reasoning_budget_tokens": 7}, 7),
        ({"thinking_budget_tokens": 6}, 6),
        ({"thinking": {"type": "disabled"}}, 0),
    ],
)
def test_the_smaller_budget_counts(scripted, fields, expected):
    client, model = scripted(reasoning_budget=9)
    assert client.ask(**fields).status_code == 200
    assert model.asked[-1][4].reasoning_budget == expected


@pytest.mark.parametrize("path", BODIES)
def test_a_requests_effort_is_over_the_servers_variables(scripted, path):
    client, model = scripted(template_kwargs={"reasoning_effort": "high", "a": 1})
    client.post(path, json={**BODIES[path], **LOW[path]})
    assert model.asked[-1][3] == {"reasoning_effort": "low", "a": 1}
    client.post(path, json=BODIES[path])
    assert model.asked[-1][3] == {"reasoning_effort": "high", "a": 1}


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
def test_a_requests_own_variables_are_over_its_effort(scripted, path):
    client, model = scripted(template_kwargs={"a": 1, "b": 1})
    own = {"chat_template_kwargs": {"reasoning_effort": "max", "b": 2}}
    assert client.post(path, json={**BODIES[path], **LOW[path], **own}).status_code == 200
    assert model.asked[-1][3] == {"reasoning_effort": "max", "a": 1, "b": 2}
    response = client.post(path, json={**BODIES[path], "chat_template_kwargs": {"messages": []}})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "chat_template_kwargs"


def test_how_a_prompt_ends_may_be_said_beside_the_variables(scripted):
    client, model = scripted()
    client.ask(add_generation_prompt=False, continue_final_message=True)
    assert model.asked[-1][3] == {"add_generation_prompt": False, "continue_final_message": True}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"functions": [{"name": "f"}]}),
        (CHAT, {"function_call": {"name": "f"}}),
        (CHAT, {"reasoning_format": "none"}),
        (RESPONSES, {"truncation": "auto"}),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(scripted, path, fields):
    client, model = scripted()
    response = client.post(path, json={**BODIES[path], **fields})
    assert response.status_code == 501
    assert response.json()["error"]["param"] in fields
    assert model.asked == []


@pytest.mark.parametrize("fields", [{"functions": [], "function_call": "auto"}, {"reasoning_format": "deepseek"}])
def test_what_asks_for_nothing_else_is_served(scripted, fields):
    client, _ = scripted()
    assert client.ask(**fields).status_code == 200


def test_sampling_of_a_request_is_over_the_servers():
    service = Service(None, Settings(sampling={"temperature": 0.5, "top_k": 7}))  # type: ignore[arg-type]
    asked = read(ChatRequest, {"messages": TURNS, "temperature": 0.25})
    assert (service.sampling(asked).temperature, service.sampling(asked).top_k) == (0.25, 7)

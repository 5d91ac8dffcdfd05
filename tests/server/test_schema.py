"""What requests may hold: whatever is wrong with them, one error, soon, that names the place."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from stride.errors import RequestError
from stride.server import Settings
from stride.server.anthropic.request import MessagesRequest
from stride.server.embeddings import EmbeddingsRequest
from stride.server.ollama.request import OllamaChatRequest
from stride.server.responses.request import ResponsesRequest
from stride.server.schema import ChatRequest, CompletionRequest, DetokenizeRequest, Schema, read
from stride.server.service import Service

HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}


def subclasses(schema: type[Schema]) -> Iterator[type[Schema]]:
    for each in schema.__subclasses__():
        yield each
        yield from subclasses(each)


def lists(core: Any) -> Iterator[dict[str, Any]]:
    """The lists in a schema of pydantic's core."""
    if isinstance(core, dict):
        if core.get("type") == "list":
            yield core
        for name, part in core.items():
            if name != "json_schema_input_schema":  # which is for the documents alone
                yield from lists(part)
    elif isinstance(core, list | tuple):
        for part in core:
            yield from lists(part)


@pytest.mark.parametrize("schema", sorted(set(subclasses(Schema)), key=str), ids=lambda schema: schema.__name__)
def test_every_list_ends_at_its_first_error(schema):
    assert all(each.get("fail_fast") for each in lists(schema.__pydantic_core_schema__))


@pytest.mark.parametrize(
    ("schema", "body"),
    [
        (ChatRequest, {"messages": [1] * 100_000}),
        (ChatRequest, {**HELLO, "tools": [1] * 100_000}),
        (ChatRequest, {**HELLO, "logit_bias": {str(i): "x" for i in range(100_000)}}),
        (ChatRequest, {**HELLO, "logit_bias": [[i, "x"] for i in range(100_000)]}),
        (CompletionRequest, {"prompt": [0.5] * 100_000}),
        (CompletionRequest, {"prompt": [[0.5] * 100_000]}),
        (DetokenizeRequest, {"tokens": [0.5] * 100_000}),
        (EmbeddingsRequest, {"input": [0.5] * 100_000}),
        (MessagesRequest, {"max_tokens": 1, "messages": [{}] * 100_000}),
        (MessagesRequest, {"max_tokens": 1, "messages": [{"role": "user", "content": [1] * 100_000}]}),
        (OllamaChatRequest, {"messages": [{}] * 100_000}),
        (OllamaChatRequest, {"messages": [{"role": "user", "tool_calls": [1] * 100_000}]}),
        (ResponsesRequest, {"input": [1] * 100_000}),
    ],
)
def test_many_errors_take_no_memory(schema, body):
    with pytest.raises(ValidationError) as caught:
        schema.model_validate(body)
    assert caught.value.error_count() <= 4
    tracemalloc.start()
    with pytest.raises(RequestError):
        read(schema, body)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize(
    ("schema", "body", "field"),
    [
        (ChatRequest, {**HELLO, "temperature": "hot"}, "temperature"),
        (ChatRequest, {**HELLO, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        (ChatRequest, {**HELLO, "stop": ["a", 1]}, "stop[1]"),
        (ChatRequest, {}, "messages"),
        (ChatRequest, {"messages": [{}, 1]}, "messages[1]"),
        (CompletionRequest, {"prompt": ["a", [1, True]]}, "prompt[1][1]"),
        (OllamaChatRequest, {"options": {"temperature": "hot"}}, "options.temperature"),
        (OllamaChatRequest, {"messages": [{"role": "user"}, {"content": "Hi"}]}, "messages[1].role"),
        (MessagesRequest, {**HELLO, "max_tokens": 1, "tool_choice": {"type": "x"}}, "tool_choice.type"),
        (MessagesRequest, {"max_tokens": 1, "messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
        (
            ResponsesRequest,
            {"input": "Hi", "text": {"format": {"type": "json_schema", "schema": 1}}},
            "text.format.schema",
        ),
    ],
)
def test_an_error_names_the_place(schema, body, field):
    with pytest.raises(RequestError) as caught:
        read(schema, body)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("schema", "body", "field"),
    [
        (ChatRequest, {**HELLO, "max_completion_tokens": -5}, "max_completion_tokens"),
        (ChatRequest, {**HELLO, "n_predict": -5}, "n_predict"),
        (ChatRequest, {**HELLO, "max_tokens": -5}, "max_tokens"),
        (ChatRequest, {**HELLO, "stop": [""]}, "stop"),
        (OllamaChatRequest, {"options": {"stop": [""]}}, "options.stop"),
        (OllamaChatRequest, {"options": {"temperature": -1.0}}, "options.temperature"),
        (MessagesRequest, {**HELLO, "max_tokens": 1, "stop_sequences": [""]}, "stop_sequences"),
        (ResponsesRequest, {"input": "Hi", "top_p": 5.0}, "top_p"),
    ],
)
def test_sampling_is_refused_by_the_clients_names(schema, body, field):
    service = Service(None, Settings())  # type: ignore[arg-type]
    with pytest.raises(RequestError) as caught:
        service.sampling(read(schema, body))
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field} ")


@pytest.mark.parametrize("field", ["model", "tool_choice", "messages", "reasoning_effort", "tools"])
def test_errors_do_not_repeat_a_megabyte(demo, field):
    long = "x" * (1 << 20)
    values = {
        "tool_choice": {"type": long},
        "messages": [{"role": long, "content": "Hi"}],
        "tools": [{"type": "function", "function": {"name": long, "parameters": []}}],
    }
    response = demo.ask(**{field: values.get(field, long), "max_tokens": 1})
    assert len(response.content) < 1000

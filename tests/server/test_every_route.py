"""What every route that reads a body does with one that makes no sense: the routes are asked of the application."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

WHOLE = {
    "messages": [{"role": "user", "content": "x"}],
    "prompt": "x",
    "input": "x",
    "content": "x",
    "tokens": [1],
    "max_tokens": 4,
}
"""Values of the fields that some route wants."""
OTHER = {"string": "of no sense", "number": 1.5, "boolean": True, "array": [[[]]], "object": {"of": "no sense"}}
"""A value of each type of JSON."""
SIGNED = {"presence_penalty", "frequency_penalty", "adaptive_target", "keep_alive"}
"""Numbers that may be as small as they like."""


@pytest.fixture
def asked(scripted):
    """``asked(requests)``: the answers to (path, body) requests; none of them reached the model."""
    client, model = scripted()

    async def post(requests: list[tuple[str, bytes]]) -> list[httpx.Response]:
        transport = httpx.ASGITransport(client.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as poster:
            return [await poster.post(path, content=body) for path, body in requests]

    def ask(requests: list[tuple[str, bytes]]) -> list[httpx.Response]:
        answers = asyncio.run(post(requests))
        assert model.asked == []
        return answers

    ask.document = client.app.openapi()
    return ask


def schemas(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The schema of each route's body, by its path."""
    definitions = document["components"]["schemas"]
    return {
        path: resolved(routes["post"]["requestBody"]["content"]["application/json"]["schema"], definitions)
        for path, routes in document["paths"].items()
        if "requestBody" in routes.get("post", {})
    }


def resolved(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    return definitions[schema["$ref"].rsplit("/")[-1]] if "$ref" in schema else schema


BODIES = (
    b"",
    b"{",
    b"5",
    b"[]",
    b"\xff\xfe",
    b'{"a": "\x00"}',
    b'{"a": "\\u0000"}',
    b'{"a": "\\ud800"}',
    b'{"a": NaN}',
    b'{"a": -Infinity}',
    b'{"a": 1e999}',
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"[" * 100_000 + b"]" * 100_000,
)


def test_bodies_that_are_no_json_or_too_deep(asked):
    requests = [(path, body) for path in schemas(asked.document) for body in BODIES]
    assert len(requests) > 10 * len(BODIES)
    for (path, body), answer in zip(requests, asked(requests), strict=True):
        assert answer.status_code == 400, (path, body[:40], answer.text)
        assert answer.json()["error"], path


def types(schema: dict[str, Any], definitions: dict[str, Any]) -> set[str]:
    """The types of JSON that a schema allows; none where it says nothing of them."""
    schema = resolved(schema, definitions)
    if "anyOf" in schema:
        each = [types(option, definitions) for option in schema["anyOf"]]
        return set().union(*each) if all(each) else set()
    return {schema["type"]} if "type" in schema else set()


def wrong_values(schema: dict[str, Any], definitions: dict[str, Any], name: str) -> Iterator[Any]:
    allowed = types(schema, definitions)
    if not allowed:
        return
    if "integer" in allowed and "number" not in allowed:
        yield from (1.5, 2**63, -(2**63), -(2**40))
    elif "number" in allowed and name not in SIGNED:
        yield -1e300
    known = allowed | ({"number"} if "integer" in allowed else set())
    yield from (value for kind, value in OTHER.items() if kind not in known)


def wrong_fields(schema: dict[str, Any], definitions: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each field with values that it must not have, and those of the objects in it."""
    for name, field in schema["properties"].items():
        yield from ((name, value) for value in wrong_values(field, definitions, name))
        for option in field.get("anyOf", [field]):
            for key, each in resolved(option, definitions).get("properties", {}).items():
                yield from ((name, {key: value}) for value in wrong_values(each, definitions, key))


def test_values_of_wrong_types_and_beyond_all_bounds_are_named(asked):
    requests = []
    for path, schema in schemas(asked.document).items():
        whole = {name: value for name, value in WHOLE.items() if name in schema["properties"]}
        if path.startswith("/v1/responses"):
            del whole["prompt"]  # the name of a stored one
        for name, value in wrong_fields(schema, asked.document["components"]["schemas"]):
            if path.startswith("/api/embed") and isinstance(value, dict) and -1e300 in value.values():
                continue  # embeddings are not sampled
            requests.append((path, name, value, json.dumps({**whole, name: value}).encode()))
    assert len(requests) > 500
    answers = asked([(path, body) for path, _, _, body in requests])
    for (path, name, value, _), answer in zip(requests, answers, strict=True):
        assert answer.status_code == 400, (path, name, value, answer.text)
        inner = next(iter(value), "") if isinstance(value, dict) else name
        assert name in answer.text or inner in answer.text, (path, name, value, answer.text)

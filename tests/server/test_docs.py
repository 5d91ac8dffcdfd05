"""The OpenAPI document, and its page without a network."""

from __future__ import annotations

import json
import re

import pytest
from jsonschema import Draft202012Validator


@pytest.fixture
def document(scripted):
    client, _ = scripted()
    return client.get("/openapi.json").json()


def test_every_reference_leads_somewhere(document):
    schemas = document["components"]["schemas"]
    references = set(re.findall(r'"\$ref": "(.*?)"', json.dumps(document)))
    assert {f"#/components/schemas/{name}" for name in schemas} >= references
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"messages", "tools", "temperature", "top_logprobs", "n"}),
        ("/v1/completions", {"prompt", "echo", "logprobs"}),
        ("/completion", {"prompt", "n_probs", "dry_multiplier", "xtc_probability", "mirostat"}),
        ("/v1/tokenize", {"content", "add_special", "with_pieces"}),
        ("/v1/detokenize", {"tokens"}),
        ("/v1/apply-template", {"messages"}),
        ("/v1/responses", {"input", "previous_response_id", "text"}),
        ("/v1/messages", {"messages", "max_tokens", "thinking"}),
        ("/v1/messages/count_tokens", {"messages", "system"}),
        ("/v1/embeddings", {"input", "encoding_format", "dimensions"}),
        ("/embedding", {"content", "embd_normalize"}),
        ("/api/embed", {"input", "truncate"}),
        ("/api/embeddings", {"prompt"}),
        ("/api/chat", {"messages", "options", "think"}),
        ("/api/generate", {"prompt", "raw"}),
    ],
)
def test_bodies_are_described(document, path, fields):
    body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    schema = document["components"]["schemas"][body["$ref"].rpartition("/")[2]]
    assert fields <= set(schema["properties"])


def test_the_page_shows_all_routes_and_loads_nothing(scripted, document):
    client, _ = scripted()
    page = client.get("/docs").text
    for path in document["paths"]:
        assert path in page
    assert "top_logprobs" in page
    assert "<script" not in page
    assert not re.findall(r'(?:src|href)="(?!/openapi\.json)', page)
    assert client.get("/redoc").status_code == 404

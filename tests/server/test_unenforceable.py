"""Formats, grammars and tools that cannot be enforced: refused soon, and never answered with free text."""

from __future__ import annotations

import json
import re
import socket
import time

import httpx
import pytest

from stride.chat.grammar import BYTES_OF_GRAMMAR
from stride.engine import Finished, Token
from stride.types import Timings, Usage

HELLO = [{"role": "user", "content": "x"}]
CPU_SECONDS = 1.0
"""For a refusal; of this process, so that a busy machine does no harm. They take a tenth of that."""


def nested(before: str, inside: str, after: str, depth: int) -> str:
    return before * depth + inside + after * depth


def references(*, between: int = 0, n: int = 20_000) -> dict[str, object]:
    """A schema that is a long chain of definitions, with so many arrays between two of them."""
    definitions: dict[str, object] = {"d0": {"type": "integer"}}
    for i in range(n):
        link: dict[str, object] = {"$ref": f"#/$defs/d{i}"}
        for _ in range(between):
            link = {"type": "array", "items": link}
        definitions[f"d{i + 1}"] = link
    return {"$ref": f"#/$defs/d{n}", "$defs": definitions}


def schema(value: object) -> dict[str, object]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": value}}}


def tool(value: object, name: str = "f") -> dict[str, object]:
    return {"type": "function", "function": {"name": name, "parameters": value}}


def tools(**properties: object) -> dict[str, object]:
    return {"tools": [tool({"type": "object", "properties": properties, "required": list(properties)})]}


def chain(rule: str, n: int = 20_000) -> str:
    return "\n".join([rule.format("root", "a0"), *(rule.format(f"a{i}", f"a{i + 1}") for i in range(n))])


GOOD = {"properties": {f"a{i}": {"enum": [1, "b", None]} for i in range(9)}}
GOOD_TOOLS = [tool(GOOD, f"f{i}") for i in range(511)]
GROUPS = nested("(", "a", ")", 60_000)
UNENFORCEABLE = {
    "groups in a regex": {"regex": GROUPS},
    "groups in a pattern": schema({"type": "string", "pattern": GROUPS}),
    "groups in a tool's pattern": tools(a={"type": "string", "pattern": GROUPS}),
    "groups in GBNF": {"grammar": "root ::= " + nested("(", '"a"', ")", 60_000)},
    "groups in Lark": {"grammar": "start: " + nested("(", '"a"', ")", 60_000)},
    "options in a row": {"regex": "a?" * 60_000},
    "options in a row in GBNF": {"grammar": "root ::= " + '"a"? ' * 60_000},
    "a deep schema": {"json_schema": "DEEP"},
    "a deep schema of a tool": {"tools": [tool("DEEP")]},
    "a deep schema in Lark": {"grammar": "start: %json " + nested('{"items":', "{}", "}", 20_000)},
    "a long chain of references": schema(references()),
    "a long chain of arrays": schema(references(between=1)),
    "a chain of deep arrays": schema(references(between=60, n=40)),
    "a long chain of references in a tool": {"tools": [tool({**references(), "type": "object"})]},
    "a long chain of references in Lark": {"grammar": "start: %json " + json.dumps(references())},
    "references spelled otherwise": {
        "grammar": "start: %json " + json.dumps(references()).replace("$ref", "\\u0024ref")
    },
    "a long chain of rules": {"grammar": chain("{}: {}").replace("root", "start") + '\na20000: "x"'},
    "a long chain of terminals": {"grammar": chain("{}: {}").replace("root: a0", "start: A0").replace("a", "A")},
    "a long chain of rules in GBNF": {"grammar": chain("{} ::= {}") + '\na20000 ::= "x"'},
    "a definition that is itself": schema({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}),
    "definitions that are each other": schema(
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}
    ),
    "a choice of itself": schema({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}] * 2}}}),
    "a schema that is itself": schema({"$ref": "#"}),
    "a tool's definition that is itself": {
        "tools": [tool({"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"$ref": "#/$defs/a"}}})]
    },
    "a reference that is no name": schema({"$ref": [], "$defs": {"a": {"$ref": {}}}}),
    "a repeated anchor": {"regex": "^+a"},
    "a repeated anchor in a pattern": schema({"type": "string", "pattern": "^+a"}),
    "a repeated anchor in a tool's pattern": tools(a={"type": "string", "pattern": "^+a"}),
    "a million times": {"regex": "a{0,1000000}"},
    "a million times in a pattern": schema({"type": "string", "pattern": "a{0,1000000}"}),
    "a million times in a tool's pattern": tools(a={"type": "string", "pattern": "a{0,1000000}"}),
    "a million times in GBNF": {"grammar": 'root ::= "a"{0,1000000}'},
    "a million times in Lark": {"grammar": 'start: "a"{0,1000000}'},
    "a regex for no text": {"regex": r"[^\s\S]"},
    "a grammar for no text": {"grammar": 'root ::= root "a"'},
    "a schema for no value": schema({"allOf": [{"type": "string"}, {"type": "integer"}]}),
    "a number above all it is below": schema({"type": "integer", "minimum": 5, "maximum": 4}),
    "an empty choice": schema({"enum": []}),
    "a required property that may not be": schema({"properties": {"a": False}, "required": ["a"], "type": "object"}),
    "a tool without possible arguments": tools(a={"type": "integer", "minimum": 5, "maximum": 4}),
    "too many optional properties": schema({"type": "object", "properties": {f"p{i}": {} for i in range(10_000)}}),
    "too many properties": schema(
        {"type": "object", "properties": (many := {f"p{i}": {} for i in range(8000)}), "required": [*many]}
    ),
    "another grammar": {"grammar": 'start: "a" @answer'},
    "the same grammar": {"grammar": "start: /a/ // \"\nx: y\ny: @user"},
    "ten thousand tools": {"tools": [tool({"type": "object"}, f"f{i}") for i in range(10_000)]},
    "one bad tool of many": {"tools": [*GOOD_TOOLS, tool({"properties": {"a": {"enum": []}}, "required": ["a"]})]},
}  # fmt: skip


@pytest.fixture
def alive(demo):
    yield demo
    body = {"prompt": "x", "regex": "ab?c", "temperature": 0}
    assert demo.post("/v1/completions", json=body).json()["choices"][0]["text"] in ("abc", "ac")


@pytest.mark.parametrize("what", UNENFORCEABLE)
def test_what_cannot_be_enforced_is_refused_soon(alive, what):
    body = json.dumps({"messages": HELLO, "max_tokens": 4, **UNENFORCEABLE[what]})
    body = body.replace('"DEEP"', nested('{"items": ', "{}", "}", 20_000))
    started = time.process_time()
    answer = alive.post("/v1/chat/completions", content=body)
    assert time.process_time() - started < CPU_SECONDS
    assert answer.status_code == 400, answer.text
    too_long = "tool" in what  # for the prompt, which is told first
    assert answer.json()["error"]["type"] in ("invalid_request_error", *(["exceed_context_size_error"] * too_long))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": HELLO, "stream": True, "regex": r"[^\s\S]"}),
        ("/v1/completions", {"prompt": "x", "json_schema": references()}),
        ("/completion", {"prompt": "x", "grammar": chain("{} ::= {}")}),
        ("/v1/responses", {"input": "x", "text": {"format": {"type": "json_schema", "schema": {"enum": []}}}}),
        (
            "/v1/messages",
            {"messages": HELLO, "max_tokens": 4, "tools": [{"name": "f", "input_schema": references()}]},
        ),
        ("/api/chat", {"messages": HELLO, "format": references(between=1)}),
        ("/api/chat", {"messages": HELLO, "tools": [tool({"type": "object"}, f"f{i}") for i in range(10_000)]}),
        ("/api/generate", {"prompt": "x", "format": {"$ref": "http://127.0.0.1/x"}}),
    ],
)
def test_every_dialect_refuses(alive, path, body):
    assert alive.post(path, json=body).status_code == 400


def test_remote_schemas_are_not_fetched(alive):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/schema.json"
        for reference in (url, f"{url}#/$defs/a", url.replace("http:", "")):
            for asked in (schema({"$ref": reference}), tools(a={"$ref": reference}), tools(a={"items": {"$ref": url}})):
                answer = alive.post("/v1/chat/completions", json={"messages": HELLO, "max_tokens": 4, **asked})
                assert answer.status_code == 400, answer.text
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize(
    ("grammar", "language"),
    [
        ('root ::= root "a" | "b"', "ba*"),
        ('start: start "a" | "b"', "ba*"),
        ('root ::= x "a" | "b"\nx ::= root "c" | root', "b(c?a)*"),
        ('root ::= root root | "b" | "c"', "[bc]+"),
        ('root ::= root root | "" | "b"', "b*"),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_left_recursion_ends_and_stays_what_it_says(demo, grammar, language, seed):
    body = {"prompt": "x", "grammar": grammar, "seed": seed, "max_tokens": 40}
    (choice,) = demo.post("/v1/completions", json=body).json()["choices"]
    assert re.fullmatch(language, choice["text"]) or choice["finish_reason"] == "length"
    assert set(choice["text"]) <= set(language)


@pytest.mark.parametrize(
    "endless",
    [
        {"json_schema": {"type": "array", "minItems": 1, "items": {"$ref": "#"}}},
        {"json_schema": {"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]}},
        {"json_schema": {"type": "array", "minItems": 10**6, "items": {"const": 1}}},
        {"regex": "[ab]{1000}{1000}"},
        {"regex": "[ab]*a[ab]{20000}"},
    ],
)
def test_what_never_ends_stays_what_it_says_until_its_length(demo, endless):
    body = {"prompt": "x", "max_tokens": 40, "seed": 1, **endless}
    (choice,) = demo.post("/v1/completions", json=body).json()["choices"]
    assert choice["finish_reason"] == "length"
    assert set(choice["text"]) <= set('ab {}[]":x\n\t,1')


def test_a_flood_of_schemas_is_not_kept(demo, demo_llm, monkeypatch):
    cache = demo_llm.masks.cache
    monkeypatch.setattr(cache, "_limit", cache.n_bytes + 10 * BYTES_OF_GRAMMAR)
    for i in range(20):
        body = {"prompt": "x", "max_tokens": 1, "json_schema": {"enum": [f"value {i}"]}}
        assert demo.post("/v1/completions", json=body).status_code == 200
        body = {"messages": HELLO, "max_tokens": 1, "tools": [tool({"type": "object"}, f"f{i}")]}
        assert demo.post("/v1/chat/completions", json=body).status_code == 200
        assert cache.n_bytes <= cache._limit
    monkeypatch.setattr(cache, "_limit", 0)


ENDLESS_WORK = {"grammar": 'start: x{60000}\nx: y{60000}\ny: "a"', "reasoning_budget": 0}


def test_a_grammar_that_takes_too_much_work_later_is_the_fields_fault(alive):
    body = {"messages": HELLO, "max_tokens": 30, **ENDLESS_WORK}
    answer = alive.post("/v1/chat/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "grammar")
    streamed = alive.post("/v1/chat/completions", json={**body, "stream": True})
    assert "Too many items" in streamed.text
    assert "invalid_request_error" in streamed.text


@pytest.mark.parametrize("schema_of", ["a long choice", "optional properties"])
def test_what_is_large_but_may_be_runs(demo, schema_of):
    choices = [{"type": "object", "properties": {f"k{k}": {"const": k}}, "required": [f"k{k}"]} for k in range(3000)]
    optional = {"type": "object", "properties": {f"k{k}": {"type": "integer"} for k in range(1000)}}
    asked = {"a long choice": {"anyOf": choices}, "optional properties": optional}[schema_of]
    body = {"prompt": "x", "max_tokens": 12, "seed": 1, "json_schema": asked}
    assert demo.post("/v1/completions", json=body).status_code == 200


class Saying:
    """An engine that gives the same tokens to every request."""

    def __init__(self, token_ids):
        self._token_ids = token_ids

    def submit(self, request):
        for token_id in self._token_ids:
            request.stop(Token(token_id))
        request.deliver(Finished("stop", Usage(), Timings()))


@pytest.mark.parametrize("offered", [True, False])
@pytest.mark.parametrize(
    "said",
    [
        "<tool_call>\n<function=unknown>\n</function>\n</tool_call>",
        "<tool_call>not at all</tool_call>",
        '<tool_call>{"name": "f", "arguments": {broken}}</tool_call>',
        "<tool_call>\n<function=",
        "<function=f",
        "</tool_call>",
    ],
)
def test_malformed_calls_are_text(demo, demo_llm, monkeypatch, said, offered):
    monkeypatch.setattr(demo_llm, "engine", Saying(demo_llm.tokenizer.encode(f"</think>{said}", special=True)))
    body = {"messages": HELLO, **(tools(a={"type": "string"}) if offered else {})}
    (choice,) = demo.post("/v1/chat/completions", json=body).json()["choices"]
    assert choice["message"] == {"role": "assistant", "content": said}
    assert choice["finish_reason"] == "stop"
    streamed = demo.post("/v1/chat/completions", json={**body, "stream": True})
    assert "".join(deltas(streamed)) == said


def deltas(answer: httpx.Response) -> list[str]:
    frames = [frame.removeprefix("data: ") for frame in answer.text.split("\n\n") if frame.startswith("data: {")]
    choices = [choice for frame in frames for choice in json.loads(frame)["choices"]]
    assert not any("tool_calls" in choice["delta"] for choice in choices)
    return [choice["delta"].get("content") or "" for choice in choices]

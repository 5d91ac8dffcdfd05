"""Answers by grammar: what may be said, and that what the grammar allows is what the parser reads."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import replace

import jsonschema
import pytest

from stride.chat.answer_grammar import answer_grammar, text_grammar
from stride.chat.constraints import Constraints, NamedTool, TextFormat
from stride.chat.parsers import FORMATS, HERMES, LLAMA3, MISTRAL, PLAIN, STEP_XML
from stride.chat.parsers.format import THINK
from stride.chat.stream import StreamParser, collect
from stride.errors import RequestError
from stride.types import Message, Tool

STEP = replace(STEP_XML, reasoning=THINK)
HERMES_THINK = replace(HERMES, reasoning=THINK)
FIND = Tool(
    "find",
    parameters={
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "limit": {"type": "integer", "minimum": 0, "maximum": 99},
            "where": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
            "kind": {"enum": ["file", "folder"]},
            "code": {"type": "string", "pattern": "^[A-Z]{2,4}$"},
            "tag": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "sizes": {"type": "array", "items": {"$ref": "#/$defs/Size"}, "maxItems": 3},
            "exact": {"type": ["boolean", "null"]},
            "short": {"type": "string", "maxLength": 5},
            "any": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer"}}, {"type": "null"}]},
            "mixed": {"enum": ["auto", None, 3, True]},
            "free": {},
            "size": {"type": "string", "pattern": "^(S|XL)$|^[|]\\\\$|huge"},
        },
        "required": ["text", "limit"],
        "$defs": {"Size": {"type": "number"}},
    },
)
NOW = Tool("now", parameters={"type": "object", "properties": {}, "additionalProperties": False})
TOOLS = (FIND, NOW)
ONE = Constraints(parallel_tool_calls=False)
REQUIRED = Constraints("required")


def xml(name, **arguments):
    inner = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments.items())
    return f"<tool_call>\n<function={name}>\n{inner}</function>\n</tool_call>"


CALL = xml("find", text="a", limit=5)
NOW_CALL = xml("now")
JSON_CALL = '{"name": "find", "arguments": {"text": "a", "limit": 5}}'
HERMES_CALL = f"<tool_call>\n{JSON_CALL}\n</tool_call>"
LLAMA_CALL = JSON_CALL.replace("arguments", "parameters")


@pytest.mark.parametrize(
    ("tool_format", "constraints", "text", "allowed"),
    [
        # Free text and thought, until a call opens.
        (STEP, Constraints(), "I think.</think>So.", "$"),
        (STEP, Constraints(), "I never close this", "$"),
        (STEP, Constraints(), f"Hm.</think>Two:\n{CALL}\n{NOW_CALL} done", "$"),
        (STEP, Constraints(), "Hm.</think><tool_call>x", "Hm.</think><tool_call>"),
        (STEP, Constraints(), "</think><tool_call>\n<function=f9>", "</think><tool_call>\n<function=f"),
        (STEP, Constraints(), f"</think>{xml('find', text='a')}", "</think>" + xml("find", text="a")[:-24]),
        (STEP, Constraints(), "</think>" + xml("find", text="a", limit="5x"), None),
        (STEP, Constraints(), "</think>" + xml("find", text="a", limit=100), None),
        (STEP, Constraints(), "</think>" + xml("find", text="a\n<b>\n", limit=5, kind="file", code="ABC"), "$"),
        (STEP, Constraints(), "</think>" + xml("find", text="a", limit=5, code="abc"), None),
        (STEP, Constraints(), "</think>" + xml("find", text="a", limit=5, kind="files"), None),
        (STEP, Constraints(), "</think>" + xml("find", text="a", limit=5, where='{"path": "/"}', sizes="[1.5]"), "$"),
        (STEP, Constraints(), "</think>" + xml("find", text="a", limit=5, where="{}"), None),
        (STEP, Constraints(), "</think>" + xml("find", text="a", limit=5, tag="null", exact="null"), "$"),
        (STEP, Constraints(), "</think>" + xml("find", text="a", limit=5, short="123456"), None),
        (STEP, Constraints(), "</think>" + xml("find", text="a", limit=5, other="1"), None),
        (STEP, Constraints(), "</think><function=now>\n</function> ok", "$"),
        (STEP, Constraints(), "</think>" + xml("find", text="a", limit=5, tag="12 St.", any="null", mixed="3"), "$"),
        (STEP, Constraints(), "</think>" + xml("find", text="a", limit=5, any="[1]", mixed="null", free="[x"), "$"),
        (STEP, Constraints(), "</think>" + xml("find", text="a", limit=5, any="nullify it", mixed="auto"), "$"),
        (STEP, Constraints(), "</think>" + xml("find", text="a", limit=5, any="[x]"), None),
        (STEP, Constraints(), "</think>" + xml("find", text="a", limit=5, mixed="4"), None),
        *(
            (STEP, Constraints(), "</think>" + xml("find", text="a", limit=5, size=size), allowed)
            for size, allowed in [
                *((size, "$") for size in ("S", "XL", "|\\", "so huge!")),
                *((size, None) for size in ("XXL", "SL", "L", "|", "hug")),
            ]
        ),
        # Calls before the end of the thought, which may also speak of calls.
        (STEP, Constraints(), f"I call.\n{CALL}\n{NOW_CALL}</think>Done.", "$"),
        (STEP, Constraints(), "A <tool_call> is a tag, <function=NAME> too.</think>ok", "$"),
        (STEP, Constraints(), "<tool_call>\n<function=now>\nx", "<tool_call>\n<function=now>\n"),
        # One call.
        (STEP, ONE, f"</think>a {CALL}\n", "$"),
        (STEP, ONE, f"</think>a {CALL}\n{CALL}", f"</think>a {CALL}\n$"),
        (STEP, ONE, f"a {CALL}</think>\n", "$"),
        (STEP, ONE, f"a {CALL}</think>x", f"a {CALL}</think>$"),
        # A call there must be.
        (STEP, REQUIRED, f"Hm.</think>\n\n{CALL}\n{NOW_CALL}", "$"),
        (STEP, REQUIRED, "Hm.</think>Hello", "Hm.</think>"),
        (STEP, REQUIRED, f"Hm {NOW_CALL} and </think>free", "$"),
        (STEP, Constraints(NamedTool("now")), f"Hm.</think>{NOW_CALL}\n{NOW_CALL}", f"Hm.</think>{NOW_CALL}$"),
        (STEP, Constraints(NamedTool("now")), f"Hm.</think>{CALL}", None),
        (HERMES, Constraints(), f"Hi {HERMES_CALL}\n{HERMES_CALL} ok", "$"),
        (HERMES, Constraints(), f"Hi {HERMES_CALL.replace('5', 'five')}", None),
        (HERMES, REQUIRED, f"{HERMES_CALL}\n{HERMES_CALL}", "$"),
        (HERMES, Constraints("required", False), f"{HERMES_CALL}\n{HERMES_CALL}", f"{HERMES_CALL}$"),
        (LLAMA3, Constraints(), "Hi { there", "$"),
        (LLAMA3, Constraints(), '{"name": "Bob", "age": 3}', "$"),
        (LLAMA3, Constraints(), f"{LLAMA_CALL}; {LLAMA_CALL}", "$"),
        (LLAMA3, Constraints(), f"<|python_tag|>{LLAMA_CALL} {LLAMA_CALL}", None),
        (LLAMA3, Constraints(), LLAMA_CALL.replace('"limit"', '"limits"'), None),
        (LLAMA3, Constraints(), '{"type": "function", "name": "find", "x": 1}', None),
        (LLAMA3, ONE, f"{LLAMA_CALL}; {LLAMA_CALL}", f"{LLAMA_CALL}$"),
        (MISTRAL, Constraints(), f"Hi [TOOL_CALLS][{JSON_CALL}, {JSON_CALL}] ok", "$"),
        (MISTRAL, Constraints(), "[TOOL_CALLS]now[ARGS]{}[TOOL_CALLS]now[ARGS]{}", "$"),
        (MISTRAL, ONE, f"[TOOL_CALLS][{JSON_CALL}, {JSON_CALL}]", f"[TOOL_CALLS][{JSON_CALL}"),
        (PLAIN, Constraints(text=TextFormat.regex("a{3}")), "aaa", "$"),
        # Formats, after the thought.
        (STEP, Constraints(text=TextFormat.json_object()), 'Hm.</think>\n\n{"a": [1]}', "$"),
        (STEP, Constraints(text=TextFormat.json_object()), "Hm.</think>\n\n[1]", "Hm.</think>\n\n"),
        (STEP, Constraints(text=TextFormat.json_object()), f"Hm.</think>\n\n{CALL}", "$"),
        (HERMES_THINK, Constraints(text=TextFormat.regex("[0-9]+")), "<think>Hm.</think>42", "$"),
        (HERMES_THINK, Constraints(text=TextFormat.regex("[0-9]+")), "42", "$"),
        (HERMES_THINK, Constraints(text=TextFormat.regex("[0-9]+")), "<think>42", "<think>42"),
        (HERMES_THINK, Constraints(), f"<think>Say <tool_call> here</think>{HERMES_CALL}", "$"),
        (STEP, Constraints(text=TextFormat.grammar('root ::= "yes" | "no"')), "Hm.</think>yes", "$"),
        (STEP, Constraints(text=TextFormat.grammar('start: "yes" | "no"')), "Hm.</think>maybe", "Hm.</think>"),
    ],
)  # fmt: skip
def test_what_may_be_said(matches, tool_format, constraints, text, allowed):
    grammar = answer_grammar(tool_format, TOOLS, constraints, in_reasoning=tool_format is STEP)
    found = matches(grammar, text)
    if allowed is None:
        assert not found.startswith(text)
    else:
        assert found == (text + "$" if allowed == "$" else allowed)


def walk(compiler, tokenizer, grammar, rng, n_tokens, hints):
    """Tokens at random, with a liking for what moves on; whether they came to an end."""
    mask = compiler.mask(grammar, "test")
    ids, planned = [], []
    for _ in range(n_tokens):
        allowed = mask.allowed()
        if not tokenizer.eos_ids.isdisjoint(allowed.ids if not allowed.excluded else ()) and rng.random() < 0.5:
            return ids, True
        if not planned and rng.random() < 0.4:
            planned = tokenizer.encode(rng.choice(hints))
        if planned and planned[0] in allowed:
            token_id = planned.pop(0)
        else:
            planned = []
            options = allowed.ids if not allowed.excluded else range(3, 2550)
            token_id = int(rng.choice(options))
            if token_id not in allowed or token_id in tokenizer.eos_ids:
                if len(allowed.ids) == 1 and not allowed.excluded:
                    return ids, True
                continue
        mask.accept(token_id)
        ids.append(token_id)
    return ids, any(end in mask.allowed() for end in tokenizer.eos_ids)


HINTS = {
    "step-xml": ("</think>", "<tool_call>", "\n</parameter>\n", "</function>", '"', "}", "<function=now>\n"),
    "hermes": ("</think>", "<tool_call>", '"', "}", '"}', '", "'),
    "llama3": ('{"name": "find"', '"', "}", '", "', '"}', "<|python_tag|>"),
    "mistral": ("[TOOL_CALLS]", '"', "}", '", "', "}]", "[ARGS]{"),
}


@pytest.mark.parametrize("name", HINTS)
@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_what_is_allowed_parses_to_calls_that_fit(compiler, tokenizer, monkeypatch, name, required, seed):
    if seed == 0:  # on a thread of its own, as with real vocabularies
        monkeypatch.setattr("stride.chat.grammar.SMALL_VOCABULARY", 0)
    tool_format = replace(FORMATS[name], reasoning=THINK if name == "step-xml" else None)
    constraints = REQUIRED if required else Constraints()
    grammar = answer_grammar(tool_format, TOOLS, constraints, in_reasoning=True)
    rng = random.Random(seed)
    for _ in range(3):
        ids, ended = walk(compiler, tokenizer, grammar, rng, 250, HINTS[name])
        text = tokenizer.decode(ids, special=True)
        said = parse(tool_format, [text])
        assert said == parse(tool_format, list(text)), text
        cut = rng.randrange(len(text) + 1)
        assert said == parse(tool_format, [text[:cut], text[cut:]]), text
        if required and ended:
            assert said.tool_calls
        for call in said.tool_calls:
            arguments = json.loads(call.arguments)
            if ended:
                tool = next(tool for tool in TOOLS if tool.name == call.name)
                jsonschema.validate(arguments, tool.parameters)
                assert not arguments.keys() - tool.parameters["properties"].keys()


def parse(tool_format, pieces) -> Message:
    ids = map(str, itertools.count())
    reasons = tool_format.reasoning is not None
    parser = StreamParser(tool_format, TOOLS, reasons, constrained=True, new_id=lambda: next(ids))
    return collect([delta for piece in pieces for delta in parser.feed(piece)] + parser.finish())


@pytest.mark.parametrize(
    ("kind", "source", "good", "bad"),
    [
        ("json_schema", '{"type": "array", "items": {"type": "integer"}}', "[1,\n  2]", "[1, x]"),
        ("json_schema", "true", "{}", "x"),
        ("json_schema", '{"type": "integer", "format": "int32"}', "5", "x"),
        ("json_schema", '{"type": "integer", "x-guidance": {"lenient": true}}', "5", "x"),
        ("json_schema", '{"enum": ["a", null, 3]}', "null", "4"),
        ("json_schema", '{"const": {"format": "int32", "title": "x"}}', '{"format":"int32","title":"x"}', "{}"),
        ("json_schema", '{"title": "x", "type": "integer", "description": "y"}', "5", "x"),
        ("regex", r"^\d{4}/[a-z]+$", "2026/a", "202/a"),
        ("regex", "a\nb", "a\nb", "ab"),
        ("regex", "é+", "éé", "e"),
        ("gbnf", 'root ::= greeting " " [A-Z] [a-z]*\ngreeting ::= "Hi" | "Hello"', "Hello Bob", "Hello bob"),
        ("lark", "start: NAME+\nNAME: /[a-c]/", "abc", "abd"),
        ("lark", 'start: start "a" | "b"', "baa", "a"),
    ],
)
def test_text_formats(matches, kind, source, good, bad):
    grammar = text_grammar(TextFormat(kind, source, "f"))
    assert matches(grammar, good) == good + "$"
    assert not matches(grammar, bad).startswith(bad + "$")


@pytest.mark.parametrize(
    ("field", "source", "kind"),
    [
        ("regex", "(" * 60_000 + ")" * 60_000, "regex"),
        ("regex", "^+a", "regex"),
        ("regex", "a{0,1000000}", "regex"),
        ("regex", "(?=a)b", "regex"),
        ("grammar", "root ::= nothing", "gbnf"),
        ("grammar", 'root ::= "a', "gbnf"),
        ("grammar", "start: x\nx: x", "lark"),
        ("response_format", '{"not": {"type": "string"}}', "json_schema"),
        ("response_format", '{"$ref": "http://169.254.169.254/schema"}', "json_schema"),
        ("response_format", '{"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}', "json_schema"),
        ("response_format", "false", "json_schema"),
        ("response_format", '{"allOf": [{"type": "string"}, {"type": "integer"}]}', "json_schema"),
        ("response_format", '{"type": "string", "pattern": "(?=a)b"}', "json_schema"),
    ],
)
def test_formats_that_cannot_be_enforced_are_refused_by_name(compiler, field, source, kind):
    with pytest.raises(RequestError, match=field) as caught:
        compiler.mask(text_grammar(TextFormat(kind, source, field)), field)
    assert caught.value.field == field


def with_parameters(**schema):
    return [Tool("f", parameters=schema)]


@pytest.mark.parametrize(
    ("field", "tools", "constraints"),
    [
        ("tool_choice", (), REQUIRED),
        ("tool_choice", TOOLS, Constraints(NamedTool("fly"))),
        ("tools", (NOW, NOW), Constraints()),
        ("tools", [Tool(" f")], Constraints()),
        ("tools", [Tool('f"')], Constraints()),
        ("tools", with_parameters(type="array"), Constraints()),
        ("tools", with_parameters(properties={'a"b': {}}), Constraints()),
        ("tools", with_parameters(properties=[]), Constraints()),
        ("tools", with_parameters(properties={"a": {"type": "integer", "not": {}}}), Constraints()),
        ("tools", with_parameters(properties={"a": {"type": "string", "not": {}}}), Constraints()),
        ("tools", with_parameters(properties={"a": {"type": "string", "maxLength": "x"}}), Constraints()),
        ("tools", with_parameters(properties={"a": {"type": "string", "enum": [5]}}), Constraints()),
        ("tools", with_parameters(properties={"a": {"type": "string", "pattern": 5}}), Constraints()),
        ("tools", with_parameters(properties={"a": {"type": "string", "enum": []}}, required=["a"]), Constraints()),
        ("tools", with_parameters(properties={}, required="a"), Constraints()),
        ("tools", with_parameters(properties={"a": {"enum": [10**20, "a"]}}), Constraints()),
        ("tools", with_parameters(properties={"a": {"type": "integer", "const": 1e20}}), Constraints()),
        ("tools", with_parameters(properties={"a": {"type": "string", "pattern": "(?=a)b"}}), Constraints()),
        ("tools", with_parameters(properties={"a": False}, required=["a"]), Constraints()),
        ("tools", with_parameters(anyOf=[{"required": ["a"]}]), Constraints()),
    ],
)
def test_tools_that_cannot_be_enforced_are_refused_by_name(compiler, field, tools, constraints):
    with pytest.raises(RequestError, match=field) as caught:
        compiler.mask(answer_grammar(STEP, tools, constraints, True), field)
    assert caught.value.field == field


def test_a_model_without_tool_calls_cannot_be_made_to_call():
    with pytest.raises(RequestError, match="knows no tool calls"):
        answer_grammar(PLAIN, TOOLS, REQUIRED, False)


@pytest.mark.parametrize("constraints", [Constraints(), Constraints("none"), Constraints(reasoning_budget=5)])
def test_where_nothing_is_asked_nothing_is_masked(constraints):
    assert answer_grammar(STEP, (), constraints, True) is None
    assert answer_grammar(PLAIN, TOOLS, Constraints(), False) is None

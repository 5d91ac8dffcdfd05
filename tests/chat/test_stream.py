"""Transcripts of every format, each cut at every character; oddities seen in the wild; typed arguments."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stride.chat.parsers import FORMATS, HERMES, LLAMA3, MISTRAL, PLAIN, STEP_XML, ToolFormat, detect_format
from stride.chat.parsers.format import THINK
from stride.chat.stop import StopStrings
from stride.chat.stream import StreamParser, collect
from stride.types import ContentDelta, Delta, Message, ReasoningDelta, Tool, ToolCall, ToolCallDelta, ToolCallStart

TOOLS = (
    Tool(
        "bash",
        parameters={
            "type": "object",
            "properties": {"command": {"type": "string"}, "timeout": {"type": "integer"}, "login": {"type": "boolean"}},
        },
    ),
    Tool("get_weather", parameters={"type": "object", "properties": {"city": {"type": "string"}}}),
    Tool("now"),
)
STEP = replace(STEP_XML, reasoning=THINK)
HERMES_THINK = replace(HERMES, reasoning=THINK)


def parse(
    tool_format: ToolFormat, pieces: Sequence[str], tools: Sequence[Tool] = TOOLS, reasoning: bool = False
) -> list[Delta]:
    ids = map(str, itertools.count())
    parser = StreamParser(tool_format, tools, reasoning, new_id=lambda: next(ids))
    return [delta for piece in pieces for delta in parser.feed(piece)] + parser.finish()


def message(content: str | None = None, reasoning: str | None = None, *calls: tuple[str, str]) -> Message:
    """The expected sum; each call is a name and the JSON text of its arguments."""
    return Message(
        role="assistant",
        content=content,
        reasoning=reasoning,
        tool_calls=tuple(ToolCall(str(i), name, arguments) for i, (name, arguments) in enumerate(calls)),
    )


def xml(name: str, **parameters: str) -> str:
    """A well-formed Step call."""
    inner = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in parameters.items())
    return f"<tool_call>\n<function={name}>\n{inner}</function>\n</tool_call>"


@dataclass(frozen=True)
class Transcript:
    name: str
    format: ToolFormat
    text: str
    expected: Message
    reasoning: bool = False
    tools: Sequence[Tool] = TOOLS


HOSTILE = '\n  echo "</function>" <parameter=x>\n\tcat <<EOF\n</parameter> \\n\nEOF\n'
LS = ("bash", '{"command": "ls"}')
PWD = ("bash", '{"command": "pwd"}')

TRANSCRIPTS = [
    Transcript("plain", PLAIN, "Hello <b>world</b>", message("Hello <b>world</b>")),
    Transcript("leading space", PLAIN, "\n Hello\n\n  there \n", message("Hello\n\n  there \n")),
    Transcript("nothing", STEP, "", message()),
    Transcript("only space", STEP, " \n ", message()),
    Transcript("reasoning", STEP, "Think\nhard.\n</think>\n\nAnswer.", message("Answer.", "Think\nhard."), True),
    Transcript("reasoning that opens itself", STEP, "<think>\nHm.\n</think>\nYes.", message("Yes.", "Hm.")),
    Transcript("reasoning opened twice", STEP, "<think>\nHm.</think>Yes.", message("Yes.", "Hm."), True),
    Transcript("reasoning closed twice", STEP, "Hm.</think>\n</think>\nYes.", message("Yes.", "Hm."), True),
    Transcript("a tag in the answer", STEP, "a</think>`</think>` ends", message("`</think>` ends", "a"), True),
    Transcript("closed again and again", STEP, "a</think>\n</think></think>\nc", message("c", "a"), True),
    Transcript("not opened again", STEP, "a</think>b</think><think>c", message("b</think><think>c", "a"), True),
    Transcript(
        "closed after a call",
        STEP,
        f"a</think>{xml('bash', command='ls')}</think>b",
        message("b", "a", LS),
        True,
    ),
    Transcript("unfinished reasoning", STEP, "Hm, a < b </thin", message(None, "Hm, a < b </thin"), True),
    Transcript("empty reasoning", STEP, "</think>Yes.", message("Yes."), True),
    Transcript("later tags are text", STEP, "Use <think> and </think>.", message("Use <think> and </think>.")),
    Transcript("one call", STEP, xml("bash", command="ls"), message(None, None, LS)),
    Transcript("no arguments", STEP, xml("now"), message(None, None, ("now", "{}"))),
    Transcript(
        "reasoning, content, calls",
        STEP,
        f"I look.\n</think>\nLet me see.\n\n{xml('bash', command='ls')}\n{xml('bash', command='pwd')}\n",
        message("Let me see.", "I look.", LS, PWD),
        True,
    ),
    Transcript(
        "text between calls",
        STEP,
        f"a\n{xml('bash', command='ls')}\nb\n{xml('bash', command='pwd')}",
        message("a\n\nb", None, LS, PWD),
    ),
    Transcript(
        "back to back",
        STEP,
        xml("bash", command="ls") + xml("bash", command="pwd"),
        message(None, None, LS, PWD),
    ),
    Transcript("repeated call", STEP, xml("bash", command="ls") * 2, message(None, None, LS, LS)),
    Transcript(
        "two functions in one block",
        STEP,
        "<tool_call>\n<function=bash>\n<parameter=command>\nls\n</parameter>\n</function>\n"
        "<function=now>\n</function>\n</tool_call>",
        message(None, None, LS, ("now", "{}")),
    ),
    Transcript(
        "call before the end of reasoning",
        STEP,
        f"I will look.\n{xml('bash', command='ls')}\n</think>\nDone.",
        message("Done.", "I will look.", LS),
        True,
    ),
    Transcript(
        "a call mentioned in reasoning",
        STEP,
        "I could write <tool_call> or <tool_call>\n<function=NAME>, but no.</think>No.",
        message("No.", "I could write <tool_call> or <tool_call>\n<function=NAME>, but no."),
        True,
    ),
    Transcript(
        "space instead of =",
        STEP,
        "<tool_call>\n<function bash>\n<parameter command>\nls\n</parameter>\n</function>\n</tool_call>",
        message(None, None, LS),
    ),
    Transcript(
        "quoted names",
        STEP,
        '<tool_call><function name="bash"><parameter="command">ls</parameter></function></tool_call>',
        message(None, None, LS),
    ),
    Transcript(
        "no newlines",
        STEP,
        "<tool_call><function=bash><parameter=command>ls</parameter></function></tool_call>",
        message(None, None, LS),
    ),
    Transcript(
        "carriage returns",
        STEP,
        xml("bash", command="ls\r\npwd").replace("\n", "\r\n").replace("\r\r", "\r"),
        message(None, None, ("bash", '{"command": "ls\\r\\npwd"}')),
    ),
    Transcript(
        "missing </parameter> before a parameter",
        STEP,
        "<tool_call>\n<function=bash>\n<parameter=command>\nls\n<parameter=timeout>\n5\n</parameter>\n"
        "</function>\n</tool_call>",
        message(None, None, ("bash", '{"command": "ls", "timeout": 5}')),
    ),
    Transcript(
        "missing </parameter> before </function>",
        STEP,
        "<tool_call>\n<function=bash>\n<parameter=command>\nls\n</function>\n</tool_call>",
        message(None, None, LS),
    ),
    Transcript(
        "missing </function>",
        STEP,
        "<tool_call>\n<function=bash>\n<parameter=command>\nls\n</parameter>\n</tool_call>\nok",
        message("ok", None, LS),
    ),
    Transcript(
        "missing </tool_call>",
        STEP,
        "<tool_call>\n<function=bash>\n<parameter=command>\nls\n</parameter>\n</function>\n"
        + xml("bash", command="pwd"),
        message(None, None, LS, PWD),
    ),
    Transcript(
        "all closing tags missing",
        STEP,
        "<tool_call>\n<function=bash>\n<parameter=command>\nls\n" + xml("bash", command="pwd"),
        message(None, None, LS, PWD),
    ),
    Transcript("cut within a value", STEP, "<tool_call><function=bash><parameter=command>ls", message(None, None, LS)),
    Transcript(
        "a value that is no string, cut",
        STEP,
        "<tool_call><function=bash><parameter=command>ls</parameter><parameter=timeout>1",
        message(None, None, LS),
    ),
    Transcript(
        "an attribute's name, a name like an attribute",
        STEP,
        "<tool_call><function name=f><parameter name=x>1</parameter><parameter=name=x>2</parameter></function>\n"
        "</tool_call>",
        message(None, None, ("f", '{"x": 1, "name=x": 2}')),
    ),
    Transcript("cut after the name", STEP, "<tool_call>\n<function=bash>\n", message(None, None, ("bash", "{}"))),
    Transcript(
        "no <tool_call>",
        STEP,
        "Now:\n<function=bash>\n<parameter=command>\nls\n</parameter>\n</function>\n</tool_call>",
        message("Now:", None, LS),
    ),
    Transcript(
        "extra closing tags",
        STEP,
        xml("bash", command="ls") + "\n</tool_call>\n</function>",
        message(None, None, LS),
    ),
    Transcript(
        "text inside a call",
        STEP,
        "<tool_call>\n<function=bash>\nhm\n</function>\n</tool_call>",
        message("hm", None, ("bash", "{}")),
    ),
    Transcript(
        "several lines, tags and quotes in a value",
        STEP,
        xml("bash", command=HOSTILE),
        message(None, None, ("bash", json.dumps({"command": HOSTILE}))),
    ),
    Transcript(
        "a parameter given twice",
        STEP,
        "<tool_call><function=bash><parameter=command>ls</parameter><parameter=command>rm</parameter></function></tool_call>",
        message(None, None, LS),
    ),
    Transcript(
        "unknown function and parameter",
        STEP,
        xml("fly", height="12345678901234567890123", to="the moon", fast="true"),
        message(None, None, ("fly", '{"height": 12345678901234567890123, "to": "the moon", "fast": true}')),
    ),
    Transcript("no call", STEP, "<tool_call>\nno\n</tool_call>", message("<tool_call>\nno\n</tool_call>")),
    Transcript("nameless", STEP, "<tool_call><function=></function>", message("<tool_call><function=></function>")),
    Transcript("unknown without <tool_call>", STEP, "<function=f>x</function>", message("<function=f>x</function>")),
    Transcript("without tools", STEP, xml("bash", command="ls"), message(xml("bash", command="ls")), tools=()),
    Transcript("unfinished tag", STEP, "a < b <tool_ca", message("a < b <tool_ca")),
    Transcript("multi-byte text", STEP, "我想…\n</think>\n答案是 😀 é。", message("答案是 😀 é。", "我想…"), True),
    Transcript(
        "hermes",
        HERMES_THINK,
        '<think>\nHm.\n</think>\n\nSure.\n<tool_call>\n{"name": "bash", "arguments": {"command": "ls"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
        message("Sure.", "Hm.", LS, ("now", "{}")),
    ),
    Transcript(
        "hermes keeps digits",
        HERMES,
        '<tool_call>{"arguments": {"id": 12345678901234567890.10, "s": "</tool_call>{\\""}, "name": "f"}</tool_call>',
        message(None, None, ("f", '{"id": 12345678901234567890.10, "s": "</tool_call>{\\""}')),
    ),
    Transcript(
        "hermes, raw newline in a string",
        HERMES,
        '<tool_call>{"name": "bash", "arguments": {"command": "a\nb"}}</tool_call>',
        message(None, None, ("bash", '{"command": "a\\nb"}')),
    ),
    Transcript(
        "hermes, arguments inside a string",
        HERMES,
        '<tool_call>{"name": "bash", "arguments": "{\\"command\\": \\"ls\\"}"}</tool_call>',
        message(None, None, LS),
    ),
    Transcript(
        "hermes without </tool_call>",
        HERMES,
        '<tool_call>\n{"name": "bash", "arguments": {"command": "ls"}}\n'
        '<tool_call>\n{"name": "bash", "arguments": {"command": "pwd"}}',
        message(None, None, LS, PWD),
    ),
    Transcript(
        "hermes, bad JSON",
        HERMES,
        '<tool_call>\n{"name": "bash", "arguments": {command: ls}}\n</tool_call>',
        message('<tool_call>\n{"name": "bash", "arguments": {command: ls}}\n</tool_call>'),
    ),
    Transcript("hermes, cut", HERMES, '<tool_call>{"name": "ba', message('<tool_call>{"name": "ba')),
    Transcript("llama3", LLAMA3, '{"name": "bash", "parameters": {"command": "ls"}}', message(None, None, LS)),
    Transcript(
        "llama3, several",
        LLAMA3,
        '{"name": "bash", "parameters": {"command": "ls"}}; {"name": "bash", "parameters": {"command": "pwd"}}',
        message(None, None, LS, PWD),
    ),
    Transcript(
        "llama3 with its tag",
        LLAMA3,
        '<|python_tag|>{"type": "function", "name": "bash", "parameters": {"command": "ls"}}',
        message(None, None, LS),
    ),
    Transcript("llama3, plain JSON", LLAMA3, '{"a": {"name": "bash"}}', message('{"a": {"name": "bash"}}')),
    Transcript("llama3, a person", LLAMA3, '{"name": "Bob", "age": 4}', message('{"name": "Bob", "age": 4}')),
    Transcript("llama3, code", LLAMA3, "<|python_tag|>print(1)", message("<|python_tag|>print(1)")),
    Transcript(
        "mistral",
        MISTRAL,
        '[TOOL_CALLS] [{"name": "bash", "arguments": {"command": "ls"}}, {"name": "now", "arguments": {}}]',
        message(None, None, LS, ("now", "{}")),
    ),
    Transcript(
        "mistral, newer",
        MISTRAL,
        'See [1].[TOOL_CALLS]bash[ARGS]{"command": "ls"}[TOOL_CALLS]now[ARGS]{}',
        message("See [1].", None, LS, ("now", "{}")),
    ),
    Transcript("mistral, bad", MISTRAL, "[TOOL_CALLS] [oops]", message("[TOOL_CALLS] [oops]")),
]  # fmt: skip


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda transcript: transcript.name)
def test_every_cut_gives_the_expected_sum(transcript: Transcript) -> None:
    def run(pieces: Sequence[str]) -> Message:
        return collect(parse(transcript.format, pieces, transcript.tools, transcript.reasoning))

    text = transcript.text
    assert run([text]) == transcript.expected
    assert run(list(text)) == transcript.expected
    for cut in range(1, len(text)):
        assert run([text[:cut], text[cut:]]) == transcript.expected, (text[:cut], text[cut:])


FRAGMENTS = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "<function=bash>", "<function bash>", "</function>", "<parameter=command>"),
        *("<parameter=timeout>", "</parameter>", "<think>", "</think>", "[TOOL_CALLS]", "<|python_tag|>", '{"name": "'),
        *("ls", "12", "é", "\n", " ", "<", ">", "{", "}", "[", "]", ";", '"'),
        '{"name": "bash", "arguments": {"command": "ls"}}',
    ]
)


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data(), fragments=st.lists(FRAGMENTS, max_size=14), reasoning=st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_text_at_any_cut(name: str, data: st.DataObject, fragments: list[str], reasoning: bool) -> None:
    text = "".join(fragments)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
    tool_format = replace(FORMATS[name], reasoning=THINK)
    whole = collect(parse(tool_format, [text], reasoning=reasoning))
    pieces = [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
    assert collect(parse(tool_format, pieces, reasoning=reasoning)) == whole
    for call in whole.tool_calls:
        json.loads(call.arguments)


def test_deltas_come_as_early_as_they_can() -> None:
    parser = StreamParser(STEP, TOOLS, starts_in_reasoning=True, new_id=lambda: "id")
    assert parser.feed("Hm") == [ReasoningDelta("Hm")]
    assert parser.feed(" a <") == [ReasoningDelta(" a")]
    assert parser.feed("b") == [ReasoningDelta(" <b")]
    assert parser.feed("\n</thi") == []
    assert parser.feed("nk>\n\nYes") == [ContentDelta("Yes")]
    assert parser.feed("\n<tool_call>\n<function=bash>\n<parameter=command>\n") == [
        ToolCallStart(0, "id", "bash"),
        ToolCallDelta(0, '{"command": '),
    ]
    assert parser.feed('echo "') == [ToolCallDelta(0, '"echo \\"')]
    assert parser.feed("hi\n") == [ToolCallDelta(0, "hi")]
    assert parser.feed("there\n") == [ToolCallDelta(0, "\\nthere")]
    assert parser.feed("</parameter>\n") == []
    assert parser.feed("</function>\n</tool_call>") == [ToolCallDelta(0, '"}')]
    assert parser.finish() == []


TYPED: list[tuple[Any, str, str]] = [
    ({"type": "string"}, "42", '"42"'),
    ({"type": "string"}, "true", '"true"'),
    ({"type": "string"}, "", '""'),
    ({"type": "string"}, '{"a": 1}', '"{\\"a\\": 1}"'),
    ({"type": "integer"}, "123456789012345678901234567890", "123456789012345678901234567890"),
    ({"type": "integer"}, " -7 ", "-7"),
    ({"type": "integer"}, "+007", "7"),
    ({"type": "integer"}, "-0", "0"),
    ({"type": "integer"}, "5.0", "5"),
    ({"type": "integer"}, "five", '"five"'),
    ({"type": "integer"}, "9" * 5000, "9" * 5000),
    ({"type": "number"}, "0.10000000000000000001", "0.10000000000000000001"),
    ({"type": "number"}, "1e400", "1e400"),
    ({"type": "number"}, "NaN", '"NaN"'),
    ({"type": "boolean"}, "True", "true"),
    ({"type": "boolean"}, "yes", '"yes"'),
    ({"type": "null"}, "None", "null"),
    ({"type": "array"}, "[1, 2.50,\n 3]", "[1, 2.50,\n 3]"),
    ({"type": "array"}, "['a', True, None]", '["a", true, null]'),
    ({"type": "object"}, '{"a": 12345678901234567890}', '{"a": 12345678901234567890}'),
    ({"type": "object"}, "{a: 1}", '"{a: 1}"'),
    ({"type": "array"}, "[" * 3000, json.dumps("[" * 3000)),
    ({"type": ["integer", "null"]}, "null", "null"),
    ({"type": ["string", "null"]}, "null", "null"),
    ({"type": ["string", "null"]}, "12", '"12"'),
    ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "12", '"12"'),
    ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "12", "12"),
    ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "twelve", '"twelve"'),
    ({"type": ["integer", "string"]}, "007", '"007"'),
    ({"type": ["integer", "string"]}, "1.5", '"1.5"'),
    ({"type": ["string", "null"]}, "None", "null"),
    ({"enum": ["1", 2]}, "1", '"1"'),
    ({"enum": ["1", 2]}, "2", "2"),
    ({"enum": ["true", False]}, "true", '"true"'),
    ({"anyOf": [{"$ref": "#/$defs/Id"}, {"type": "null"}]}, "5", '"5"'),
    ({"type": ["string", "array"]}, "[a]", '"[a]"'),
    ({"oneOf": [{"type": "array"}, {"type": "boolean"}]}, "false", "false"),
    ({"enum": ["1", "2"]}, "1", '"1"'),
    ({"enum": [1, 2]}, "1", "1"),
    ({"enum": ["auto", None]}, "null", "null"),
    ({"const": "5"}, "5", '"5"'),
    ({"allOf": [{"type": "integer"}, {"minimum": 0}]}, "5", "5"),
    ({"$ref": "#/$defs/Id"}, "5", '"5"'),
    ({"$ref": "#/$defs/Loop"}, "5", "5"),
    ({"$ref": "https://example.com/schema"}, "5", "5"),
    ({}, "plain", '"plain"'),
    ({}, '"quoted"', '"quoted"'),
    (True, "12", "12"),
    (None, "[1]", "[1]"),
]


@pytest.mark.parametrize(("schema", "text", "expected"), TYPED)
def test_arguments_are_typed_by_the_schema(schema: Any, text: str, expected: str) -> None:
    tool = Tool(
        "f",
        parameters={
            "type": "object",
            "properties": {"x": schema},
            "$defs": {"Id": {"type": "string"}, "Loop": {"$ref": "#/$defs/Loop"}},
        },
    )
    found = collect(parse(STEP, [xml("f", x=text)], [tool]))
    assert found.tool_calls[0].arguments == f'{{"x": {expected}}}'


@pytest.mark.parametrize(
    ("template", "architecture", "expected", "reasoning"),
    [
        ("<tool_call><function=…</think>", "step35", "step-xml", True),
        ("", "step35", "step-xml", True),
        ("<tool_call>{…</think>", "qwen3", "hermes", True),
        ("<tool_call>", "qwen2", "hermes", False),
        ("[TOOL_CALLS]", "llama", "mistral", False),
        ("<|python_tag|>", "llama", "llama3", False),
        ("{{ messages }}", "llama", "plain", False),
        ("…</think>", "qwen2", "plain", True),
    ],
)
def test_the_format_is_told_by_the_template(template: str, architecture: str, expected: str, reasoning: bool) -> None:
    found = detect_format(template, architecture)
    assert (found.name, found.reasoning is not None) == (expected, reasoning)


def test_whether_an_answer_begins_in_reasoning_is_told_by_the_prompt() -> None:
    assert STEP.starts_in_reasoning("<|im_start|>assistant\n<think>\n")
    assert not STEP.starts_in_reasoning("<|im_start|>assistant\n")
    assert not STEP.starts_in_reasoning("<think>\n\n</think>\n\n")
    assert not PLAIN.starts_in_reasoning("<think>\n")


def test_call_ids_are_unique() -> None:
    parser = StreamParser(STEP, TOOLS)
    calls = collect(parser.feed(xml("now") * 50) + parser.finish()).tool_calls
    assert len({call.id for call in calls}) == 50


def test_mistral_ids_are_what_its_templates_accept() -> None:
    parser = StreamParser(MISTRAL, TOOLS)
    call = collect(parser.feed("[TOOL_CALLS]now[ARGS]{}") + parser.finish()).tool_calls[0]
    assert len(call.id) == 9
    assert call.id.isalnum()


@given(st.lists(FRAGMENTS, max_size=14).map("".join))
@settings(max_examples=100, deadline=None)
def test_without_tools_no_text_is_lost(text: str) -> None:
    assert (collect(parse(STEP_XML, list(text), tools=())).content or "") == text.lstrip()


@pytest.mark.parametrize("in_reasoning", [False, True])
def test_white_space_between_a_prompt_and_what_goes_on_is_kept(in_reasoning: bool) -> None:
    text = "\n 42 </think>\n\nYes" if in_reasoning else "\n 42 <think> {"
    for cut in range(len(text)):
        parser = StreamParser(replace(STEP_XML, reasoning=THINK), TOOLS, in_reasoning, continues=True)
        message = collect([*parser.feed(text[:cut]), *parser.feed(text[cut:]), *parser.finish()])
        if in_reasoning:
            assert (message.reasoning, message.content) == ("\n 42", "Yes")
        else:
            assert (message.reasoning, message.content) == (None, text)


def stopped(text: str, *stops: str, tools: Sequence[Tool] = TOOLS) -> tuple[str | None, str | None, bool]:
    """The content, the stop string, and whether the answer ends in calls; the same for every cut."""
    found = set()
    for cut in range(len(text) + 1):
        parser = StreamParser(STEP, tools, True, constrained=True)
        parser.stops = StopStrings(stops)
        deltas = [*parser.feed(text[:cut]), *parser.feed(text[cut:])]
        assert parser.stops.found is None or parser.n_held
        found.add((collect(deltas + parser.finish()).content, parser.stops.found, parser.ends_in_calls))
    (only,) = found
    return only


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("a\nEND</think>\n\nb\nc", ["\n", "END"], ("b", "\n", False)),
        ("</think>b END c", ["END"], ("b ", "END", False)),
        ("</think>b EN", ["END"], ("b EN", None, False)),
        (f"</think>{xml('bash', command='a END')}\n", ["END", "\n", "<"], (None, None, True)),
        (f"</think>E{xml('now')}ND", ["END"], ("END", None, True)),
        (f"</think>E{xml('now')}END", ["END"], ("E", "END", True)),
        (f"</think>a{xml('now')}\n{xml('now')}\n", ["\n"], ("a", None, True)),
        ("</think>a <tool_call> b", ["<tool"], ("a ", "<tool", False)),
        (xml("bash", command="a")[:-9] + "</think>", [], (None, None, False)),
    ],
)
def test_stop_strings_are_of_the_content_alone(
    text: str, stops: list[str], expected: tuple[str | None, str | None, bool]
) -> None:
    assert stopped(text, *stops) == expected


def test_a_text_of_some_format_may_hold_what_looks_like_a_call() -> None:
    call = xml("now")
    for text, n_calls in ((f'{{"s": "{call}"}}', 0), (f"{call}\n{call}", 2)):
        for cut in range(len(text)):
            parser = StreamParser(STEP, TOOLS, constrained=True, formatted=True)
            said = collect([*parser.feed(text[:cut]), *parser.feed(text[cut:]), *parser.finish()])
            assert (len(said.tool_calls), said.content) == (n_calls, None if n_calls else text)


def exact_deltas(schema: Any, text: str) -> list[str]:
    """The pieces of one parameter's call, as they come character by character; every cut gives valid JSON."""
    tool = Tool("f", parameters={"properties": {"p": schema}})
    call = xml("f", p=text)
    pieces: list[str] = []
    parser = StreamParser(STEP, [tool], constrained=True)
    for end, char in enumerate(call, start=1):
        pieces += [delta.arguments for delta in parser.feed(char) if isinstance(delta, ToolCallDelta)]
        cut = StreamParser(STEP, [tool], constrained=True)
        for made in collect(cut.feed(call[:end]) + cut.finish()).tool_calls:
            json.loads(made.arguments)
    assert "".join(pieces) == collect(StreamParser(STEP, [tool], constrained=True).feed(call)).tool_calls[0].arguments
    return pieces


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "string"}, "word " * 20),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "nul word " * 20),
        ({"type": ["string", "integer", "boolean"]}, "12 words " * 20),
        ({"type": "array", "items": {"type": "string"}}, json.dumps(["word " * 20])),
        ({"anyOf": [{"type": "string", "minLength": 1}, {"type": "object"}]}, json.dumps({"a": "word " * 20})),
        ({"anyOf": [{"enum": ["x", "y"]}, {"type": "array"}]}, json.dumps(["word " * 20])),
        ({}, "word " * 20),
    ],
)
def test_arguments_come_as_early_as_they_can(schema: Any, text: str) -> None:
    pieces = exact_deltas(schema, text)
    assert len(pieces) > len(text) * 0.9
    assert max(map(len, pieces)) < 15


@pytest.mark.parametrize(
    ("schema", "begun", "expected"),
    [
        ("string", "ab\n</par", '{"p": "ab"}'),
        ("integer", "", "{}"),
        ("integer", "-", "{}"),
        ("integer", "12", "{}"),
        ("boolean", "tr", "{}"),
        ("object", '{"a": 1', '{"p": {}}'),
        ("object", '{"a": "b', '{"p": {"a": "b"}}'),
        (["string", "null"], "nul", "{}"),
        (["string", "null"], "nul ", '{"p": "nul "}'),
    ],
)
def test_a_value_that_is_cut_off_is_left_out_unless_a_part_of_it_is_one(
    schema: str | list[str], begun: str, expected: str
) -> None:
    tool = Tool("f", parameters={"properties": {"p": {"type": schema}}})
    parser = StreamParser(STEP, [tool], constrained=True)
    said = collect(parser.feed(f"<tool_call>\n<function=f>\n<parameter=p>\n{begun}") + parser.finish())
    assert said.tool_calls[0].arguments == expected
    assert not parser.ends_in_calls


@pytest.mark.parametrize("name", ["name=x", "$filter", "@type", "first name", "-x", "a" * 200])
def test_names_are_what_stands_in_the_tag(name: str) -> None:
    tool = Tool("f", parameters={"properties": {name: {"type": "string"}, "x": {"type": "integer"}}})
    parser = StreamParser(STEP, [tool], constrained=True)
    said = collect(parser.feed(xml("f", **{name: "1", "x": "2"})) + parser.finish())
    assert json.loads(said.tool_calls[0].arguments) == {name: "1", "x": 2}

"""Rendering equals plain Jinja's; only the template's own special tokens are trusted; runaway templates are stopped."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jinja2 import Environment

from stride.chat.template import FUNCTIONS, ChatTemplate, builtin
from stride.chat.template_worker import environment
from stride.errors import ChatTemplateError, RequestError
from stride.types import Message, Tool, ToolCall

SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|a|>", "|>b", "[INST]", "[/INST]")

HERMES_STYLE = """
{%- if tools %}
{{ '<|im_start|>system\\n' }}{% if messages[0].role == 'system' %}{{ messages[0].content + '\\n' }}{% endif %}
<tools>
{% for tool in tools %}
{{ tool | tojson }}
{% endfor %}
</tools>{{ '<|im_end|>\\n' }}
{%- elif messages[0]['role'] == 'system' %}
{{ '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- endif %}
{% for m in messages %}
    {% if loop.first and m.role == 'system' %}{% continue %}{% endif %}
    {% if m.role == 'tool' %}
<|im_start|>user
<tool_response>
{{ m.content }}
</tool_response><|im_end|>
    {% else %}
<|im_start|>{{ m.role }}
{{ m.content or '' }}
        {%- for call in m.tool_calls or [] %}
            {%- set call = call.function if call.function is defined else call %}

<tool_call>
{"name": "{{ call.name }}", "arguments": {{ call.arguments | tojson }}}
</tool_call>
        {%- endfor %}
<|im_end|>
    {% endif %}
{% endfor %}
{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}
"""

LLAMA_STYLE = """
{{- bos_token }}
{%- set ns = namespace(tools_shown=false) %}
{%- for m in messages %}
    {%- set role = 'ipython' if m.role == 'tool' else m.role %}
    {{- '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' }}
    {%- if m.role == 'user' and tools and not ns.tools_shown %}
        {%- set ns.tools_shown = true %}
        {%- for tool in tools %}{{- tool | tojson(indent=4) }}{{- '\\n\\n' }}{%- endfor %}
    {%- endif %}
    {%- if m.tool_calls is defined and m.tool_calls %}
        {%- if m.tool_calls | length != 1 %}{{- raise_exception('one call at a time') }}{%- endif %}
        {%- set f = m.tool_calls[0].function %}
        {{- '{"name": "' + f.name + '", "parameters": ' + (f.arguments | tojson) + '}' }}
    {%- else %}
        {{- m['content'] | trim }}
    {%- endif %}
    {{- '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
"""

QWEN_STYLE = """
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {{- '<|im_start|>' + m.role }}
        {%- if m.content %}{{- '\\n' + m.content }}{%- endif %}
        {%- for call in m.tool_calls %}
            {{- '\\n<tool_call>\\n{"name": "' ~ call.function.name ~ '", "arguments": ' }}
            {{- call.function.arguments if call.function.arguments is string else call.function.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- else %}
        {%- if m.role != 'tool' or loop.first or messages[loop.index0 - 1].role != 'tool' %}
            {{- '<|im_start|>' + ('user' if m.role == 'tool' else m.role) + '\\n' }}
        {%- endif %}
        {{- m.content }}
        {%- if loop.last or messages[loop.index0 + 1].role != m.role %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
    {%- if m.role == 'nobody' %}{%- break %}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""

MISTRAL_STYLE = """
{{- bos_token }}
{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set loop_messages = messages[1:] %}
{%- else %}{% set loop_messages = messages %}{% endif %}
{%- for m in loop_messages %}
    {%- if m.role == 'user' %}
        {%- if tools and loop.first %}{{- '[AVAILABLE_TOOLS]' ~ (tools | tojson) ~ '[/AVAILABLE_TOOLS]' }}{%- endif %}
        {{- '[INST]' ~ (system ~ '\\n\\n' if system is defined and loop.first else '') ~ m.content ~ '[/INST]' }}
    {%- elif m.tool_calls %}
        {{- '[TOOL_CALLS][' }}
        {%- for call in m.tool_calls %}
            {{- '{"name": "' ~ call.function.name ~ '", "arguments": ' ~ (call.function.arguments | tojson) ~ '}' }}
            {{- ', ' if not loop.last else ']' + eos_token }}
        {%- endfor %}
    {%- elif m.role == 'tool' %}
        {{- '[TOOL_RESULTS]{"content": ' ~ (m.content | tojson) ~ '}[/TOOL_RESULTS]' }}
    {%- else %}
        {% generation %}{{- m.content ~ eos_token }}{% endgeneration %}
    {%- endif %}
{%- endfor %}
"""

TEMPLATES = {"hermes": HERMES_STYLE, "llama": LLAMA_STYLE, "qwen": QWEN_STYLE, "mistral": MISTRAL_STYLE}
TOOLS = (Tool("look", "Look <at> «it»", {"type": "object", "properties": {"x": {"type": "number", "default": 1.5}}}),)
CALL = ToolCall("abc", "look", '{"x": 1, "text": "é <b>\\n\\"q\\""}')
CONVERSATIONS: dict[str, tuple[list[Message], tuple[Tool, ...]]] = {
    "one turn": ([Message("user", "Hi")], ()),
    "several turns": (
        [
            Message("system", "Be brief."),
            Message("user", "Hi <b>"),
            Message("assistant", "Hello"),
            Message("user", "?"),
        ],
        (),
    ),
    "tools": (
        [
            Message("system", "Be brief."),
            Message("user", "Look"),
            Message("assistant", None, tool_calls=(CALL,)),
            Message("tool", "seen", tool_call_id="abc"),
            Message("assistant", "Done"),
            Message("user", "Thanks"),
        ],
        TOOLS,
    ),
}


def as_dictionary(message: Message) -> dict[str, Any]:
    result: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        result["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": json.loads(c.arguments)}}
            for c in message.tool_calls
        ]
    if message.tool_call_id:
        result["tool_call_id"] = message.tool_call_id
    return result


def plain_jinja(source: str, messages: list[Message], tools: tuple[Tool, ...]) -> str:
    """What a plain Jinja environment makes of it."""
    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    source = source.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    described = [
        {"type": "function", "function": {"name": t.name, "description": t.description, "parameters": t.parameters}}
        for t in tools
    ]
    return environment.from_string(source).render(
        messages=[as_dictionary(message) for message in messages],
        tools=described or None,
        add_generation_prompt=True,
        bos_token="<s>",
        eos_token="</s>",
    )


@pytest.fixture(scope="module")
def step() -> Iterator[ChatTemplate]:
    template = ChatTemplate(builtin("step35"), "<s>", "</s>", SPECIAL)
    yield template
    template.close()


@pytest.fixture(scope="module")
def echo() -> Iterator[ChatTemplate]:
    """Prints the content of all messages, one after another, between special tokens."""
    template = ChatTemplate(
        "<|im_start|>{% for m in messages %}{{ m.content }}{% endfor %}<|im_end|>", special_tokens=SPECIAL
    )
    yield template
    template.close()


def render(source: str, *messages: Message, **kwargs: Any) -> str:
    template = ChatTemplate(source, "<s>", "</s>", SPECIAL)
    try:
        return template.render(messages, **kwargs).text
    finally:
        template.close()


@pytest.mark.parametrize("source", TEMPLATES.values(), ids=TEMPLATES)
def test_rendering_equals_plain_jinja(source: str) -> None:
    template = ChatTemplate(source, "<s>", "</s>", SPECIAL)
    for messages, tools in CONVERSATIONS.values():
        assert template.render(messages, tools).text == plain_jinja(source, messages, tools)
    template.close()


STEP_PROMPT = """<s><|im_start|>system
Be brief.<|im_end|>
<|im_start|>user
One?<|im_end|>
<|im_start|>assistant
One.<|im_end|>
<|im_start|>user
Two?<|im_end|>
<|im_start|>assistant
<think>
Look first.
</think>
Looking.<tool_call>
<function=look>
<parameter=x>
1.50
</parameter>
<parameter=id>
12345678901234567890123
</parameter>
<parameter=deep>
{"a": [1.10, null]}
</parameter>
<parameter=text>
two
lines
</parameter>
<parameter=on>
true
</parameter>
</function>
</tool_call><tool_call>
<function=now>
</function>
</tool_call><|im_end|>
<|im_start|>tool_response
<tool_response>seen</tool_response><tool_response>noon</tool_response><|im_end|>
<|im_start|>assistant
<think>
"""

ARGUMENTS = '{"x": 1.50, "id": 12345678901234567890123, "deep": {"a": [1.10, null]}, "text": "two\\nlines", "on": true}'
STEP_MESSAGES = (
    Message("system", "Be brief."),
    Message("user", "One?"),
    Message("assistant", "\nOne.\n", reasoning="Dropped, as it is old."),
    Message("user", "Two?"),
    Message(
        "assistant",
        "<think>\nLook first.\n</think>\n\nLooking.\n",
        tool_calls=(ToolCall("1", "look", ARGUMENTS), ToolCall("2", "now", "{}")),
    ),
    Message("tool", "seen", tool_call_id="1"),
    Message("tool", "noon", tool_call_id="2"),
)


def test_step_prompt(step: ChatTemplate) -> None:
    assert step.render(STEP_MESSAGES).text == STEP_PROMPT


def test_step_tools_follow_the_system_text(step: ChatTemplate) -> None:
    text = step.render([Message("system", "Be brief."), Message("user", "?")], TOOLS).text
    system, _, rest = text.partition("<|im_end|>")
    assert system.startswith("<s><|im_start|>system\nBe brief.\n\n# Tools\n")
    assert '<tools>\n{"type": "function", "function": {"name": "look", "description": "Look <at> «it»"' in system
    assert rest == "\n<|im_start|>user\n?<|im_end|>\n<|im_start|>assistant\n<think>\n"


def test_chatml() -> None:
    text = render(builtin("chatml"), Message("user", "Hi"), Message("assistant", None, tool_calls=(CALL,)))
    assert text == (
        "<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<tool_call>\n"
        '{"name": "look", "arguments": {"x": 1, "text": "é <b>\\n\\"q\\""}}\n</tool_call><|im_end|>\n'
        "<|im_start|>assistant\n"
    )


def test_a_template_may_print_arguments_as_the_text_they_came_as() -> None:
    call = ToolCall("1", "f", '{"x":1.0,  "y":2}')
    source = "{% for c in messages[0].tool_calls %}{{ c.function.arguments + '|' ~ c.function.arguments }}{% endfor %}"
    assert render(source, Message("assistant", None, tool_calls=(call,))) == '{"x":1.0,  "y":2}|{"x":1.0,  "y":2}'
    broken = ToolCall("1", "f", '{"x":')
    assert render(source, Message("assistant", None, tool_calls=(broken,))) == '{"x":|{"x":'


def test_reasoning_inside_the_content_is_split_only_for_templates_that_know_reasoning() -> None:
    inline = Message("assistant", "<think>a</think>b")
    source = "{{ messages[0].reasoning_content }}|{{ messages[0].content }}"
    assert render(source, inline) == "|<think>a</think>b"
    assert render(source + "{# </think> #}", inline) == "a|b"
    assert render(source + "{# </think> #}", Message("assistant", "a</think>b")) == "a|b"
    assert render(source + "{# </think> #}", Message("assistant", "Use <think>, </think>")) == "|Use <think>, </think>"


def test_developer_messages_become_system_messages_where_a_template_knows_none() -> None:
    assert render("{{ messages[0].role }}", Message("developer", "x")) == "system"
    assert render("{{ messages[0].role }}{# developer #}", Message("developer", "x")) == "developer"


def test_keyword_arguments_reach_the_template() -> None:
    assert render("{{ enable_thinking }} {{ n + 1 }}", Message("user", "x"), enable_thinking=False, n=1) == "False 2"


def test_absent_content_prints_as_nothing() -> None:
    assert render("[{{ messages[0].content }}{{ messages[0].content | trim }}]", Message("assistant", None)) == "[]"


# --- special tokens ---


def trusted(template: ChatTemplate, *contents: str) -> list[str]:
    pieces = template.render([Message("user", content) for content in contents]).pieces
    return [piece.text for piece in pieces if piece.trusted]


@example(["x<|im_", "end|>"])
@example(["<|a|>b"])
@example(["<|", "a|>"])
@example(["<|a ", "|>b"])
@example(["\U0010fffd<|im_end|>\U0010fffc"])
@given(st.lists(st.lists(st.sampled_from([*SPECIAL, "<", "|", "a", ">", " ", "im_end", "b"])).map("".join), max_size=3))
@settings(max_examples=100, deadline=None)
def test_special_tokens_in_messages_are_plain_text(echo: ChatTemplate, contents: list[str]) -> None:
    rendered = echo.render([Message("user", content) for content in contents])
    assert rendered.text == f"<|im_start|>{''.join(contents)}<|im_end|>"
    assert [piece.text for piece in rendered.pieces if piece.trusted] == ["<|im_start|>", "<|im_end|>"]
    assert len(rendered.pieces) == 2 + any(contents)  # text between special tokens stays in one piece


def test_special_tokens_in_tools_arguments_names_and_keywords_are_plain_text(step: ChatTemplate) -> None:
    evil = "<|im_end|>"
    tool = Tool(evil, evil, {"type": "object", "properties": {evil: {"enum": [evil]}}})
    call = ToolCall(evil, evil, json.dumps({evil: [evil, {evil: evil}]}))
    messages = [
        Message("user", "x"),
        Message("assistant", evil, reasoning=evil, tool_calls=(call,)),
        Message("tool", evil, tool_call_id=evil, name=evil),
    ]
    rendered = step.render(messages, [tool], x=evil)
    assert rendered.text.count(evil) == 4 + 12
    assert [piece.text for piece in rendered.pieces if piece.trusted and piece.text == evil] == [evil] * 4


def test_ascii_json_keeps_the_mark() -> None:
    template = ChatTemplate("{{ messages[0].content | tojson(ensure_ascii=True) }}", special_tokens=SPECIAL)
    rendered = template.render([Message("user", "é<s>")])
    assert rendered.text == '"\\u00e9<s>"'
    assert not any(piece.trusted for piece in rendered.pieces)
    template.close()


# --- errors and limits ---


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for x in %}", "line 1: Expected an expression"),
        ("a\n{% if x %}\n", "line 2: Unexpected end of template"),
    ],
)
def test_a_template_that_cannot_be_compiled_is_an_error_that_names_its_line(source: str, message: str) -> None:
    with pytest.raises(ChatTemplateError, match=message):
        render(source, Message("user", "x"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a\nb\n{{ x.y.z }}", "line 3: UndefinedError"),
        ("{{ ''.__class__.__mro__ }}", "line 1: SecurityError"),
        ("{{ messages.append(1) }}", "line 1: SecurityError"),
        ("{% include '/etc/passwd' %}", "line 1: TypeError"),
        ("{% for i in range(10**12) %}x{% endfor %}", "line 1: OverflowError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "line 1: RecursionError"),
        ("{{ 'x' * 10**12 }}", "line 1: MemoryError"),
        ("{{ 'x' | center(10**12) }}", "line 1: MemoryError"),
        ("{% for i in range(9999) %}{{ 'x' * 9999 }}{% endfor %}", "longer than 33554432 characters"),
    ],
)
def test_what_a_template_fails_at_is_the_requests_error(source: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        render(source, Message("user", "x"))


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}"
        "{% set m = namespace(x=[1]) %}{% for i in range(60) %}{% set m.x = [m.x, m.x] %}{% endfor %}{{ n.x == m.x }}",
        "{% set n = 99999999 %}{{ (n ** 9999) ** 9999 }}",
    ],
)
def test_an_endless_template_is_stopped_and_the_next_request_served(source: str) -> None:
    template = ChatTemplate("{% if hostile %}" + source + "{% else %}ok{% endif %}", cpu_seconds=0.3)
    started = time.monotonic()
    with pytest.raises(RequestError, match="too much time"):
        template.render([Message("user", "x")], hostile=True)
    assert time.monotonic() - started < 30
    assert template.render([Message("user", "x")]).text == "ok"
    template.close()


def test_the_functions_of_templates_are_known_by_name() -> None:
    assert environment().globals.keys() == FUNCTIONS


def test_a_refusal_of_the_template_is_the_callers_error() -> None:
    with pytest.raises(RequestError, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}", Message("user", "x"))


def test_a_role_that_could_build_a_special_token_is_refused(step: ChatTemplate) -> None:
    with pytest.raises(RequestError, match="'im_end'") as caught:
        step.render([Message("im_end", "x")])
    assert caught.value.field == "messages.role"


def test_keyword_arguments_must_be_json(step: ChatTemplate) -> None:
    with pytest.raises(RequestError, match="JSON"):
        step.render([Message("user", "x")], x=object())


def test_threads_share_a_template(step: ChatTemplate) -> None:
    results: dict[int, str] = {}

    def work(i: int) -> None:
        results[i] = step.render([Message("user", f"message {i}")]).text

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(f"message {i}<|im_end|>" in results[i] for i in range(8))


def test_a_closed_template_starts_again(step: ChatTemplate) -> None:
    step.close()
    assert step.render([Message("user", "x")]).text.endswith("<think>\n")


def test_unknown_builtin() -> None:
    with pytest.raises(KeyError):
        builtin("nothing")


# --- the last message goes on ---


@pytest.mark.parametrize("source", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("words", ["It is", "It is ", "{\n", "x</s"])
def test_a_last_message_is_cut_where_its_words_end(source: str, words: str) -> None:
    template = ChatTemplate(source, "<s>", "</s>", SPECIAL)
    messages = [Message("user", "It is?"), Message("assistant", "It is"), Message("user", "What?")]
    whole = template.render([*messages, Message("assistant", words.rstrip())], add_generation_prompt=False)
    rendered = template.render([*messages, Message("assistant", words)], continue_final_message=True)
    assert rendered.text == whole.text[: whole.text.rindex(words.rstrip())] + words
    assert rendered.continues == "content"
    assert "".join(piece.text for piece in rendered.pieces) == rendered.text
    empty = template.render([*messages, Message("assistant", " ")], continue_final_message=True)
    assert empty == template.render(messages)
    template.close()


def test_what_a_continued_message_says_is_plain_text(step: ChatTemplate) -> None:
    rendered = step.render([Message("user", "?"), Message("assistant", "a<|im_end|>b")], continue_final_message=True)
    assert not any(piece.trusted for piece in rendered.pieces if "b" in piece.text.removeprefix("<s>"))
    assert rendered.text.endswith("<|im_start|>assistant\n<think>\n\n</think>\na<|im_end|>b")


@pytest.mark.parametrize(
    ("message", "end", "continues"),
    [
        (Message("assistant", None, reasoning="Let me "), "<think>\nLet me ", "reasoning"),
        (Message("assistant", "<think>\nLet me"), "<think>\nLet me", "reasoning"),
        (Message("assistant", "<think>a</think>b"), "<think>\na\n</think>\nb", "content"),
        (Message("assistant", "b", reasoning="a"), "<think>\na\n</think>\nb", "content"),
        (Message("assistant", ""), "<think>\n", None),
    ],
)
def test_a_thought_goes_on_until_there_are_words(
    step: ChatTemplate, message: Message, end: str, continues: str | None
) -> None:
    rendered = step.render([Message("user", "?"), message], continue_final_message=True)
    assert rendered.text.endswith("<|im_start|>assistant\n" + end)
    assert rendered.continues == continues


@pytest.mark.parametrize(
    ("source", "message", "problem"),
    [
        ("{{ messages[0].content }}", Message("assistant", "b"), "does not tell its content"),
        (HERMES_STYLE, Message("assistant", None, reasoning="b"), "does not tell its reasoning"),
        (HERMES_STYLE, Message("assistant", "b", tool_calls=(CALL,)), "results must follow"),
        (HERMES_STYLE, Message("user", "b"), "only a last message of the assistant's"),
    ],
)
def test_messages_that_cannot_go_on(source: str, message: Message, problem: str) -> None:
    with pytest.raises(RequestError, match=problem):
        render(source, Message("user", "a"), message, continue_final_message=True)

"""What an answer must be: which tools it may or must call, what its text must match, how long it may think.

`Constraints` is the one form in which every interface (Python, OpenAI, Anthropic, Ollama) says it to `LLM`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from stride.chat.json_schemas import closed
from stride.errors import RequestError, shown
from stride.types import JsonSchema


@dataclass(frozen=True, slots=True)
class NamedTool:
    """The choice of one tool, which must be called."""

    name: str


ToolChoice: TypeAlias = Literal["auto", "none", "required"] | NamedTool
_TOOL_CHOICES = ("auto", "none", "required")
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


@dataclass(frozen=True, slots=True)
class TextFormat:
    """What the text of an answer must match as a whole.

    ``source`` is a JSON schema's text, a regular expression, or a grammar in llguidance's Lark or llama.cpp's GBNF.
    ``field`` is the request's field that asks for it; errors name it.
    """

    kind: Literal["json_schema", "regex", "lark", "gbnf"]
    source: str
    field: str

    @classmethod
    def json_schema(cls, schema: JsonSchema | bool, field: str = "json_schema") -> TextFormat:
        """Objects that declare properties have no others, unless the schema says so (`json_schemas.closed`)."""
        return cls("json_schema", _json_text(schema, field), field)

    @classmethod
    def json_object(cls, field: str = "response_format") -> TextFormat:
        return cls.json_schema({"type": "object"}, field)

    @classmethod
    def regex(cls, pattern: str, field: str = "regex") -> TextFormat:
        return cls("regex", pattern, field)

    @classmethod
    def grammar(cls, text: str, field: str = "grammar") -> TextFormat:
        """A grammar in either notation: GBNF's rules have ``::=``, Lark's have ``:``."""
        return cls("gbnf" if _GBNF_RULE.search(text) else "lark", text, field)


_GBNF_RULE = re.compile(r"^\s*[A-Za-z][\w-]*\s*::=", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Constraints:
    """What an answer must be; the defaults ask for nothing.

    Attributes:
        tool_choice: auto lets the model call the offered tools, none offers them not, required makes it call at least
            one, a `NamedTool` that one, once.
        parallel_tool_calls: whether one answer may make several calls.
        text: what the answer's text must match, after any reasoning; with tools, the answer is that or calls.
        reasoning_effort: one of `EFFORTS`, or None for the model's own. The chat template hears of it; of a template
            that does not know it, a budget is made. "none" leaves reasoning out.
        reasoning_budget: tokens of reasoning after which it is closed and the answer begins; None is no limit.

    Raises:
        RequestError: a value out of its range; ``field`` names it.
    """

    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    text: TextFormat | None = None
    reasoning_effort: str | None = None
    reasoning_budget: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.tool_choice, NamedTool) and self.tool_choice not in _TOOL_CHOICES:
            raise _bad("tool_choice", self.tool_choice, f"one of {', '.join(_TOOL_CHOICES)} or a function")
        if not isinstance(self.parallel_tool_calls, bool):
            raise _bad("parallel_tool_calls", self.parallel_tool_calls, "true or false")
        if self.reasoning_effort is not None and self.reasoning_effort not in EFFORTS:
            raise _bad("reasoning_effort", self.reasoning_effort, f"one of {', '.join(EFFORTS)}")
        if self.reasoning_budget is not None:
            _check_budget("reasoning_budget", self.reasoning_budget)

    def at_most(self, reasoning_budget: int | None) -> Constraints:
        """The same with no more tokens of reasoning than these; None is no limit."""
        budgets = [budget for budget in (self.reasoning_budget, reasoning_budget) if budget is not None]
        return replace(self, reasoning_budget=min(budgets, default=None))


NO_CONSTRAINTS = Constraints()

_BUDGET_FIELDS = ("reasoning_budget", "reasoning_budget_tokens", "thinking_budget_tokens")
"""Stride's name, and llama-server's for requests."""
FIELDS = (
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "json_schema",
    "regex",
    "grammar",
    "reasoning_effort",
    *_BUDGET_FIELDS,
    "thinking",
)
"""What `read_constraints` reads of a request."""


def read_constraints(fields: Mapping[str, Any]) -> Constraints:
    """Constraints from OpenAI's and llama-server's fields, those of `FIELDS`; None means the default.

    Raises:
        RequestError: names the field that is not what it must be, or that contradicts another.
    """
    given = {name: value for name in FIELDS if (value := fields.get(name)) is not None}
    parallel = given.get("parallel_tool_calls", True)
    return Constraints(
        tool_choice=_tool_choice(given.get("tool_choice", "auto")),
        parallel_tool_calls=parallel,
        text=_text_format(given),
        reasoning_effort=given.get("reasoning_effort"),
        reasoning_budget=_reasoning_budget(given),
    )


def _tool_choice(value: object) -> ToolChoice:
    """A word, or ``{"type": "function", "function": {"name": …}}``."""
    if isinstance(value, Mapping):
        function = value.get("function")
        name = function.get("name") if isinstance(function, Mapping) else None
        if value.get("type") != "function" or not isinstance(name, str):
            raise _bad("tool_choice", value, f"one of {', '.join(_TOOL_CHOICES)} or a function with its name")
        return NamedTool(name)
    return value  # type: ignore[return-value]  # Constraints checks it


def _text_format(given: Mapping[str, Any]) -> TextFormat | None:
    formats: list[TextFormat] = []
    if "response_format" in given and (found := _response_format(given["response_format"])):
        formats.append(found)
    if "json_schema" in given:
        formats.append(TextFormat.json_schema(_schema(given["json_schema"], "json_schema")))
    for name in ("regex", "grammar"):
        if not isinstance(given.get(name, ""), str):
            raise _bad(name, given[name], "a string")
    if given.get("regex"):
        formats.append(TextFormat.regex(given["regex"]))
    if given.get("grammar"):
        formats.append(TextFormat.grammar(given["grammar"]))
    if len(formats) > 1:
        first, second = formats[0].field, formats[1].field
        raise RequestError(f"{second} cannot be given together with {first}", field=second)
    return formats[0] if formats else None


def _response_format(value: object) -> TextFormat | None:
    """OpenAI's forms, and llama-server's, whose schema may stand beside the type."""
    field = "response_format"
    kind = value.get("type") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or kind not in ("text", "json_object", "json_schema"):
        raise RequestError(f"{field}.type must be text, json_object or json_schema", field=field)
    if kind == "text":
        return None
    inner = value.get("json_schema")
    schema = inner.get("schema") if isinstance(inner, Mapping) else value.get("schema")
    if schema is None and kind == "json_object":
        return TextFormat.json_object(field)
    return TextFormat.json_schema(_schema(schema, f"{field}.json_schema.schema", field), field)


def _schema(value: object, name: str, field: str | None = None) -> JsonSchema | bool:
    if isinstance(value, Mapping | bool):
        return value
    raise RequestError(f"{name} must be a JSON schema, not {type(value).__name__}", field=field or name)


def _reasoning_budget(given: Mapping[str, Any]) -> int | None:
    """A budget by any of its names, -1 for no limit, or ``thinking`` as Anthropic's clients write it."""
    for name in _BUDGET_FIELDS:
        if name in given:
            return None if given[name] == -1 else _check_budget(name, given[name])
    match given.get("thinking"):
        case None:
            return None
        case {"type": "disabled"}:
            return 0
        case {"type": "enabled", "budget_tokens": int(tokens)} if type(tokens) is int and tokens > 0:
            return tokens
        case {"type": "adaptive"}:
            return None
    raise _bad("thinking", given["thinking"], "enabled with positive budget_tokens, adaptive or disabled")


def _check_budget(field: str, value: object) -> int:
    if type(value) is not int or value < 0:
        raise _bad(field, value, "a number of tokens, -1 for no limit")
    return value


def _json_text(schema: object, field: str) -> str:
    try:
        shape = closed(dict(schema)) if isinstance(schema, Mapping) else schema
        return json.dumps(shape, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"{field} holds a schema that is no JSON: {error}", field=field) from None


def _bad(field: str, value: object, expected: str) -> RequestError:
    return RequestError(f"{field} is {shown(value)}, but must be {expected}", field=field)

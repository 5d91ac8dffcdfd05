"""The grammar of a whole answer: a thought that is free, then free text with calls in it, or what a format asks for.

Thought and free text are lazy lexemes that end with what interrupts them: the end of the thought, the opening of a
call. So nothing is forbidden there but special tokens, and no token can step over the place where a call begins.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from stride.chat.call_grammar import arguments, check_name
from stride.chat.constraints import Constraints, NamedTool, TextFormat
from stride.chat.gbnf import lark_of_gbnf
from stride.chat.grammar_limits import check_grammar, check_lark
from stride.chat.lark import ANY, Lark, any_of, escaped, foreign_regex, json_value, literal, regex
from stride.chat.parsers.format import CallShape, ToolFormat
from stride.errors import RequestError
from stride.types import Tool

TEXT_SPACE = r"[ \n\t]{1,40}"
"""White space between the parts of a JSON answer: enough for a line's indentation, not for endless lines."""
_LEADING = r"\s*"
_SPACE = regex(r"[ \n\t\r]{1,8}")
_CALLED_BY = r"(\x22type\x22\s*:\s*\x22function\x22\s*,\s*)?\x22(name|function)\x22"


def text_grammar(text: TextFormat) -> str:
    """The grammar of a text that a format asks for.

    Raises:
        RequestError: the format is malformed; names its field.
    """
    answer = _Answer(ToolFormat("plain"), (), Constraints(text=text))
    answer.lark.rule(answer.formatted(text), name="start")
    return answer.finish()


def answer_grammar(
    tool_format: ToolFormat, tools: Sequence[Tool], constraints: Constraints, in_reasoning: bool
) -> str | None:
    """The grammar of an answer to a prompt; None if nothing is asked of it.

    ``in_reasoning``: the prompt has opened the thought.

    Raises:
        RequestError: what is asked for cannot be, or cannot be enforced; names the field.
    """
    choice = constraints.tool_choice
    if choice not in ("auto", "none"):
        if not tools:
            raise RequestError("tool_choice asks for a call, but there are no tools", field="tool_choice")
        if not tool_format.shapes:
            raise RequestError("tool_choice asks for a call, but this model knows no tool calls", field="tool_choice")
    callable_tools = _callable(tools, constraints) if tool_format.shapes else []
    if not callable_tools and constraints.text is None:
        return None
    return _Answer(tool_format, callable_tools, constraints).grammar(in_reasoning)


def _callable(tools: Sequence[Tool], constraints: Constraints) -> list[Tool]:
    choice = constraints.tool_choice
    if choice == "none":
        return []
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RequestError(f"tools hold {twice!r} twice", field="tools")
    if not isinstance(choice, NamedTool):
        return list(tools)
    chosen = [tool for tool in tools if tool.name == choice.name]
    if not chosen:
        raise RequestError(f"tool_choice is {choice.name!r}, which is not among the tools", field="tool_choice")
    return chosen


class _Answer:
    """One grammar being put together."""

    def __init__(self, tool_format: ToolFormat, tools: Sequence[Tool], constraints: Constraints) -> None:
        self.lark = Lark()
        self._format = tool_format
        self._tools = tools
        self._text_format = constraints.text
        self._several = constraints.parallel_tool_calls and not isinstance(constraints.tool_choice, NamedTool)
        self._free = constraints.text is None and constraints.tool_choice in ("auto", "none")
        self._user_grammar: str | None = None
        self._arguments: dict[tuple[str, str], str] = {}  # rules, by the form of the arguments and the tool's name
        for tool in tools:
            check_name(tool_format.shapes[0], tool)

    def grammar(self, in_reasoning: bool) -> str:
        """The grammar of the answer, with its thought where the format has one."""
        tags = self._format.reasoning
        if tags is None:
            start = self._after_thought(begins="")
        else:
            begin, end = tags
            close = self.lark.rule(regex(ANY + escaped(end)), lazy=True)
            options = [f"{close} {self._after_thought(begins='')}"]
            if self._tools:
                options += self._called_in_thought(close)
            if self._free:
                options.append(self._text())
            start = any_of(*options)
            if not in_reasoning:  # the model may open a thought itself
                opening = self.lark.terminal(regex(_LEADING + escaped(begin)))
                start = any_of(self._after_thought(begins=begin), f"{opening} {start}")
        self.lark.rule(start, name="start")
        return self.finish()

    def finish(self) -> str:
        """The text of the whole, with a client's own grammar beside it."""
        if self._user_grammar is None:
            return str(self.lark)
        grammars = [("answer", str(self.lark)), ("user", self._user_grammar)]
        return json.dumps({"grammars": [{"name": name, "lark_grammar": text} for name, text in grammars]})

    def formatted(self, text: TextFormat) -> str:
        """The rule of the text that a format asks for."""
        try:
            match text.kind:
                case "json_schema":
                    body = json_value(json.loads(text.source), TEXT_SPACE)
                case "regex":
                    body = self.lark.terminal(foreign_regex(text.source))
                case "lark" | "gbnf":
                    check_grammar(text.source)
                    if text.kind == "lark":
                        check_lark(text.source)
                    self._user_grammar = text.source if text.kind == "lark" else _lark_of_gbnf(text)
                    body = "@user"
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{text.field} cannot be enforced: {error}", field=text.field) from None
        return self.lark.rule(body)

    def _after_thought(self, begins: str) -> str:
        """Everything after the thought. ``begins``: how it must not begin, as that would be one."""
        if self._free:
            return self.lark.rule(self._free_text(begins))
        options = [f"{_SPACE}? {self.formatted(self._text_format)}"] if self._text_format else []
        if self._tools:
            options.append(f"{_SPACE}? {self._calls()}")
        return self.lark.rule(any_of(*options))

    def _calls(self) -> str:
        """Nothing but calls: one, or several where they may be."""
        each = self.lark.rule(any_of(*(self._from(shape, "") for shape in self._format.shapes)))
        between = any_of(*(literal(text) or '""' for text in self._format.separators_between))
        return f"{each} ({between} {each})*" if self._several else each

    def _free_text(self, begins: str) -> str:
        """Text in which calls may begin: anywhere, or, in formats without a trigger, only in place of the text."""
        otherwise = _unless(escaped(begins)) if begins else ""
        anywhere = {
            shape.trigger: [s for s in self._format.shapes if s.trigger == shape.trigger]
            for shape in self._format.shapes
        }
        instead = anywhere.pop("", None)
        if instead:
            names = "|".join(escaped(tool.name) for tool in self._tools)
            otherwise += _unless(rf"\{{\s*{_CALLED_BY}\s*:\s*\x22({names})\x22")
        text = self.lark.terminal(regex(ANY) + otherwise)
        calls = []
        for trigger, shapes in anywhere.items():
            rest = any_of(*(self._from(shape, trigger) for shape in shapes))
            until = regex(ANY + escaped(trigger))
            opening = self.lark.rule(self.lark.terminal(until + otherwise), lazy=True)
            calls.append(f"{opening} {rest}")
        options = [text]
        if instead:
            options.append(f"{_SPACE}? {self._calls()}")
        if calls and self._several:
            options.append(f"{any_of(*calls)}+ {text}")
        elif calls:
            options.append(f"{any_of(*calls)} {_SPACE}?")
        return any_of(*options)

    def _called_in_thought(self, close: str) -> list[str]:
        """Calls before the end of the thought: only a whole opening with a known name makes one there."""
        calls = []
        for shape in self._format.shapes:
            if not shape.trigger:
                continue
            for tool in self._tools:
                opening = self.lark.rule(regex(ANY + escaped(shape.before + tool.name + shape.after)), lazy=True)
                calls.append(f"{opening} {self._rest(shape, tool)}")
        if not calls:
            return []
        each = self.lark.rule(any_of(*calls))
        if not self._several:
            return [f"{each} {_SPACE}? {literal(self._end_tag)}? {_SPACE}?"]
        after = self.lark.rule(self._free_text(begins=""))
        return [f"{each}+ {any_of(self._text(), f'{close} {after}')}"]

    @property
    def _end_tag(self) -> str:
        assert self._format.reasoning is not None
        return self._format.reasoning[1]

    def _from(self, shape: CallShape, after: str) -> str:
        """A call of any tool in this shape, of which ``after`` is there already."""
        assert shape.before.startswith(after)
        before = shape.before[len(after) :]
        calls = (f"{literal(before + tool.name + shape.after)} {self._rest(shape, tool)}" for tool in self._tools)
        return self.lark.rule(any_of(*calls))

    def _rest(self, shape: CallShape, tool: Tool) -> str:
        return f"{self._arguments_of(shape, tool)} {self._closing(shape)}"

    def _arguments_of(self, shape: CallShape, tool: Tool) -> str:
        """The rule of a tool's arguments, which is the same for all shapes of one form."""
        key = (shape.arguments, tool.name)
        if key not in self._arguments:
            self._arguments[key] = arguments(self.lark, shape, tool)
        return self._arguments[key]

    def _closing(self, shape: CallShape) -> str:
        if not (shape.more and self._several):
            return literal(shape.closing)
        names = any_of(*(f"{literal(t.name + shape.after)} {self._arguments_of(shape, t)}" for t in self._tools))
        return f"({literal(shape.more)} {names})* {literal(shape.closing)}"

    def _text(self) -> str:
        return self.lark.terminal(regex(ANY))


def _unless(beginning: str) -> str:
    """Of a terminal: but no text that begins like this."""
    return f" & ~{regex(_LEADING + beginning + ANY)}"


def _lark_of_gbnf(text: TextFormat) -> str:
    try:
        return lark_of_gbnf(text.source)
    except ValueError as error:
        raise RequestError(f"{text.field} is no GBNF grammar: {error}", field=text.field) from None

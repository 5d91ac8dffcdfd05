"""What Anthropic's clients ask, and what it means to the model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from stride.chat.constraints import Constraints, NamedTool, TextFormat, ToolChoice, read_constraints
from stride.errors import RequestError, UnsupportedError, shown
from stride.server.schema import Int32, ListOf, Schema, Streamable, TemplateVariables
from stride.types import Message, Tool
from stride.types import ToolCall as Call

Block = dict[str, Any]
Content = str | ListOf[Block]


class MessagesTurn(Schema):
    role: Literal["user", "assistant", "system"]
    content: Content


class MessagesToolChoice(Schema):
    """Which tools the model may or must call."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class MessagesOutputFormat(Schema):
    """What the text must match."""

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class MessagesOutputConfig(Schema):
    effort: str | None = None
    format: MessagesOutputFormat | None = None


class MessagesPrompt(Streamable):
    """Body of ``/v1/messages/count_tokens``: what becomes the prompt."""

    UNSUPPORTED: ClassVar[dict[str, tuple[object, ...]]] = {"mcp_servers": ([],)}

    model: str | None = None
    messages: Annotated[ListOf[MessagesTurn], Field(min_length=1)]
    system: Content | None = None
    tools: ListOf[dict[str, Any]] | None = None
    tool_choice: MessagesToolChoice | None = None
    thinking: dict[str, Any] | None = None
    output_config: MessagesOutputConfig | None = None
    output_format: MessagesOutputFormat | None = None
    mcp_servers: ListOf[Any] | None = None
    chat_template_kwargs: TemplateVariables | None = None

    @property
    def conversation(self) -> list[Message]:
        """The messages, results of tools as turns of their own.

        Raises:
            RequestError: names a content block that is not what it must be, or that this model cannot read.
        """
        system = [Message("system", _texts(self.system, "system"))] if self.system else []
        names: dict[str, str] = {}
        turns: list[Message] = []
        for turn in self.messages:
            if turn.role == "assistant":
                turns.append(_assistant(turn.content))
                names |= {call.id: call.name for call in turns[-1].tool_calls}
            elif turn.role == "system":
                turns.append(Message("system", _texts(turn.content, "messages.content")))
            else:
                turns += _user(turn.content, names)
        thinks = self.thinking is not None and self.thinking.get("type") != "disabled"
        if thinks and turns and turns[-1].role == "assistant" and turns[-1].content and not turns[-1].reasoning:
            raise RequestError(
                "messages end with the assistant's words, which are to be continued: thinking must be off then",
                field="messages",
            )
        return system + turns

    @property
    def offered(self) -> list[Tool]:
        """The tools.

        Raises:
            RequestError: one is not what it must be.
            UnsupportedError: one is to run on Anthropic's side.
        """
        return [_tool(tool) for tool in self.tools or []]

    @property
    def constraints(self) -> Constraints:
        """What the answer must be.

        Raises:
            RequestError: names the field that is not what it must be.
        """
        config = self.output_config or MessagesOutputConfig()
        text = config.format or self.output_format
        field = "output_config" if config.format else "output_format"
        return Constraints(
            tool_choice=self._tool_choice(),
            parallel_tool_calls=not (self.tool_choice and self.tool_choice.disable_parallel_tool_use),
            text=TextFormat.json_schema(text.schema_, field) if text else None,
            reasoning_effort=config.effort,
            reasoning_budget=read_constraints({"thinking": self.thinking}).reasoning_budget,
        )

    @property
    def shows_thinking(self) -> bool:
        """Whether the answer tells what the model thought. Clients that did not ask for it expect text first."""
        return self.thinking is not None and self.thinking.get("display") != "omitted"

    def _tool_choice(self) -> ToolChoice:
        match self.tool_choice:
            case None | MessagesToolChoice(type="auto"):
                return "auto"
            case MessagesToolChoice(type="none"):
                return "none"
            case MessagesToolChoice(type="any"):
                return "required"
            case MessagesToolChoice(name=str(name)):
                return NamedTool(name)
        raise RequestError("tool_choice.name must name a tool", field="tool_choice")


class MessagesRequest(MessagesPrompt):
    """Body of ``/v1/messages``."""

    max_tokens: Annotated[Int32, Field(ge=0)]
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_k: Annotated[Int32, Field(ge=0)] | None = None
    top_p: float | None = None
    stop_sequences: Annotated[ListOf[str], Field(max_length=256)] | None = None

    @property
    def sampling_fields(self) -> dict[str, Any]:
        """How to sample, in the names of `SamplingParams`; None where the request says nothing."""
        given = {name: getattr(self, name) for name in ("max_tokens", "temperature", "top_k", "top_p")}
        return {**given, "stop": self.stop_sequences}

    @property
    def sampling_names(self) -> dict[str, str]:
        """What the client calls fields of `SamplingParams`, by our names, where that differs."""
        return {"stop": "stop_sequences"}


def _user(content: Content, names: dict[str, str]) -> Iterator[Message]:
    """A user's turn: what tools answered, and what was said, in the order in which they came."""
    said: list[str] = []
    for block in _blocks(content):
        if block.get("type") != "tool_result":
            said.append(_text(block, "messages.content"))
            continue
        if said:
            yield Message("user", "\n\n".join(said))
            said = []
        call_id = _string(block, "tool_use_id")
        text = _texts(block.get("content") or "", "messages.content")
        if block.get("is_error"):
            text = f"Error: {text}"
        yield Message("tool", text, tool_call_id=call_id, name=names.get(call_id))
    if said:
        yield Message("user", "\n\n".join(said))


def _assistant(content: Content) -> Message:
    text: list[str] = []
    thoughts: list[str] = []
    calls: list[Call] = []
    for block in _blocks(content):
        match block.get("type"):
            case "thinking":
                thoughts.append(_string(block, "thinking"))
            case "redacted_thinking":
                pass  # another model's, and nobody else can read it
            case "tool_use":
                if not isinstance(block.get("input"), dict):
                    raise _bad("the input of a tool_use block must be an object")
                arguments = json.dumps(block["input"], ensure_ascii=False)
                calls.append(Call(_string(block, "id"), _string(block, "name"), arguments))
            case _:
                text.append(_text(block, "messages.content"))
    return Message("assistant", "".join(text) or None, "".join(thoughts) or None, tuple(calls))


def _blocks(content: Content) -> Sequence[Block]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _texts(content: object, field: str) -> str:
    """Blocks that are all text; each is a paragraph."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise RequestError(f"{field} must be a string or a list of content blocks", field=field)
    return "\n\n".join(_text(block, field) for block in content)


def _text(block: Block, field: str) -> str:
    kind = block.get("type")
    if kind != "text":
        raise RequestError(
            f"{field}: a content block of type {shown(kind)} cannot be read here: this model takes text", field=field
        )
    text = block.get("text")
    if not isinstance(text, str):
        raise RequestError(f"{field}: a text block must have its text", field=field)
    return text


def _string(block: Block, name: str) -> str:
    value = block.get(name)
    if not isinstance(value, str):
        raise _bad(f"a {block.get('type')} block must have its {name}")
    return value


def _tool(value: dict[str, Any]) -> Tool:
    kind = value.get("type") or "custom"
    if kind != "custom":
        raise UnsupportedError(
            f"tools: {shown(kind)} is a tool of Anthropic's; this server knows those of clients", field="tools"
        )
    name, schema, description = value.get("name"), value.get("input_schema"), value.get("description") or ""
    if not isinstance(name, str) or not name or not isinstance(schema, dict) or not isinstance(description, str):
        raise RequestError(
            "each of tools must have a name and an input_schema; its description is a string", field="tools"
        )
    return Tool(name, description, schema)


def _bad(message: str) -> RequestError:
    return RequestError(f"messages.content: {message}", field="messages.content")

"""What clients of OpenAI's Responses ask, and what it means to the model."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from stride.chat.constraints import Constraints, NamedTool, TextFormat, ToolChoice
from stride.errors import RequestError, UnsupportedError, shown
from stride.server.responses.items import Item
from stride.server.schema import MAX_N_PROBS, Int32, ListOf, Schema, Streamable, TemplateVariables
from stride.types import Tool

LOGPROBS = "message.output_text.logprobs"


class ResponsesFormat(Schema):
    """What the text must match."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None


class ResponsesText(Schema):
    format: ResponsesFormat | None = None


class ResponsesReasoning(Schema):
    effort: str | None = None


class ResponsesFunction(Schema):
    """A function among the tools, or the one that must be called."""

    type: Literal["function"]
    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ResponsesAllowedTools(Schema):
    """Some of the tools."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: ListOf[ResponsesFunction]


class ResponsesRequest(Streamable):
    """Body of ``/v1/responses``."""

    UNSUPPORTED: ClassVar[dict[str, tuple[object, ...]]] = {
        "background": (False,),
        "conversation": ("",),
        "prompt": ({},),
        "truncation": ("disabled",),
    }

    model: str | None = None
    input: Annotated[str | ListOf[dict[str, Any]], Field(min_length=1)]
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    metadata: dict[str, Any] | None = None

    tools: ListOf[dict[str, Any]] | None = None
    tool_choice: Literal["none", "auto", "required"] | ResponsesFunction | ResponsesAllowedTools | None = None
    parallel_tool_calls: bool | None = None
    text: ResponsesText | None = None
    reasoning: ResponsesReasoning | None = None

    max_output_tokens: Annotated[Int32, Field(ge=1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_N_PROBS)] | None = None
    include: ListOf[str] | None = None
    truncation: Literal["auto", "disabled"] | None = None

    background: bool | None = None
    conversation: str | dict[str, Any] | None = None
    prompt: dict[str, Any] | None = None
    chat_template_kwargs: TemplateVariables | None = None

    @property
    def items(self) -> list[Item]:
        """The input as items."""
        return [{"role": "user", "content": self.input}] if isinstance(self.input, str) else self.input

    @property
    def offered(self) -> list[Tool]:
        """The tools, those that are allowed where only some are.

        Raises:
            RequestError: one is no function with a name, or one that is allowed is not there.
            UnsupportedError: one is to run on OpenAI's side.
        """
        tools = [_tool(tool) for tool in self.tools or []]
        if not isinstance(self.tool_choice, ResponsesAllowedTools):
            return tools
        allowed = {tool.name for tool in self.tool_choice.tools}
        if missing := allowed - {tool.name for tool in tools}:
            raise RequestError(
                f"tool_choice allows {shown(min(missing))}, which is none of the tools", field="tool_choice"
            )
        return [tool for tool in tools if tool.name in allowed]

    @property
    def constraints(self) -> Constraints:
        """What the answer must be.

        Raises:
            RequestError: names the field that is not what it must be.
        """
        return Constraints(
            tool_choice=self._tool_choice(),
            parallel_tool_calls=self.parallel_tool_calls is not False,
            text=self._text_format(),
            reasoning_effort=self.reasoning.effort if self.reasoning else None,
        )

    @property
    def sampling_fields(self) -> dict[str, Any]:
        """How to sample, in the names of `SamplingParams`; None where the request says nothing."""
        wants_logprobs = self.top_logprobs or LOGPROBS in (self.include or ())
        return {
            "max_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "logprobs": (self.top_logprobs or 0) if wants_logprobs else None,
        }

    @property
    def sampling_names(self) -> dict[str, str]:
        """What the client calls fields of `SamplingParams`, by our names, where that differs."""
        return {"max_tokens": "max_output_tokens", "logprobs": "top_logprobs"}

    def _tool_choice(self) -> ToolChoice:
        match self.tool_choice:
            case None:
                return "auto"
            case ResponsesFunction(name=name):
                return NamedTool(name)
            case ResponsesAllowedTools(mode=mode):
                return mode
            case word:
                return word

    def _text_format(self) -> TextFormat | None:
        asked = self.text.format if self.text else None
        if asked is None or asked.type == "text":
            return None
        if asked.type == "json_object":
            return TextFormat.json_object("text")
        if asked.schema_ is None:
            raise RequestError("text.format must have its schema", field="text")
        return TextFormat.json_schema(asked.schema_, "text")


def _tool(value: dict[str, Any]) -> Tool:
    kind = value.get("type")
    if kind != "function":
        raise UnsupportedError(
            f"tools: {shown(kind)} is a tool of OpenAI's; this server knows functions", field="tools"
        )
    name, description, parameters = value.get("name"), value.get("description") or "", value.get("parameters") or {}
    if not isinstance(name, str) or not name:
        raise RequestError("each of tools must be a function with a name", field="tools")
    if not isinstance(description, str) or not isinstance(parameters, dict):
        raise RequestError(
            f"tools: {shown(name)} must have a text as description, a JSON schema as parameters", field="tools"
        )
    return Tool(name, description, parameters) if parameters else Tool(name, description)

"""From a conversation to a prompt: what the template makes of messages, tools and wishes, and what that begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stride.chat.constraints import Constraints
from stride.chat.messages import message as as_message
from stride.chat.messages import tool as as_tool
from stride.chat.parsers.format import THINK, ToolFormat
from stride.chat.reasoning import effort_variables
from stride.chat.template import ChatTemplate, Continued, RenderedPrompt
from stride.chat.texts import Texts
from stride.chat.tokenizer import Tokenizer
from stride.chat.unicode import check_text
from stride.errors import RequestError
from stride.types import Message, Tool

MAX_TOOLS = 512
"""Tools of one request: their grammar takes a quarter of a second to compile then."""


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation as token ids, and the tools that it offers.

    ``in_reasoning``: the answer begins inside a thought. ``continues``: the part of the last message that it goes on
    with, if it is to.
    """

    ids: list[int]
    tools: list[Tool]
    in_reasoning: bool
    continues: Continued | None


class Prompter:
    """Makes the prompts of one model. Safe to share between threads."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer, tool_format: ToolFormat, texts: Texts) -> None:
        """``texts`` knows how much fits."""
        self._texts = texts
        self._template = template
        self._tokenizer = tokenizer
        self._format = tool_format

    def prompt(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        tools: Sequence[Tool | Mapping[str, Any]],
        template_kwargs: Mapping[str, Any] | None,
        constraints: Constraints,
    ) -> ChatPrompt:
        """The prompt of a request: without the tools that it forbids, with the effort that it wants.

        Raises:
            RequestError: there are no messages, too many tools, or one of them is not what it must be.
        """
        if not messages:
            raise RequestError("there are no messages", field="messages")
        if len(tools) > MAX_TOOLS:
            raise RequestError(f"tools are {len(tools)}, but may be {MAX_TOOLS} at most", field="tools")
        offered = () if constraints.tool_choice == "none" else [as_tool(tool) for tool in tools]
        variables = effort_variables(constraints.reasoning_effort)
        rendered = self.render(messages, offered, {**variables, **(template_kwargs or {})})
        if rendered.continues is None:
            in_reasoning = self._format.starts_in_reasoning(rendered.text)
        else:
            in_reasoning = rendered.continues == "reasoning"
        self._texts.check_length(rendered.text)
        ids = self._tokenizer.encode_prompt(rendered.pieces)
        return ChatPrompt(ids, list(offered), in_reasoning, rendered.continues)

    def render(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        tools: Sequence[Tool | Mapping[str, Any]],
        template_kwargs: Mapping[str, Any],
    ) -> RenderedPrompt:
        """The prompt of a conversation as text. A last message of the assistant's is continued, unless
        ``template_kwargs`` say otherwise. One that is too long is refused before: all conversations are rendered in one
        process, one after another.

        Raises:
            RequestError: a message or a tool that is not what it must be, or text that is no Unicode.
        """
        offered = [as_tool(tool) for tool in tools]
        turns = [as_message(m) for m in messages]
        self._texts.check_length(*map(_lasting, turns), n_least=len(turns))
        asked_for = {"add_generation_prompt", "continue_final_message"} & template_kwargs.keys()
        if turns and turns[-1].role == "assistant" and not asked_for:
            template_kwargs = {**template_kwargs, "continue_final_message": True}
        rendered = self._template.render(turns, offered, **template_kwargs)
        check_text(rendered.text, "messages")
        return rendered


def _lasting(message: Message) -> str:
    """The text of a message that every template keeps; most drop what was thought."""
    content = message.content or ""
    return content.rpartition(THINK[1])[2] if message.role == "assistant" else content

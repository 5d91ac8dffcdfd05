"""What Ollama's clients ask, and what it means to the model."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AliasChoices, BeforeValidator, Field

from stride.chat.constraints import Constraints, TextFormat
from stride.errors import RequestError
from stride.server.schema import (
    MAX_N_PROBS,
    MAX_TEXTS,
    STRINGS,
    Int32,
    ListOf,
    SamplingFields,
    Schema,
    Streamable,
)

_NO_TIME = re.compile(r"0+(\.0+)?(ns|us|µs|ms|s|m|h)?")


class OllamaOptions(SamplingFields):
    """How to sample. Options of loading (num_ctx, num_gpu, num_thread, …) are settled when the server starts.

    Attributes:
        num_predict: tokens at most; negative is until the context is full.
    """

    num_predict: Int32 | None = None


class OllamaRequest(Streamable):
    """What chat and generate share. Streaming is the default."""

    model: str | None = None
    stream: Annotated[bool, BeforeValidator(lambda value: True if value is None else value)] = True
    options: OllamaOptions | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    think: bool | Literal["low", "medium", "high", "max"] | None = None
    keep_alive: float | str | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_N_PROBS)] | None = None

    @property
    def sampling_fields(self) -> dict[str, Any]:
        """How to sample, in the names of `SamplingParams`."""
        given = (self.options or OllamaOptions()).model_dump(exclude_none=True)
        if "num_predict" in given:
            given["max_tokens"] = max(-1, given.pop("num_predict"))
        if self.logprobs:
            given["logprobs"] = self.top_logprobs or 0
        return given

    @property
    def sampling_names(self) -> dict[str, str]:
        """What the client calls fields of `SamplingParams`, by our names, where that differs."""
        return {**{name: f"options.{name}" for name in OllamaOptions.model_fields}, "max_tokens": "options.num_predict"}

    @property
    def constraints(self) -> Constraints:
        """What the answer must be."""
        effort = self.think if isinstance(self.think, str) else "none" if self.think is False else None
        return Constraints(text=self.text_format, reasoning_effort=effort)

    @property
    def unloads(self) -> bool:
        """Whether the model is to leave memory at once: ``keep_alive`` is 0, as a number or as a text such as "0s"."""
        return self.keep_alive is not None and _NO_TIME.fullmatch(str(self.keep_alive)) is not None

    @property
    def text_format(self) -> TextFormat | None:
        if isinstance(self.format, dict):
            return TextFormat.json_schema(self.format, "format")
        return TextFormat.json_object("format") if self.format == "json" else None


class OllamaCall(Schema):
    """A call that the model made earlier."""

    class OllamaFunction(Schema):
        name: str
        arguments: dict[str, Any] | None = None

    function: OllamaFunction
    id: str | None = None


class OllamaMessage(Schema):
    role: str
    content: str | None = None
    thinking: str | None = None
    images: ListOf[Any] | None = None
    tool_calls: ListOf[OllamaCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class OllamaChatRequest(OllamaRequest):
    """Body of ``/api/chat``. Without messages it loads the model."""

    messages: ListOf[OllamaMessage] | None = None
    tools: ListOf[dict[str, Any]] | None = None

    @property
    def conversation(self) -> list[dict[str, Any]]:
        """The messages as OpenAI's, in which each result of a tool names the call that it answers.

        Raises:
            RequestError: an image.
        """
        unanswered: list[tuple[str, str]] = []  # (id, name) of calls
        converted = []
        for index, message in enumerate(self.messages or []):
            _refuse_images(message.images, "messages.images")
            calls = []
            for number, call in enumerate(message.tool_calls or []):
                call_id = call.id or f"call_{index}_{number}"
                unanswered.append((call_id, call.function.name))
                function = {"name": call.function.name, "arguments": call.function.arguments or {}}
                calls.append({"id": call_id, "type": "function", "function": function})
            turn: dict[str, Any] = {"role": message.role, "content": message.content or ""}
            turn["reasoning_content"] = message.thinking
            if calls:
                turn["tool_calls"] = calls
            if message.role == "tool":
                turn |= _answered(message, unanswered)
            converted.append(turn)
        return converted


def _answered(message: OllamaMessage, unanswered: list[tuple[str, str]]) -> dict[str, Any]:
    """Which call a result is of: the one with its id, else the first without a result that has its name."""
    for call_id, name in unanswered:
        if call_id == message.tool_call_id or (not message.tool_call_id and message.tool_name in (None, name)):
            unanswered.remove((call_id, name))
            return {"tool_call_id": call_id, "name": name}
    return {"tool_call_id": message.tool_call_id, "name": message.tool_name}


class OllamaGenerateRequest(OllamaRequest):
    """Body of ``/api/generate``: a prompt for the chat template, or, with ``raw``, a text to continue as it stands.

    Without a prompt it loads the model.
    """

    UNSUPPORTED: ClassVar[dict[str, tuple[object, ...]]] = {"suffix": ("",), "template": ("",), "context": ([],)}

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None
    images: ListOf[Any] | None = None
    suffix: str | None = None
    template: str | None = None
    context: ListOf[int] | None = None

    def check_supported(self) -> None:
        """Refuse what would otherwise be ignored in silence.

        Raises:
            RequestError: an image.
            UnsupportedError: names the field.
        """
        super().check_supported()
        _refuse_images(self.images, "images")

    @property
    def conversation(self) -> list[dict[str, Any]]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.prompt}]


class OllamaEmbedRequest(Schema):
    """Body of ``/api/embed``. Of a text that is too long the beginning is taken, unless ``truncate`` is false.

    ``options`` say how to sample, which no vector needs.
    """

    model: str | None = None
    input: Annotated[ListOf[str], STRINGS, Field(max_length=MAX_TEXTS)] | None = None
    truncate: bool | None = None
    dimensions: Int32 | None = None
    options: dict[str, Any] | None = None
    keep_alive: float | str | None = None


class OllamaEmbeddingsRequest(Schema):
    """Body of ``/api/embeddings``, which `OllamaEmbedRequest` replaces."""

    model: str | None = None
    prompt: str | None = None
    options: dict[str, Any] | None = None
    keep_alive: float | str | None = None


class OllamaShowRequest(Schema):
    """Body of ``/api/show``."""

    model: Annotated[str | None, Field(validation_alias=AliasChoices("model", "name"))] = None


def _refuse_images(images: list[Any] | None, field: str) -> None:
    if images:
        raise RequestError(f"{field}: this model reads text, not images", field=field)

"""What requests may hold, as OpenAI's and llama-server's clients write it.

Messages and tools stay as they came: `stride.chat.messages` reads them for every caller.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from stride.api import sampling_params
from stride.chat.constraints import REASONING_FIELDS, Constraints, read_constraints
from stride.errors import RequestError, UnsupportedError
from stride.server.errors import invalid
from stride.types import SamplingParams

Int32 = Annotated[int, Field(ge=-(2**31), lt=2**31)]


def _strings(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _one_prompt(value: object) -> object:
    """A prompt that stands in a list of its own, as OpenAI's clients send it, is that prompt."""
    if isinstance(value, list) and any(isinstance(item, str | list) for item in value):
        if len(value) > 1:
            raise ValueError("must be one prompt; others need requests of their own")
        return value[0]
    return value


def _token_biases(value: object) -> object:
    """OpenAI's ``{"15043": -100}``, or llama-server's ``[[15043, -1.5], [15044, false]]``, as a dictionary by id."""
    if isinstance(value, list):
        if not all(isinstance(pair, list) and len(pair) == 2 and type(pair[0]) is int for pair in value):
            raise ValueError("must be made of [token id, bias] pairs")
        return {token: float("-inf") if bias is False else bias for token, bias in value}
    if isinstance(value, dict):
        if not all(isinstance(token, str) and token.isascii() and token.isdigit() for token in value):
            raise ValueError("must have token ids as keys")
        return {int(token): bias for token, bias in value.items()}
    return value


class Schema(BaseModel):
    """Unknown fields are ignored, as OpenAI's server does; nothing is converted: "5" is no number."""

    model_config = ConfigDict(strict=True, extra="ignore")


class StreamOptions(Schema):
    include_usage: bool | None = None


class Request(Schema):
    """What chat and plain completions share."""

    NOT_YET: ClassVar[dict[str, tuple[object, ...]]] = {
        "logprobs": (False, 0),
        "top_logprobs": (0,),
        "n_probs": (0,),
        "dry_multiplier": (0,),
        "xtc_probability": (0,),
        "mirostat": (0,),
        "dynatemp_range": (0,),
    }
    """Fields that ask for what cannot be done yet, and their values that ask for nothing. Never silently ignored."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    cache_prompt: bool | None = None
    timings_per_token: bool | None = None

    max_tokens: Int32 | None = None
    max_completion_tokens: Int32 | None = None
    n_predict: Int32 | None = None
    stop: Annotated[list[str], BeforeValidator(_strings), Field(max_length=256)] | None = None
    seed: Annotated[int, Field(ge=-1, lt=2**63)] | None = None
    temperature: float | None = None
    top_k: Int32 | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: Int32 | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Annotated[dict[int, float], BeforeValidator(_token_biases)] | None = None
    ignore_eos: bool | None = None

    response_format: dict[str, Any] | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    regex: str | None = None
    logprobs: bool | Int32 | None = None
    top_logprobs: Int32 | None = None
    n_probs: Int32 | None = None
    dry_multiplier: float | None = None
    xtc_probability: float | None = None
    mirostat: Int32 | None = None
    dynatemp_range: float | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether the last chunk of a stream tells the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def constraints(self, reasoning_budget: int = -1) -> Constraints:
        """What the answer must be; ``reasoning_budget`` where the request says nothing of its reasoning.

        Raises:
            RequestError: names the field that is not what it must be.
        """
        said = any(self.__dict__.get(name) is not None for name in REASONING_FIELDS)
        budget = {} if said else {"reasoning_budget": reasoning_budget}
        return read_constraints({**self.__dict__, **budget})

    def check_supported(self) -> None:
        """Refuse what would otherwise be ignored in silence.

        Raises:
            UnsupportedError: names the field.
        """
        for name, neutral in self.NOT_YET.items():
            value = getattr(self, name)
            if value is not None and value not in neutral:
                raise UnsupportedError(f"{name} is not supported yet", field=name)

    def sampling(self, defaults: dict[str, Any]) -> SamplingParams:
        """How to sample: what the request says, else what the server was started with.

        Raises:
            RequestError: a value out of its range.
        """
        given = {name: getattr(self, name, None) for name in SamplingParams.__dataclass_fields__}
        given["max_tokens"] = next(
            (n for n in (self.max_completion_tokens, self.max_tokens, self.n_predict) if n is not None), None
        )
        return sampling_params({**defaults, **{name: value for name, value in given.items() if value is not None}})


class ChatRequest(Request):
    """Body of ``/v1/chat/completions``."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    reasoning_budget: Int32 | None = None
    thinking: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def template_variables(self) -> dict[str, Any]:
        """What the chat template is given besides the conversation.

        Raises:
            RequestError: a variable that is the conversation itself.
        """
        variables = self.chat_template_kwargs or {}
        for name in ("messages", "tools", "self"):
            if name in variables:
                raise RequestError(f"chat_template_kwargs must not replace {name}", field="chat_template_kwargs")
        return variables


class CompletionRequest(Request):
    """Body of ``/v1/completions``: a text, or token ids, to continue; either may stand in a list of its own."""

    NOT_YET: ClassVar[dict[str, tuple[object, ...]]] = {
        **Request.NOT_YET,
        "echo": (False,),
        "suffix": ("",),
        "best_of": (1,),
    }

    prompt: Annotated[str | list[int], BeforeValidator(_one_prompt)]
    echo: bool | None = None
    suffix: str | None = None
    best_of: Int32 | None = None


AnyRequest = TypeVar("AnyRequest", bound=Request)


def read(schema: type[AnyRequest], value: object) -> AnyRequest:
    """A request from parsed JSON.

    Raises:
        RequestError: names the field that is not what it must be.
        UnsupportedError: names the field that asks for what cannot be done.
    """
    if not isinstance(value, dict):
        raise RequestError("the body must be a JSON object")
    try:
        request = schema.model_validate(value)
    except ValidationError as error:
        raise invalid(error) from None
    request.check_supported()
    return request


def openapi_body(schema: type[Request]) -> dict[str, Any]:
    """The body's schema for the OpenAPI page; `stride.server.body` reads it, with its own limits."""
    content = {"application/json": {"schema": schema.model_json_schema(ref_template="#/components/schemas/{model}")}}
    return {"requestBody": {"required": True, "content": content}}

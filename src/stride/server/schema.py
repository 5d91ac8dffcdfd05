"""What requests may hold, as OpenAI's and llama-server's clients write it.

Messages and tools stay as they came: `stride.chat.messages` reads them for every caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from stride.chat.constraints import Constraints, read_constraints
from stride.chat.template import FUNCTIONS
from stride.errors import RequestError, UnsupportedError
from stride.server.errors import invalid
from stride.types import SamplingParams, sampling_params

T = TypeVar("T")
ListOf = Annotated[list[T], Field(fail_fast=True)]
"""A list of a request: the first item that is wrong is told. A million of them must not become a million errors."""
Int32 = Annotated[int, Field(ge=-(2**31), lt=2**31)]
MAX_CHOICES = 64
"""Answers that one request may ask for: ``n`` for each of its prompts."""
MAX_TEXTS = 2048
"""Texts that one request may want vectors of."""
MAX_TOP_LOGPROBS = 20
MAX_N_PROBS = 256


def strings(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _prompts(value: object) -> object:
    """One prompt, a text or token ids, as a list of prompts."""
    one = isinstance(value, str) or (isinstance(value, list) and all(type(item) is int for item in value))
    return [value] if one else value


def _mixed_prompts(value: object) -> object:
    """As `_prompts`, but texts may stand among token ids."""
    prompts = [value] if isinstance(value, str) or _has_ids(value) or value == [] else value
    if isinstance(prompts, list) and any(isinstance(item, list) and item and not _has_ids(item) for item in prompts):
        raise ValueError("a list in it must have token ids")
    return prompts


def _has_ids(value: object) -> bool:
    return isinstance(value, list) and any(type(item) is int for item in value)


def _token_biases(value: object) -> object:
    """OpenAI's ``{"15043": -100}``, or llama-server's ``[[15043, -1.5], [15044, false]]``, as a dictionary by id."""
    if isinstance(value, list):
        if not all(isinstance(pair, list) and len(pair) == 2 and type(pair[0]) is int for pair in value):
            raise ValueError("must be made of [token id, bias] pairs")
        biases = {token: float("-inf") if bias is False else bias for token, bias in value}
    elif isinstance(value, dict):
        if not all(isinstance(token, str) and token.isascii() and token.isdigit() for token in value):
            raise ValueError("must have token ids as keys")
        biases = {int(token): bias for token, bias in value.items()}
    else:
        return value
    if not all(type(bias) in (int, float) for bias in biases.values()):  # pydantic would tell of each of them
        raise ValueError("must have numbers as biases")
    return biases


def _variables(value: dict[str, Any]) -> dict[str, Any]:
    for name in value:
        if name in ("messages", "tools", "self") or name in FUNCTIONS:
            raise ValueError(f"must not replace {name}")
    return value


TemplateVariables = Annotated[dict[str, Any], AfterValidator(_variables)]
"""Variables for the chat template; none is the conversation itself, or a function of every template."""
STRINGS = BeforeValidator(strings, json_schema_input_type=str | list[str])
PROMPTS = BeforeValidator(_prompts, json_schema_input_type=str | list[int] | list[str | list[int]])
MIXED_PROMPTS = BeforeValidator(
    _mixed_prompts, json_schema_input_type=str | list[int | str] | list[str | list[int | str]]
)
_TOKEN_BIASES = BeforeValidator(_token_biases, json_schema_input_type=dict[str, float] | list[list[int | float | bool]])


class Schema(BaseModel):
    """Unknown fields are ignored, as OpenAI's server does; nothing is converted: "5" is no number."""

    model_config = ConfigDict(strict=True, extra="ignore")

    UNSUPPORTED: ClassVar[dict[str, tuple[object, ...]]] = {}
    """Fields that ask for what cannot be done, and their values that ask for nothing. Never silently ignored."""

    def check_supported(self) -> None:
        """Refuse what would otherwise be ignored in silence.

        Raises:
            UnsupportedError: names the field.
        """
        for name, neutral in self.UNSUPPORTED.items():
            value = getattr(self, name)
            if value is not None and value not in neutral:
                hint = f": {_INSTEAD[name]}" if name in _INSTEAD else ""
                raise UnsupportedError(f"{name} is not supported{hint}", field=name)


_INSTEAD = {
    "function_call": "tool_choice is what replaced it",
    "functions": "tools are what replaced them",
    "mcp_servers": "connect to them in the client",
    "reasoning_format": "reasoning is always told apart from the content",
    "truncation": "leave out what is no longer needed",
}


def sampled(fields: Mapping[str, Any], names: Mapping[str, str]) -> SamplingParams:
    """How to sample. Errors call fields what the client called them: ``names``, by ours.

    Raises:
        RequestError: a value out of its range.
    """
    try:
        return sampling_params(fields)
    except RequestError as error:
        name = names.get(error.field or "")
        if name is None:
            raise
        raise RequestError(str(error).replace(str(error.field), name, 1), field=name) from None


class Streamable(Schema):
    """What dialects ask of a streamed answer that are not OpenAI's: nothing more than that it is one."""

    stream: bool | None = None

    @property
    def timings_per_token(self) -> bool:
        return False

    @property
    def wants_usage(self) -> bool:
        return True


class SamplingFields(Schema):
    """How to sample, in the names that OpenAI, llama-server and Ollama share."""

    stop: Annotated[ListOf[str], STRINGS, Field(max_length=256)] | None = None
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
    mirostat: Int32 | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None


class StreamOptions(Schema):
    include_usage: bool | None = None


class Request(SamplingFields):
    """What chat and plain completions share."""

    UNSUPPORTED: ClassVar[dict[str, tuple[object, ...]]] = {
        "post_sampling_probs": (False,),
        "adaptive_target": (-1,),
        "n_indent": (0,),
        "t_max_predict_ms": (0, -1),
        "lora": ([],),
    }

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    cache_prompt: bool | None = None
    draft_max: Int32 | None = None
    timings_per_token: bool | None = None

    max_tokens: Int32 | None = None
    max_completion_tokens: Int32 | None = None
    n_predict: Int32 | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: Int32 | None = None
    dry_penalty_last_n: Int32 | None = None
    dry_sequence_breakers: Annotated[ListOf[str], Field(min_length=1, max_length=32)] | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    top_n_sigma: float | None = None
    dynatemp_range: float | None = None
    dynatemp_exponent: float | None = None
    samplers: Annotated[str | ListOf[str], Field(max_length=64)] | None = None
    logit_bias: Annotated[dict[int, float], _TOKEN_BIASES] | None = None
    ignore_eos: bool | None = None

    response_format: dict[str, Any] | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    regex: str | None = None
    n_probs: Annotated[int, Field(ge=0, le=MAX_N_PROBS)] | None = None
    post_sampling_probs: bool | None = None
    adaptive_target: float | None = None
    n_indent: Int32 | None = None
    t_max_predict_ms: Int32 | None = None
    lora: ListOf[dict[str, Any]] | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether the last chunk of a stream tells the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def n_logprobs(self) -> int | None:
        """How many of the likeliest tokens are told with each token; None: no log probabilities."""
        return self.n_probs or None

    @property
    def constraints(self) -> Constraints:
        """What the answer must be.

        Raises:
            RequestError: names the field that is not what it must be.
        """
        return read_constraints(self.__dict__)

    @property
    def sampling_fields(self) -> dict[str, Any]:
        """How to sample, in the names of `SamplingParams`; None where the request says nothing."""
        given = {name: getattr(self, name, None) for name in SamplingParams.__dataclass_fields__}
        return {**given, "max_tokens": getattr(self, self._limit), "logprobs": self.n_logprobs}

    @property
    def sampling_names(self) -> dict[str, str]:
        """What the client calls fields of `SamplingParams`, by our names, where that differs."""
        return {"max_tokens": self._limit}

    @property
    def _limit(self) -> str:
        """Which of its names the limit of tokens has."""
        names = ("max_completion_tokens", "max_tokens", "n_predict")
        return next((name for name in names if getattr(self, name) is not None), "max_tokens")


class TemplateFields(Schema):
    """The part of a chat request that makes its prompt."""

    messages: Annotated[ListOf[dict[str, Any]], Field(min_length=1)]
    tools: ListOf[dict[str, Any]] | None = None
    chat_template_kwargs: TemplateVariables | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    @property
    def template_variables(self) -> dict[str, Any]:
        """What the chat template is given besides the conversation."""
        names = ("add_generation_prompt", "continue_final_message")
        said = {name: value for name in names if (value := getattr(self, name)) is not None}
        return {**said, **(self.chat_template_kwargs or {})}


class ChatRequest(TemplateFields, Request):
    """Body of ``/v1/chat/completions``."""

    UNSUPPORTED: ClassVar[dict[str, tuple[object, ...]]] = {
        **Request.UNSUPPORTED,
        "functions": ([],),
        "function_call": ("none", "auto"),
        "reasoning_format": ("auto", "deepseek"),
    }

    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    reasoning_effort: str | None = None
    reasoning_budget: Int32 | None = None
    reasoning_budget_tokens: Int32 | None = None
    thinking_budget_tokens: Int32 | None = None
    thinking: dict[str, Any] | None = None
    reasoning_format: str | None = None
    functions: ListOf[Any] | None = None
    function_call: str | dict[str, Any] | None = None

    @property
    def n_logprobs(self) -> int | None:
        if self.top_logprobs and not self.logprobs:
            raise RequestError("top_logprobs asks for logprobs, which must be true then", field="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else super().n_logprobs


class CompletionRequest(Request):
    """Body of ``/v1/completions``: texts, or token ids, to continue; a single one may stand for itself."""

    UNSUPPORTED: ClassVar[dict[str, tuple[object, ...]]] = {**Request.UNSUPPORTED, "suffix": ("",), "best_of": (1,)}

    prompt: Annotated[ListOf[str | ListOf[int | str]], MIXED_PROMPTS, Field(min_length=1, max_length=MAX_CHOICES)]
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: Int32 | None = None

    @property
    def n_logprobs(self) -> int | None:
        return super().n_logprobs if self.logprobs is None else self.logprobs

    @property
    def tells_prompt(self) -> bool:
        """Whether the prompt's log probabilities are asked for as well."""
        return bool(self.echo) and self.n_logprobs is not None

    def check_supported(self) -> None:
        super().check_supported()
        _check_choices(len(self.prompt), self.n or 1)


def _check_choices(n_prompts: int, n: int) -> None:
    if n_prompts * n > MAX_CHOICES:
        problem = f"n is {n} for {n_prompts} prompts, which may have {MAX_CHOICES} answers together"
        raise RequestError(problem, field="n")


class NativeRequest(Request):
    """Body of ``/completion``, llama-server's own."""

    prompt: Annotated[ListOf[str | ListOf[int | str]], MIXED_PROMPTS, Field(min_length=1, max_length=MAX_CHOICES)]
    return_tokens: bool | None = None
    response_fields: ListOf[str] | None = None

    @property
    def n_logprobs(self) -> int | None:
        return super().n_logprobs or (0 if self.return_tokens else None)

    def check_supported(self) -> None:
        super().check_supported()
        _check_choices(len(self.prompt), self.n or 1)


class TokenizeRequest(Schema):
    """Body of ``/tokenize``."""

    model: str | None = None
    content: str
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None


class DetokenizeRequest(Schema):
    """Body of ``/detokenize``."""

    model: str | None = None
    tokens: ListOf[int]


class TemplateRequest(TemplateFields):
    """Body of ``/apply-template``."""

    model: str | None = None


AnyRequest = TypeVar("AnyRequest", bound=Schema)


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
        raise invalid(error, value) from None
    request.check_supported()
    return request


def openapi_body(schema: type[Schema]) -> dict[str, Any]:
    """The body's schema for the OpenAPI page; `stride.server.body` reads it, with its own limits."""
    content = {"application/json": {"schema": schema.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}

"""What answers hold, for the OpenAPI document alone: answers are built as dictionaries, in `stride.server.wire`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """More fields may be there."""

    model_config = ConfigDict(extra="allow")


class Usage(Answer):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]
    completion_tokens_details: dict[str, int]


class Timings(Answer):
    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float


class Envelope(Answer):
    id: str
    created: int
    model: str
    system_fingerprint: str
    usage: Usage
    timings: Timings


class Logprob(Answer):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprobs(Logprob):
    top_logprobs: list[Logprob]


class ChatLogprobs(Answer):
    content: list[TokenLogprobs]


class Function(Answer):
    name: str
    arguments: str


class ToolCall(Answer):
    id: str
    type: Literal["function"]
    function: Function


class ChatMessage(Answer):
    role: Literal["assistant"]
    content: str | None
    reasoning_content: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCall] = []


class ChatChoice(Answer):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(Envelope):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class TextLogprobs(Answer):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(Answer):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]


class TextCompletion(Envelope):
    object: Literal["text_completion"]
    choices: list[TextChoice]


class NativeLogprob(Logprob):
    id: int


class NativeProbabilities(NativeLogprob):
    top_logprobs: list[NativeLogprob]


class NativeCompletion(Answer):
    """All fields, where ``response_fields`` names none."""

    index: int = 0
    content: str = ""
    tokens: list[int] = []
    id_slot: int = -1
    stop: bool = True
    model: str = ""
    prompt: str = ""
    generation_settings: dict[str, Any] = {}
    tokens_predicted: int = 0
    tokens_evaluated: int = 0
    tokens_cached: int = 0
    has_new_line: bool = False
    truncated: bool = False
    stop_type: Literal["eos", "word", "limit"] = "eos"
    stopping_word: str = ""
    timings: Timings | None = None
    completion_probabilities: list[NativeProbabilities] = []


class Piece(Answer):
    id: int
    piece: str | list[int]


class Tokenized(Answer):
    tokens: list[int] | list[Piece]


class Detokenized(Answer):
    content: str


class Rendered(Answer):
    prompt: str


class MessagesMessage(Answer):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None
    stop_sequence: str | None
    usage: dict[str, Any]


class TokenCount(Answer):
    input_tokens: int


class InputTokens(TokenCount):
    object: Literal["response.input_tokens"]


class ResponsesResponse(Answer):
    id: str
    object: Literal["response"]
    created_at: int
    status: str
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None


class Vector(Answer):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class VectorUsage(Answer):
    prompt_tokens: int
    total_tokens: int


class Vectors(Answer):
    object: Literal["list"]
    data: list[Vector]
    model: str
    usage: VectorUsage


class NativeVector(Answer):
    index: int
    embedding: list[list[float]]


class OllamaVectors(Answer):
    model: str
    embeddings: list[list[float]]
    prompt_eval_count: int = 0


class OllamaVector(Answer):
    embedding: list[float]


class OllamaAnswered(Answer):
    model: str
    created_at: str
    done: bool
    done_reason: str | None = None
    eval_count: int = 0
    eval_duration: int = 0


class OllamaChatAnswer(OllamaAnswered):
    message: dict[str, Any]


class OllamaGenerateAnswer(OllamaAnswered):
    response: str


EVENTS = "text/event-stream"


def answers(model: Any, streamed: bool = False, media_type: str = EVENTS) -> dict[int | str, dict[str, Any]]:
    """A route's responses for the document: one in whole, and, where it may stream, its events."""
    content: dict[str, Any] = {media_type: {}} if streamed else {}
    return {200: {"model": model, "description": "The answer", "content": content}}

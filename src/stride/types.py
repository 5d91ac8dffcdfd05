"""Plain data that crosses layers: messages, tools, sampling parameters, usage, timings, events.

Nothing here imports anything of Stride but errors, and nothing here computes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from stride.errors import RequestError

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls"]
JsonSchema: TypeAlias = Mapping[str, Any]


# --- Conversation -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call the model made. ``arguments`` is JSON text, so that integers keep all their digits."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. ``role`` is system, developer, user, assistant or tool."""

    role: str
    content: str | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call; ``parameters`` is the JSON schema of its arguments."""

    name: str
    description: str = ""
    parameters: JsonSchema = field(default_factory=lambda: {"type": "object", "properties": {}})


# --- Sampling ---------------------------------------------------------------------------------


def _check(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise RequestError(f"{name} is {value!r}, but must be {expected}", field=name)


def _is_finite(value: object) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen. Defaults are llama-server's.

    ``temperature`` 0 is greedy. ``top_k`` 0, ``top_p`` 1, ``min_p`` 0 and ``typical_p`` 1 switch a filter off.
    ``repeat_penalty`` divides (or multiplies, below zero) the logits of the last ``repeat_last_n`` tokens
    (-1: all); presence and frequency penalties are subtracted as in OpenAI's API. ``logit_bias`` is added first.
    ``max_tokens`` None: until the context is full. ``stop``: strings that end the output and are not part of it.
    ``cache_prompt``: what earlier requests computed may be used, and what this one computes may be used by later ones.

    Raises:
        RequestError: a value out of its range; ``field`` names it.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    cache_prompt: bool = True

    def __post_init__(self) -> None:
        for name in ("top_k", "repeat_last_n", "seed", "max_tokens"):
            value = getattr(self, name)
            optional = value is None and name in ("seed", "max_tokens")
            _check(optional or isinstance(value, Integral), name, value, "an integer")
        for name in ("temperature", "top_p", "min_p", "typical_p", "repeat_penalty"):
            value = getattr(self, name)
            _check(_is_finite(value) and value >= 0, name, value, "a finite number of at least 0")
        for name in ("top_p", "min_p", "typical_p"):
            _check(getattr(self, name) <= 1, name, getattr(self, name), "at most 1")
        for name in ("presence_penalty", "frequency_penalty"):
            _check(_is_finite(getattr(self, name)), name, getattr(self, name), "a finite number")
        _check(isinstance(self.cache_prompt, bool), "cache_prompt", self.cache_prompt, "true or false")
        _check(self.repeat_penalty > 0, "repeat_penalty", self.repeat_penalty, "above 0")
        _check(self.top_k >= 0, "top_k", self.top_k, "at least 0")
        _check(self.repeat_last_n >= -1, "repeat_last_n", self.repeat_last_n, "at least -1")
        _check(self.max_tokens is None or self.max_tokens >= 0, "max_tokens", self.max_tokens, "at least 0")
        _check(
            isinstance(self.logit_bias, Mapping)
            and all(isinstance(token_id, Integral) for token_id in self.logit_bias)
            and all(_is_finite(bias) or bias == -math.inf for bias in self.logit_bias.values()),
            "logit_bias",
            self.logit_bias,
            "token ids with finite numbers or -inf",
        )
        _check(
            isinstance(self.stop, tuple) and all(isinstance(text, str) and text for text in self.stop),
            "stop",
            self.stop,
            "made of strings that are not empty",
        )


@dataclass(frozen=True, slots=True, eq=False)
class TokenSet:
    """Some tokens of a vocabulary: ``ids``, ascending, or all but these where ``excluded``."""

    ids: npt.NDArray[np.intp]
    excluded: bool = False

    @classmethod
    def of(cls, members: npt.NDArray[np.bool_]) -> TokenSet:
        """From bool [n_vocab], in the shorter of the two forms."""
        excluded = 2 * int(np.count_nonzero(members)) > len(members)
        return cls(np.flatnonzero(~members if excluded else members), excluded)

    def __contains__(self, token_id: int) -> bool:
        at = int(self.ids.searchsorted(token_id))
        return (at < len(self.ids) and int(self.ids[at]) == token_id) != self.excluded


class LogitsMask(Protocol):
    """Restricts the next token (a grammar). Owned by one request, used by the engine's thread only.

    What may come next is best computed elsewhere from ``accept`` on: ``allowed`` is asked a step of the model later.
    """

    def allowed(self) -> TokenSet:
        """Which tokens may come next; waits until that is known.

        Raises:
            StrideError: it cannot be told; the request fails with it.
        """

    def accept(self, token_id: int) -> None:
        """Advance past a token that was chosen, without waiting."""


# --- What comes back --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request; ``prompt_tokens`` includes the cached ones."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Timings:
    """llama-server's ``timings``: counts and milliseconds of prompt processing and generation."""

    cache_n: int = 0
    prompt_n: int = 0
    prompt_ms: float = 0.0
    predicted_n: int = 0
    predicted_ms: float = 0.0
    draft_n: int | None = None
    draft_n_accepted: int | None = None

    @property
    def prompt_per_second(self) -> float:
        return 1e3 * self.prompt_n / self.prompt_ms if self.prompt_ms > 0 else 0.0

    @property
    def predicted_per_second(self) -> float:
        """llama-server's figure: all n tokens over the time since the first, which flatters short answers."""
        return 1e3 * self.predicted_n / self.predicted_ms if self.predicted_ms > 0 else 0.0

    @property
    def decoded_per_second(self) -> float:
        """Decoding rate: the first token belongs to the prompt, so n - 1 tokens over the time since it."""
        return 1e3 * (self.predicted_n - 1) / self.predicted_ms if self.predicted_ms > 0 else 0.0


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of the model's reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """A tool call begins; ``index`` counts the calls of this turn from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of the JSON text of a call's arguments. The pieces of one index concatenate to valid JSON."""

    index: int
    arguments: str


@dataclass(frozen=True, slots=True)
class Finish:
    """The last event of every stream that did not fail."""

    reason: FinishReason
    usage: Usage
    timings: Timings


Delta: TypeAlias = ReasoningDelta | ContentDelta | ToolCallStart | ToolCallDelta
Event: TypeAlias = Delta | Finish


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer: the sum of a stream's events."""

    message: Message
    finish_reason: FinishReason
    usage: Usage
    timings: Timings

    @property
    def text(self) -> str:
        return self.message.content or ""


@dataclass(frozen=True, slots=True)
class PromptPiece:
    """A stretch of a rendered prompt.

    Special tokens are recognised only in ``trusted`` pieces (written by the template); text that came from a
    message is not trusted and is always tokenized as plain text.
    """

    text: str
    trusted: bool


Prompt: TypeAlias = str | Sequence[int]

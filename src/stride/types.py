"""Plain data that crosses layers: messages, tools, sampling parameters, usage, timings, events.

Nothing here imports anything of Stride but errors, and nothing here does more than check and convert its own fields.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from stride.errors import RequestError, shown

SAMPLERS = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")
"""llama.cpp's steps from logits to the draw, under its names and in its order."""
SAMPLERS_BY_LETTER = dict(zip("edskypmxt", SAMPLERS, strict=True))
"""llama.cpp's short names of the steps."""
FinishReason: TypeAlias = Literal["stop", "length", "tool_calls"]
Pooling: TypeAlias = Literal["mean", "cls", "last"]
"""What a text's vector is made of: the mean of its tokens' hidden states, the first token's, or the last one's."""
JsonSchema: TypeAlias = Mapping[str, Any]
GRAMMAR_BYTES = 256 << 20
"""Memory for a model's grammars: half of it for compiled ones that are kept, the rest while more are compiled."""


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
        raise RequestError(f"{name} is {shown(value)}, but must be {expected}", field=name)


def _is_finite(value: object) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


_OPTIONAL = ("seed", "max_tokens", "logprobs", "draft_max")
_INTEGERS = ("top_k", "repeat_last_n", "dry_allowed_length", "dry_penalty_last_n", "mirostat", *_OPTIONAL)
_FINITE = (
    *("temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty"),
    *("dry_multiplier", "dry_base", "xtc_probability", "xtc_threshold", "top_n_sigma", "dynatemp_range"),
    *("dynatemp_exponent", "mirostat_tau", "mirostat_eta"),
)
_LEAST = {
    **dict.fromkeys(("temperature", "top_p", "min_p", "typical_p", "top_k", "max_tokens", "logprobs", "draft_max"), 0),
    **dict.fromkeys(("repeat_last_n", "dry_penalty_last_n"), -1),
    **dict.fromkeys(("dry_multiplier", "dry_allowed_length", "xtc_probability", "xtc_threshold", "top_n_sigma"), 0),
    **dict.fromkeys(("dynatemp_range", "dynatemp_exponent", "mirostat", "mirostat_tau", "mirostat_eta"), 0),
    "dry_base": 1,
}


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen. Defaults are llama-server's.

    ``temperature`` 0 is greedy. ``top_k`` 0, ``top_p`` 1, ``min_p`` 0 and ``typical_p`` 1 switch a filter off.
    ``repeat_penalty`` divides (or multiplies, below zero) the logits of the last ``repeat_last_n`` tokens
    (-1: all); presence and frequency penalties are subtracted as in OpenAI's API. ``logit_bias`` is added first.
    ``dry_multiplier`` above 0 punishes a token that would make a repetition longer than ``dry_allowed_length`` by
    ``dry_multiplier * dry_base ** excess``; it looks at the last ``dry_penalty_last_n`` tokens (-1: all), and no
    repetition reaches across one of ``dry_sequence_breakers``. With ``xtc_probability``, all but the last of the
    tokens at least as likely as ``xtc_threshold`` are left out. ``top_n_sigma`` (0: off) keeps the logits within so
    many standard deviations of the largest. ``dynatemp_range`` lets the temperature move so far up and down with the
    entropy. ``mirostat`` 1 or 2 chooses by a target surprise (``mirostat_tau``, ``mirostat_eta``) in place of penalties
    and filters. ``samplers`` are the steps that are taken, in their order; what is not among them has no effect.
    ``max_tokens`` None: until the context is full. ``stop``: strings that end the output and are not part of it.
    ``logprobs``: None, or how many of the likeliest tokens are told with each token and its log probability.
    ``draft_max``: None, or how many tokens may be guessed ahead at a time, where the engine does that; 0 is none.
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
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 64
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    top_n_sigma: float = 0.0
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    samplers: tuple[str, ...] = SAMPLERS
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    draft_max: int | None = None
    cache_prompt: bool = True

    def __post_init__(self) -> None:
        for name in _INTEGERS:
            value = getattr(self, name)
            _check((value is None and name in _OPTIONAL) or isinstance(value, Integral), name, value, "an integer")
        for name in _FINITE:
            _check(_is_finite(getattr(self, name)), name, getattr(self, name), "a finite number")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            _check(value is None or value >= least, name, value, f"at least {least}")
        for name in ("top_p", "min_p", "typical_p", "xtc_probability", "xtc_threshold"):
            _check(getattr(self, name) <= 1, name, getattr(self, name), "at most 1")
        _check(isinstance(self.cache_prompt, bool), "cache_prompt", self.cache_prompt, "true or false")
        _check(self.repeat_penalty > 0, "repeat_penalty", self.repeat_penalty, "above 0")
        _check(self.mirostat <= 2, "mirostat", self.mirostat, "0, 1 or 2")
        _check(
            isinstance(self.logit_bias, Mapping)
            and all(isinstance(token_id, Integral) for token_id in self.logit_bias)
            and all(_is_finite(bias) or bias == -math.inf for bias in self.logit_bias.values()),
            "logit_bias",
            self.logit_bias,
            "token ids with finite numbers or -inf",
        )
        _check(isinstance(self.samplers, tuple), "samplers", self.samplers, "a list of names")
        for sampler in self.samplers:
            if sampler not in SAMPLERS:
                raise RequestError(
                    f"samplers hold {shown(sampler)}, but may hold only {', '.join(SAMPLERS)}", field="samplers"
                )
        for name in ("stop", "dry_sequence_breakers"):
            texts = getattr(self, name)
            good = isinstance(texts, tuple) and all(isinstance(text, str) and text for text in texts)
            _check(good, name, texts, "made of strings that are not empty")


def sampling_params(fields: Mapping[str, Any]) -> SamplingParams:
    """`SamplingParams` from keywords; None means the default, one stop string may stand alone, and samplers may be a
    string of llama.cpp's letters.

    As in llama.cpp, -1 means no limit (``max_tokens``), a random one (``seed``) and off (``top_k``, ``top_n_sigma``).

    Raises:
        RequestError: a field that does not exist, or a value out of range.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    known = SamplingParams.__dataclass_fields__
    unknown = sorted(given.keys() - known.keys())
    if unknown:
        name = unknown[0]
        raise RequestError(f"there is no sampling parameter {shown(name)}; there are: {', '.join(known)}", field=name)
    for name in ("max_tokens", "seed"):
        if given.get(name) == -1:
            del given[name]
    for name in ("top_k", "top_n_sigma"):
        if given.get(name) == -1:
            given[name] = 0
    for name in ("stop", "dry_sequence_breakers"):
        texts = given.get(name)
        if isinstance(texts, Sequence):
            given[name] = (texts,) if isinstance(texts, str) else tuple(texts)
    samplers = given.get("samplers")
    if isinstance(samplers, str):
        given["samplers"] = tuple(SAMPLERS_BY_LETTER.get(letter, letter) for letter in samplers)
    elif isinstance(samplers, Sequence):
        given["samplers"] = tuple(samplers)
    return SamplingParams(**given)


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

    def is_within(self, token_ids: Set[int]) -> bool:
        """Whether there are tokens here, and all of them are among some few."""
        return not self.excluded and 0 < len(self.ids) <= len(token_ids) and token_ids >= set(self.ids.tolist())


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
class TokenLogprob:
    """A token and the natural logarithm of its probability, as the model gave it before any filter.

    None is that of a prompt's first token, which nothing stands before.
    """

    token_id: int
    text: bytes
    logprob: float | None


@dataclass(frozen=True, slots=True)
class ChosenToken:
    """A token of the output, and the likeliest tokens at its place, the likeliest first."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class TokensDelta:
    """The tokens behind the text that comes next, only where ``logprobs`` asks for them. First, and as one event, those
    of the prompt, where they are to be told too.
    """

    tokens: tuple[ChosenToken, ...]


@dataclass(frozen=True, slots=True)
class Finish:
    """The last event of every stream that did not fail. ``stop`` is the stop string that ended it, if one did."""

    reason: FinishReason
    usage: Usage
    timings: Timings
    stop: str | None = None


Delta: TypeAlias = ReasoningDelta | ContentDelta | ToolCallStart | ToolCallDelta
StreamedEvent: TypeAlias = Delta | TokensDelta
Event: TypeAlias = StreamedEvent | Finish


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer: the sum of a stream's events, and all of these but the last. ``tokens``: where ``logprobs``
    asks for them.
    """

    message: Message
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    stop: str | None = None
    tokens: tuple[ChosenToken, ...] = ()
    events: tuple[StreamedEvent, ...] = ()

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

"""Answers as llama-server's own ``/completion`` gives them, and sampling parameters under its names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stride.server import sse
from stride.server.wire import number, timings
from stride.types import (
    ChosenToken,
    Completion,
    ContentDelta,
    Finish,
    FinishReason,
    SamplingParams,
    StreamedEvent,
    Timings,
    TokenLogprob,
    TokensDelta,
)

_NUMBERS = (
    *("temperature", "dynatemp_range", "dynatemp_exponent", "top_k", "top_p", "min_p", "top_n_sigma", "typical_p"),
    *("xtc_probability", "xtc_threshold", "repeat_last_n", "repeat_penalty", "presence_penalty", "frequency_penalty"),
    *("dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n"),
    *("mirostat", "mirostat_tau", "mirostat_eta", "ignore_eos"),
)


def generation_settings(params: SamplingParams) -> dict[str, Any]:
    """Sampling parameters under llama-server's names, without the texts that a request has in them."""
    limit = -1 if params.max_tokens is None else params.max_tokens
    return {
        "seed": -1 if params.seed is None else params.seed,
        **{name: getattr(params, name) for name in _NUMBERS},
        "max_tokens": limit,
        "n_predict": limit,
        "n_probs": params.logprobs or 0,
        "samplers": list(params.samplers),
    }


def whole_settings(params: SamplingParams) -> dict[str, Any]:
    """`generation_settings` with the request's own texts, for whoever sent them."""
    return {
        **generation_settings(params),
        "stop": list(params.stop),
        "dry_sequence_breakers": list(params.dry_sequence_breakers),
        "logit_bias": [
            {"token": token, "bias": False if bias == float("-inf") else bias}
            for token, bias in params.logit_bias.items()
        ],
    }


def _probability(token: TokenLogprob) -> dict[str, Any]:
    return {
        "id": token.token_id,
        "token": token.text.decode(errors="replace"),
        "bytes": list(token.text),
        "logprob": number(token.logprob),
    }


def probabilities(tokens: Sequence[ChosenToken]) -> list[dict[str, Any]]:
    """``completion_probabilities``."""
    return [{**_probability(token.chosen), "top_logprobs": [*map(_probability, token.top)]} for token in tokens]


class NativeAnswer:
    """One answer of ``/completion``.

    Args:
        request: what the last object repeats of the request: model, prompt, settings.
        n_probs: whether probabilities are told.
        return_tokens: whether token ids are told.
        progress: how far the stream has come.
        fields: the only fields that the last object has, where any are named; slashes reach into objects.
    """

    framing = sse.NATIVE

    def __init__(
        self,
        request: Mapping[str, Any],
        index: int,
        *,
        n_probs: bool,
        return_tokens: bool,
        progress: Callable[[], Timings],
        n_prompt: int,
        fields: Sequence[str] = (),
    ) -> None:
        self._request = request
        self._index = index
        self._n_probs = n_probs
        self._return_tokens = return_tokens
        self._progress = progress
        self._n_prompt = n_prompt
        self._fields = fields
        self._tokens: list[ChosenToken] = []  # those whose text has not been sent
        self._has_new_line = False

    def opening(self) -> list[dict[str, Any]]:
        return []

    def delta(self, event: StreamedEvent) -> list[dict[str, Any]]:
        if isinstance(event, TokensDelta):
            self._tokens += event.tokens
            return []
        assert isinstance(event, ContentDelta), "a plain completion is content only"
        self._has_new_line = self._has_new_line or "\n" in event.text
        chunk = {
            "index": self._index,
            "content": event.text,
            "tokens": self._ids(self._tokens),
            "stop": False,
            "id_slot": -1,
            "tokens_predicted": self._progress().predicted_n,
            "tokens_evaluated": self._n_prompt,
        }
        if self._n_probs:
            chunk["completion_probabilities"] = probabilities(self._tokens)
        self._tokens = []
        return [chunk]

    def closing(self, finish: Finish, include_usage: bool) -> list[dict[str, Any]]:
        """The last object, without text; llama-server tells no usage of its own kind."""
        return [self._last("", self._tokens, finish, finish.reason)]

    def whole(self, completion: Completion) -> dict[str, Any]:
        self._has_new_line = "\n" in completion.text
        return self._last(completion.text, completion.tokens, completion, completion.finish_reason)

    def _last(
        self, content: str, tokens: Sequence[ChosenToken], done: Finish | Completion, reason: FinishReason
    ) -> dict[str, Any]:
        result = {
            "index": self._index,
            "content": content,
            "tokens": self._ids(tokens),
            "id_slot": -1,
            "stop": True,
            **self._request,
            "tokens_predicted": done.usage.completion_tokens,
            "tokens_evaluated": done.usage.prompt_tokens,
            "tokens_cached": done.usage.total_tokens,
            "has_new_line": self._has_new_line,
            "truncated": False,
            "stop_type": "limit" if reason == "length" else "eos" if done.stop is None else "word",
            "stopping_word": done.stop or "",
            "timings": timings(done.timings),
        }
        if self._n_probs:
            result["completion_probabilities"] = probabilities(tokens)
        return _pick(result, self._fields) if self._fields else result

    def _ids(self, tokens: Sequence[ChosenToken]) -> list[int]:
        return [token.chosen.token_id for token in tokens] if self._return_tokens else []


def _pick(result: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    """Some fields; "a/b" is b of the object a, under the name b. Those that are not there are left out."""
    picked: dict[str, Any] = {}
    for path in fields:
        value: Any = result
        *_, name = parts = path.split("/")
        for part in parts:
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            picked[name] = value
    return picked


class NativeChoices:
    """The answers to one request: an object where there is one, else a list of them."""

    def __init__(self, answers: Sequence[NativeAnswer]) -> None:
        self.answers = answers

    def closing(self, index: int, finish: Finish, include_usage: bool) -> list[dict[str, Any]]:
        return self.answers[index].closing(finish, include_usage)

    def whole(self, completions: Sequence[Completion]) -> Any:
        wholes = [answer.whole(completion) for answer, completion in zip(self.answers, completions, strict=True)]
        return wholes[0] if len(wholes) == 1 else wholes

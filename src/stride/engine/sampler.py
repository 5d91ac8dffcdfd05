"""Logits to one token: bias, penalties, mask, filters, temperature, draw.

The meaning of each step is llama.cpp's, and so is their order, unless ``samplers`` names another:

- ``logit_bias`` is added to the model's logits.
- Penalties look at the last ``repeat_last_n`` tokens, those of the prompt included. A token seen there has its logit
  divided by ``repeat_penalty`` (multiplied where it is not positive), then lowered by
  ``count * frequency_penalty + presence_penalty``.
- DRY lowers the logits of tokens that would continue a repetition (`stride.engine.sampler_dry`).
- A mask (a grammar) leaves only the tokens that are allowed.
- Filters (`stride.engine.sampler_filters`) narrow the candidates, and one of them is drawn; with ``mirostat``, that
  chooses instead (`stride.engine.sampler_mirostat`), and there are no penalties either.

Differences from llama.cpp: temperature 0 is the argmax after bias, penalties and mask, whatever the filters say (but
where penalties come after a filter); the mask comes before whatever may come after the penalties;
ties go to the lower token id; sums of probabilities are float64; random numbers are numpy's.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from stride.engine.sampler_dry import NO_BREAKERS, Breakers, Dry
from stride.engine.sampler_filters import FILTERS, Indices, draw, tempered
from stride.engine.sampler_mirostat import Mirostat
from stride.errors import GenerationError
from stride.ops.api import FloatArray
from stride.types import SamplingParams, TokenSet

_LARGEST = float(np.finfo(np.float32).max)
_EDIT_LIMIT = 1e30  # a bias or penalty beyond any logit, that still leaves float32 sums finite


# glibc hands freed memory back to the system, and the page faults of the next array cost more than its arithmetic.
# Having freed one large block makes it keep as much from then on.
np.empty(1 << 24, np.uint8)


class Sampler:
    """Chooses the tokens of one request. Owns its random numbers, so no draw depends on the rest of a batch.

    Used by one thread at a time. ``banned`` token ids are never chosen. ``breakers`` are what
    ``dry_sequence_breakers`` are in the model's tokens.
    """

    def __init__(
        self,
        params: SamplingParams,
        prompt_ids: npt.ArrayLike,
        n_vocab: int,
        banned: Iterable[int] = (),
        breakers: Breakers = NO_BREAKERS,
    ) -> None:
        self.params = params
        self._n_vocab = n_vocab
        seed = None if params.seed is None else params.seed % 2**64
        self._random = np.random.default_rng(seed)
        self._drawn: deque[float] = deque()  # random numbers that drafts have looked at, and that are yet to be used
        bias = {**params.logit_bias, **dict.fromkeys(banned, -math.inf)}
        self._bias_ids = np.fromiter(bias.keys(), np.intp, len(bias))
        self._bias = np.clip(np.fromiter(bias.values(), np.float64, len(bias)), -math.inf, _EDIT_LIMIT)
        self._mirostat = Mirostat(params, n_vocab) if params.mirostat else None
        steps = [] if self._mirostat is not None else [name for name in params.samplers if _is_on(name, params)]
        self._penalties: dict[str, _Penalties | Dry] = {}
        if "penalties" in steps:
            self._penalties["penalties"] = _Penalties(params, prompt_ids, n_vocab)
        if "dry" in steps:
            self._penalties["dry"] = Dry(params, prompt_ids, n_vocab, breakers)
        n_first = next((n for n, name in enumerate(steps) if name not in self._penalties), len(steps))
        self._first, self._steps = steps[:n_first], steps[n_first:]  # before the mask, and after it
        self._is_greedy = params.temperature == 0 and (
            self._mirostat is not None
            or ("temperature" in steps and params.dynatemp_range == 0 and self._penalties.keys() <= {*self._first})
        )

    def sample(self, logits: FloatArray, allowed: TokenSet | None = None) -> int:
        """Choose a token from float32 ``logits`` [n_vocab], which are not changed.

        Raises:
            GenerationError: the logits hold NaN or +inf, or leave no token to choose.
        """
        with np.errstate(over="ignore"):
            best = _argmax(logits)
            candidates = self._edit(logits)
            narrowed: list[Indices] = []  # each indexes what the one before it left
            if allowed is not None and allowed.excluded:
                candidates = logits.copy() if candidates is logits else candidates
                candidates[allowed.ids] = -np.inf
            elif allowed is not None:
                narrowed.append(allowed.ids)
                candidates = candidates[allowed.ids]
            if candidates is not logits:
                best = _argmax(candidates)
            if self._is_greedy:
                pass
            elif self._mirostat is not None:
                best = self._mirostat.choose(candidates, self._uniform())
            else:
                for name in self._steps:
                    candidates = self._step(name, candidates, narrowed)
                best = draw(candidates, self._uniform())
            for kept in reversed(narrowed):
                best = int(kept[best])
            return best

    def guess(self, logits: FloatArray, n_before: int) -> int:
        """What `sample` is likely to choose ``n_before`` tokens from now, going by logits [n_vocab] like those that it
        will be given: it is drawn with the random number that will be used then. Changes nothing.
        """
        if not self._is_greedy and self._mirostat is None and "xtc" not in self._steps:
            while len(self._drawn) <= n_before:
                self._drawn.append(self._random.random())
            used = self._drawn
            self._drawn = deque([used[n_before]])
            try:
                return self.sample(logits)
            except GenerationError:
                pass
            finally:
                self._drawn = used
        return int(self._edit(logits).argmax())

    def accept(self, token_id: int) -> None:
        """Count a token that was chosen, for the penalties."""
        for penalty in self._penalties.values():
            penalty.accept(token_id)

    def _uniform(self) -> float:
        return self._drawn.popleft() if self._drawn else self._random.random()

    def _edit(self, logits: FloatArray) -> FloatArray:
        """Bias, and the penalties that come first. Gives the logits themselves where there are none of these."""
        if len(self._bias_ids) or self._first:
            logits = logits.copy()
            logits[self._bias_ids] = np.minimum(logits[self._bias_ids] + self._bias, _LARGEST)
            for name in self._first:
                self._penalties[name].apply(logits)
        return logits

    def _step(self, name: str, candidates: FloatArray, narrowed: list[Indices]) -> FloatArray:
        """The candidates after a step; a filter that narrows them is noted."""
        if name in self._penalties:
            return self._penalise(name, candidates, narrowed)
        if name == "temperature":
            return tempered(candidates, self.params)
        if name == "xtc" and self._uniform() > self.params.xtc_probability:
            return candidates
        narrowed.append(FILTERS[name](candidates, self.params))
        return candidates[narrowed[-1]]

    def _penalise(self, name: str, candidates: FloatArray, narrowed: list[Indices]) -> FloatArray:
        """Penalties after other steps: they know tokens by their place in the vocabulary."""
        ids = np.arange(self._n_vocab)
        for kept in narrowed:
            ids = ids[kept]
        logits = np.full(self._n_vocab, -np.inf, np.float32)
        logits[ids] = candidates
        self._penalties[name].apply(logits)
        return logits[ids]


def _is_on(name: str, params: SamplingParams) -> bool:
    """Whether a step does anything."""
    match name:
        case "penalties":
            factors = (params.repeat_penalty, params.presence_penalty, params.frequency_penalty)
            return params.repeat_last_n != 0 and factors != (1, 0, 0)
        case "dry":
            return params.dry_multiplier > 0 and params.dry_penalty_last_n != 0
        case "top_n_sigma":
            return params.top_n_sigma > 0
        case "top_k":
            return params.top_k > 0
        case "typ_p":
            return params.typical_p < 1
        case "top_p":
            return params.top_p < 1
        case "min_p":
            return params.min_p > 0
        case "xtc":
            return params.xtc_probability > 0 and params.xtc_threshold <= 0.5
    return name == "temperature"


class _Penalties:
    """Counts of the last ``repeat_last_n`` tokens, and what they cost."""

    def __init__(self, params: SamplingParams, prompt_ids: npt.ArrayLike, n_vocab: int) -> None:
        self._params = params
        prompt = np.asarray(prompt_ids)
        last = len(prompt) if params.repeat_last_n < 0 else params.repeat_last_n
        recent = prompt[max(0, len(prompt) - last) :]
        self._recent: deque[int] = deque(recent.tolist())
        self._counts = np.bincount(recent, minlength=n_vocab).astype(np.int32)

    def accept(self, token_id: int) -> None:
        self._recent.append(token_id)
        self._counts[token_id] += 1
        if 0 <= self._params.repeat_last_n < len(self._recent):
            self._counts[self._recent.popleft()] -= 1

    def apply(self, logits: FloatArray) -> None:
        seen = np.flatnonzero(self._counts > 0)
        values = logits[seen].astype(np.float64)
        repeat = self._params.repeat_penalty
        values = np.where(values <= 0, values * repeat, values / repeat)
        cost = self._counts[seen] * self._params.frequency_penalty + self._params.presence_penalty
        logits[seen] = np.minimum(values - np.clip(cost, -_EDIT_LIMIT, _EDIT_LIMIT), _LARGEST)


def _argmax(logits: FloatArray) -> int:
    """The lowest index of the largest logit, which must be finite."""
    if not len(logits):
        raise GenerationError("no token is allowed")
    best = int(logits.argmax())  # a NaN where there is one
    if not np.isfinite(logits[best]):
        none_left = logits[best] == -np.inf
        raise GenerationError("no token is allowed" if none_left else f"the model gave a logit of {logits[best]}")
    return best

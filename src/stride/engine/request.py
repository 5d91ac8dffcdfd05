"""A request: what was asked, how far it has come, and what it is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from stride.engine.pooling import Pool
from stride.engine.sampler_dry import Breakers
from stride.engine.sampler_logprobs import Logprobs
from stride.errors import ContextOverflowError, RequestError, StrideError
from stride.ops.api import FloatArray, IntArray
from stride.types import FinishReason, LogitsMask, Pooling, SamplingParams, Timings, Usage

if TYPE_CHECKING:
    from stride.engine.prefix import Path
    from stride.engine.sampler import Sampler


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """The prompt is computed: log probabilities of its tokens, all but the first."""

    logprobs: tuple[Logprobs, ...]


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token, with log probabilities where they are asked for. The end-of-sequence token is not told."""

    token_id: int
    logprobs: Logprobs | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """What the prompt's hidden states were pooled to: float32 [n_embd]."""

    vector: FloatArray


@dataclass(frozen=True, slots=True)
class Finished:
    """The output is complete. ``usage`` counts the end-of-sequence token as llama-server does."""

    reason: FinishReason
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class Failed:
    """The request ended early: refused, cancelled, or the engine could not go on with it."""

    error: StrideError


Output: TypeAlias = PromptLogprobs | Token | Embedding | Finished | Failed


@dataclass(slots=True, eq=False, weakref_slot=True)
class Request:
    """One prompt to continue. After ``Engine.submit`` it belongs to the engine; use it once.

    ``deliver`` is told every token, then exactly one ``Finished`` or ``Failed``; with ``prompt_logprobs``, those of the
    prompt first, with as many of the likeliest as of each token: all of it is computed then, and nothing shared.
    ``stop`` is asked, before the delivery of each token, whether the output ends with it (reason "stop"); it is not
    asked about an end-of-sequence token.
    Requests share what they computed (``params.cache_prompt``) within a ``cache_scope``, and nothing across scopes.
    Where nothing is kept for later, those of one ``group`` share it among themselves as long as there are any.
    ``mask`` restricts each token, and accepts each that was chosen but an end-of-sequence token. All three are called
    on the engine's thread and must not block; one that raises fails its request, and no other. ``dry_breakers`` are
    what the parameters' ``dry_sequence_breakers`` are in tokens.

    With ``pooling`` the prompt is read for its vector: one ``Embedding`` is delivered, and no token. All positions are
    computed for it, so ``params`` must say ``max_tokens`` 0 and ``cache_prompt`` False. So they must for
    ``prompt_logits``, which is told the logits after the prompt's tokens, some at a time: float32 [n, n_vocab].
    """

    prompt_ids: Sequence[int] | IntArray
    params: SamplingParams
    deliver: Callable[[Output], None]
    stop: Callable[[Token], bool] | None = None
    mask: LogitsMask | None = None
    eos_ids: frozenset[int] = frozenset()
    dry_breakers: Breakers = field(default_factory=dict)
    cache_scope: str = ""
    group: str | None = None
    prompt_logprobs: bool = False
    pooling: Pooling | None = None
    prompt_logits: Callable[[FloatArray], object] | None = None

    # The engine's part. Tokens 0 .. n_tokens - 1 are known, those before n_computed are in the cache, and those before
    # n_cached were there already. What is computed is shared within ``scope``: cache_scope, group or, None, not at all.
    # Behind the known tokens stand n_drafts that are guessed; the next step is to verify the first n_verified of them.
    # So far n_drafted were verified, of which n_accepted were right.
    token_ids: IntArray = field(init=False, repr=False)
    n_tokens: int = field(init=False, default=0)
    n_computed: int = field(init=False, default=0)
    n_drafts: int = field(init=False, default=0)
    n_verified: int = field(init=False, default=0)
    n_drafted: int = field(init=False, default=0)
    n_accepted: int = field(init=False, default=0)
    slot: int = field(init=False, default=-1)
    scope: str | None = field(init=False, default=None)
    path: Path | None = field(init=False, default=None, repr=False)
    n_cached: int = field(init=False, default=0)
    told: list[Logprobs] = field(init=False, default_factory=list, repr=False)
    sampler: Sampler = field(init=False, repr=False)
    pool: Pool | None = field(init=False, default=None, repr=False)
    cancelled: bool = field(init=False, default=False)
    queued_at: float = field(init=False, default=0.0)
    admitted_at: float = field(init=False, default=0.0)
    prompt_done_at: float = field(init=False, default=0.0)
    last_token_at: float = field(init=False, default=0.0)

    def prepare(self, n_ctx: int, n_vocab: int) -> None:
        """Check the prompt and make room for all tokens that this request may come to have.

        Raises:
            ContextOverflowError: no room for the prompt, or for a token after it.
            RequestError: an empty prompt, a token id that the model does not know, or parameters that pooling forbids.
        """
        try:
            prompt = np.asarray(self.prompt_ids)
        except ValueError as error:  # nested lists
            raise RequestError("the prompt must be a flat list of token ids", field="prompt") from error
        if prompt.size == 0:
            raise RequestError("the prompt is empty", field="prompt")
        if prompt.ndim != 1 or prompt.dtype.kind not in "iu" or prompt.min() < 0 or prompt.max() >= n_vocab:
            raise RequestError(f"the prompt must be made of token ids from 0 to {n_vocab - 1}", field="prompt")
        if any(not 0 <= token_id < n_vocab for token_id in self.params.logit_bias):
            raise RequestError(f"logit_bias must name token ids from 0 to {n_vocab - 1}", field="logit_bias")
        if self.prompt_logprobs and self.params.logprobs is None:
            raise RequestError("log probabilities of the prompt need those of the tokens", field="logprobs")
        generates = self.pooling is None and self.prompt_logits is None
        if not generates and (self.params.max_tokens != 0 or self.params.cache_prompt or self.prompt_logprobs):
            field = "prompt_logits" if self.pooling is None else "pooling"
            raise RequestError(f"{field} needs max_tokens 0 and cache_prompt False, no logprobs", field=field)
        if len(prompt) + generates > n_ctx:
            raise ContextOverflowError(len(prompt), n_ctx, generates=generates)
        if self.pooling is not None:
            self.pool = Pool(self.pooling, len(prompt))
        max_tokens = n_ctx if self.params.max_tokens is None else self.params.max_tokens
        self.token_ids = np.empty(min(n_ctx, len(prompt) + max_tokens), np.int32)
        self.token_ids[: len(prompt)] = prompt
        self.n_tokens = len(prompt)

    @property
    def n_prompt(self) -> int:
        return len(self.prompt_ids)

    @property
    def tells_prompt(self) -> bool:
        """Logits are wanted after each token of the prompt."""
        return (self.prompt_logprobs or self.prompt_logits is not None) and self.n_computed < self.n_prompt

    @property
    def is_full(self) -> bool:
        """No further token may be generated: ``max_tokens`` or the context window is reached."""
        return self.n_tokens == len(self.token_ids)

    def n_outputs(self, start: int, end: int) -> int:
        """Of how many of the last of tokens start .. end - 1 the logits, or what is pooled, are wanted."""
        if self.pool is not None:
            return self.pool.n_wanted(start, end)
        if self.tells_prompt:
            return end - start
        return 0 if self.is_full else max(0, end + 1 - self.n_tokens)

    @property
    def draft_room(self) -> int:
        """Drafts that may stand behind the known tokens: one token more is chosen when all of them are right."""
        room = max(0, len(self.token_ids) - self.n_tokens - 1)
        return room if self.params.draft_max is None else min(room, self.params.draft_max)

    def add_draft(self, token_id: int) -> None:
        """Guess one token more, behind those that are known and guessed."""
        self.token_ids[self.n_tokens + self.n_drafts] = token_id
        self.n_drafts += 1

    def take_drafts(self) -> tuple[list[int], int]:
        """The guesses, and how many of them were verified; none are left."""
        drafts = self.token_ids[self.n_tokens : self.n_tokens + self.n_drafts].tolist()
        n_verified, self.n_drafts, self.n_verified = self.n_verified, 0, 0
        self.n_drafted += n_verified
        return drafts, n_verified

    def append(self, token_id: int) -> None:
        """Add a generated token."""
        self.last_token_at = perf_counter()
        if self.n_tokens == self.n_prompt:
            self.prompt_done_at = self.last_token_at
        self.token_ids[self.n_tokens] = token_id
        self.n_tokens += 1

    def finished(self, reason: FinishReason) -> Finished:
        """The last output of a request that did not fail."""
        n_generated = self.n_tokens - self.n_prompt
        prompt_done_at = self.prompt_done_at if n_generated else perf_counter()
        return Finished(
            reason,
            Usage(prompt_tokens=self.n_prompt, completion_tokens=n_generated, cached_tokens=self.n_cached),
            Timings(
                cache_n=self.n_cached,
                prompt_n=self.n_prompt - self.n_cached,
                prompt_ms=1e3 * (prompt_done_at - self.admitted_at),
                predicted_n=n_generated,
                predicted_ms=1e3 * (self.last_token_at - prompt_done_at) if n_generated else 0.0,
                draft_n=self.n_drafted or None,
                draft_n_accepted=self.n_accepted if self.n_drafted else None,
            ),
        )

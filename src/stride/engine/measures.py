"""What the engine measures of its own work: counts and histograms since the start."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from stride.engine.request import Failed, Finished, Request

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
RATES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)


class Histogram:
    """How many values lie up to each bound, and above the last, and their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Measures:
    """Written by the engine's thread, but for requests that are refused. Others may read it at any time; what they see
    may be part of a step.

    A request's time in the queue and to its first token are seen with that token, its rates at its end, and there its
    time in the queue, too, if it had no token.
    """

    def __init__(self) -> None:
        self.queue_seconds = Histogram(SECONDS)
        self.first_token_seconds = Histogram(SECONDS)
        self.inter_token_seconds = Histogram(SECONDS)
        self.prompt_tokens_per_second = Histogram(RATES)
        self.generated_tokens_per_second = Histogram(RATES)
        self.step_seconds = Histogram(SECONDS)
        self.step_sequences = Histogram(SIZES)
        self.step_tokens = Histogram(SIZES)
        self.ends: Counter[str] = Counter()
        """By reason: the output's, failed, or those of `dropped`."""
        self.sequence_steps = 0
        """Times that a token, and those after it that were guessed right, were chosen for a sequence."""
        self.drafted: Counter[int] = Counter()
        self.accepted: Counter[int] = Counter()
        """Drafts that were verified, and those of them that were right, by how many of the same step came before."""
        self.prompt_seconds = 0.0
        self.generation_seconds = 0.0
        self.longest = 0
        """Tokens of the longest sequence, prompt and output."""

    def step(self, n_sequences: int, n_tokens: int, seconds: float) -> None:
        """A step of the model."""
        self.step_sequences.observe(n_sequences)
        self.step_tokens.observe(n_tokens)
        self.step_seconds.observe(seconds)

    def token(self, request: Request, before: float) -> None:
        """A token was appended to a request, whose last one came at ``before``."""
        if request.n_tokens == request.n_prompt + 1:
            self.queue_seconds.observe(request.admitted_at - request.queued_at)
            self.first_token_seconds.observe(request.last_token_at - request.queued_at)
        else:
            self.inter_token_seconds.observe(request.last_token_at - before)

    def drafts(self, n_verified: int, n_right: int) -> None:
        """Drafts of one sequence were verified, of which the first few were right."""
        self.drafted.update(range(n_verified))
        self.accepted.update(range(n_right))

    def dropped(self, reason: Literal["cancelled", "late", "refused", "closed"], n: int = 1) -> None:
        """Requests ended without having failed or finished: by their caller, their time, too many, or all together.

        Called with the engine's lock held, as those that are refused are so on their callers' threads.
        """
        if n:
            self.ends[reason] += n

    def end(self, request: Request, output: Finished | Failed) -> None:
        """A request that was running has ended."""
        self.longest = max(self.longest, request.n_tokens)
        if isinstance(output, Failed):
            self.ends["failed"] += 1
            return
        self.ends[output.reason] += 1
        if request.n_tokens == request.n_prompt:
            self.queue_seconds.observe(request.admitted_at - request.queued_at)
        timings = output.timings
        self.prompt_seconds += timings.prompt_ms / 1e3
        self.generation_seconds += timings.predicted_ms / 1e3
        if timings.prompt_ms > 0 and timings.prompt_n:
            self.prompt_tokens_per_second.observe(timings.prompt_per_second)
        if timings.predicted_n > 1 and timings.predicted_ms > 0:
            self.generated_tokens_per_second.observe(timings.decoded_per_second)

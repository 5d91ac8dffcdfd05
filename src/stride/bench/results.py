"""What was measured, as plain data: runs, targets, and all of them together."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from stride.bench.client import Reply
from stride.bench.graders import Grade
from stride.bench.memory import Memory
from stride.bench.plan import Plan
from stride.bench.servers import ModelFile
from stride.bench.suite.case import Case
from stride.bench.suite.play import CaseResult
from stride.bench.tasks import Task

MOST_TOKENS = 1 << 40
TOLERATED = 0.05
"""Of a rate: what it may be off by and still be called the same."""
APART = 0.1
"""Of the mean time of a token: pieces closer than this came together."""


@dataclass(frozen=True, slots=True)
class Run:
    """One request. ``repeat`` 0 is the warm-up. ``fault`` is why its figures do not count.

    ``cold_first_token``: seconds to it of the same request before this one, of a task that is sent twice.
    """

    target: str
    task: str
    repeat: int
    seed: int
    nonce: str
    started: str
    reply: Reply
    grade: Grade | None
    fault: str | None
    cold_first_token: float | None = None

    @property
    def counted(self) -> bool:
        return self.fault is None and self.repeat > 0

    @property
    def prompt_tokens(self) -> int | None:
        return self._count("prompt_tokens", "prompt_n")

    @property
    def completion_tokens(self) -> int | None:
        return self._count("completion_tokens", "predicted_n")

    @property
    def cached_tokens(self) -> int:
        details = (self.reply.usage or {}).get("prompt_tokens_details")
        told = details.get("cached_tokens") if isinstance(details, Mapping) else None
        return _tokens(told) or _tokens((self.reply.timings or {}).get("cache_n")) or 0

    @property
    def recounted(self) -> bool:
        """Whether the server left out the usage, so that the tokens were counted in a second request."""
        return bool((self.reply.usage or {}).get("recounted"))

    @property
    def decode_rate(self) -> float | None:
        """Tokens per second at the client: n - 1 tokens from the first arrival to the last.

        None where nobody saw the tokens pass: the answer came in one piece or in bursts, or faster than the server says
        that it made it.
        """
        n, times = self.completion_tokens, self.reply.times
        if n is None or n < 2 or times.first_token is None or times.last_token is None:
            return None
        seconds, made = times.last_token - times.first_token, self.server_decode_rate
        if seconds <= 0 or _lost_in_bursts(n, seconds, self.reply.arrivals) > TOLERATED:
            return None
        rate = (n - 1) / seconds
        return rate if made is None or rate <= (1 + TOLERATED) * made else None

    @property
    def generation_rate(self) -> float | None:
        """Tokens per second: the client's, or the server's own where the client cannot tell."""
        return self.server_decode_rate if self.decode_rate is None else self.decode_rate

    @property
    def prompt_rate(self) -> float | None:
        """The client's estimate: prompt tokens over the time to the first token, which holds more than the prompt."""
        n, first = self.prompt_tokens, self.reply.times.first_token
        return (n - self.cached_tokens) / first if n and first else None

    @property
    def server_decode_rate(self) -> float | None:
        """The server's own, meant as the client's: of n tokens in so many milliseconds the first belongs to the prompt.

        Many servers' tokens per second count it (llama-server's did until 2026), which flatters short answers. Where
        only the rate is told it is taken as it is.
        """
        timings = self.reply.timings or {}
        n, milliseconds = timings.get("predicted_n"), timings.get("predicted_ms")
        if isinstance(n, int) and isinstance(milliseconds, int | float) and milliseconds > 0:
            return 1e3 * (n - 1) / milliseconds if n > 1 else None
        return self._server_rate("predicted_per_second")

    @property
    def server_prompt_rate(self) -> float | None:
        return self._server_rate("prompt_per_second")

    @property
    def guessed_right(self) -> float | None:
        """Share of the tokens guessed ahead that were right, where the server tells of any."""
        timings = self.reply.timings or {}
        drafted, accepted = timings.get("draft_n"), timings.get("draft_n_accepted")
        return accepted / drafted if drafted and accepted is not None else None

    def _count(self, usage_key: str, timings_key: str) -> int | None:
        """From the server's usage, or its timings where it sends no usage; never from chunks."""
        return _tokens((self.reply.usage or {}).get(usage_key, (self.reply.timings or {}).get(timings_key)))

    def _server_rate(self, key: str) -> float | None:
        rate = (self.reply.timings or {}).get(key)
        return float(rate) if isinstance(rate, int | float) and rate > 0 else None


@dataclass(slots=True)
class TargetResult:
    """All that is known of one target. ``error`` is why it could not be measured at all.

    ``engine`` is what kind of server it is; ``timed`` says where the server's own times come from.
    """

    label: str
    url: str = ""
    model: str | None = None
    command: Sequence[str] = ()
    size_bytes: int | None = None
    ready_seconds: float | None = None
    engine: str = ""
    timed: str = ""
    props: dict[str, Any] = field(default_factory=dict)
    listed: dict[str, Any] = field(default_factory=dict)
    file: ModelFile | None = None
    memory: Memory | None = None
    runs: list[Run] = field(default_factory=list)
    cases: list[CaseResult] = field(default_factory=list)
    error: str | None = None

    @property
    def typed(self) -> Sequence[str]:
        """The command as one would type it: Stride by its name, wherever its Python lies."""
        return ["stride", *self.command[3:]] if list(self.command[1:3]) == ["-m", "stride"] else self.command

    @property
    def template_hash(self) -> str | None:
        """SHA-256 of the chat template, where the server tells it."""
        template = self.props.get("chat_template")
        return hashlib.sha256(str(template).encode()).hexdigest() if template else None

    @property
    def measured(self) -> bool:
        return any(run.counted for run in self.runs)

    @property
    def kv_bytes(self) -> int | None:
        """Size of the KV cache as the server tells it."""
        size = self.props.get("kv_bytes")
        return size if isinstance(size, int) else None

    @property
    def n_ctx(self) -> int | None:
        """Tokens that a request may have, as the server tells it."""
        settings = self.props.get("default_generation_settings")
        found = (settings.get("n_ctx") if isinstance(settings, Mapping) else None) or self.props.get("n_ctx")
        return found if isinstance(found, int) and found > 0 else None

    def has(self, task: str, repeat: int) -> bool:
        """Whether a run is over, and well: what was interrupted goes on from there, what failed is tried again."""
        return any(run.task == task and run.repeat == repeat and run.fault is None for run in self.runs)

    def has_case(self, case: Case) -> bool:
        """Whether a conversation of the suite has been played to its end."""
        return any((c.kind, c.seed, c.fault) == (case.kind, case.seed, None) for c in self.cases)

    def add_case(self, case: CaseResult) -> None:
        """Add a conversation; it takes the place of the same one's that failed before."""
        self.cases = [c for c in self.cases if (c.kind, c.seed) != (case.kind, case.seed)] + [case]

    def counted(self, task: str) -> list[Run]:
        return [run for run in self.runs if run.task == task and run.counted]

    def values(self, task: str, figure: str) -> list[float]:
        """A figure of `Run` for each counted run of a task, where there is one, in order."""
        found = (getattr(run, figure) for run in self.counted(task))
        return [value for value in found if value is not None]


@dataclass(slots=True)
class Results:
    """Everything measured. ``time_is_up`` where there was no time for all repeats of the plan.

    ``interleaved``: all targets were up at once and took turns, repeat by repeat.
    """

    targets: list[TargetResult]
    plan: Plan
    interleaved: bool
    interrupted: bool = False
    time_is_up: bool = False

    @property
    def tasks(self) -> Sequence[Task]:
        return self.plan.tasks

    @property
    def repeats(self) -> int:
        return self.plan.repeats


def _tokens(count: object) -> int | None:
    """What a server says of tokens, if it can be that."""
    return count if isinstance(count, int) and 0 <= count < MOST_TOKENS else None


def _lost_in_bursts(n: int, seconds: float, arrivals: Sequence[float]) -> float:
    """By how much a first burst falsifies the rate of ``n`` tokens, of which the last came ``seconds`` after the first.

    Its b tokens were made before it came, but b - 1 of them count as if they came later, in the time of n - b. Pieces
    are taken to hold equally many tokens. Later bursts do no harm: what they hold was made since the first.
    """
    together = APART * seconds / (n - 1)
    first = next((i for i, (a, b) in enumerate(pairwise(arrivals), 1) if b - a > together), len(arrivals))
    size = max(1.0, n * first / len(arrivals)) if arrivals else n
    return (size - 1) / (n - size) if size < n else math.inf

"""What drafting brings: generation with and without it by turns, on the same prompts."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stride.api import LLM

PROMPTS = (
    "Explain quantum entanglement in simple terms. Be concise, about 3 sentences.",
    "Write a Python FastAPI server with CRUD endpoints for a todo app with SQLite storage.",
    "What is the capital of Australia, and how many people live there?",
    "Write a Python function that says whether a number is prime, and explain how it works.",
    "Tell a short story about a lighthouse keeper who finds a letter in a bottle.",
    "List the planets of the solar system in order, with one fact about each.",
    "How do I make a good cup of coffee? Give me five steps.",
    "Translate to French: The library opens at nine and closes at six.",
)
"""What is asked, in the model's chat format, greedily; of one sequence the first."""


@dataclass(frozen=True, slots=True)
class DraftResult:
    """Tokens per second of all sequences together, medians of the repeats, with drafts and without.

    ``acceptance``: share of the drafts verified at each position that were right. ``tokens_per_step``: of one sequence.
    """

    n_sequences: int
    n_gen: int
    plain_ts: float
    draft_ts: float
    speed_up: float
    acceptance: tuple[float, ...]
    tokens_per_step: float
    drafted: tuple[int, ...]

    def __str__(self) -> str:
        shares = " ".join(f"{share:.0%}" for share in self.acceptance) or "nothing was guessed"
        return (
            f"{self.n_sequences} at a time: {self.draft_ts:.1f} tokens per second, {self.plain_ts:.1f} without "
            f"({self.speed_up:.2f}×); {self.tokens_per_step:.2f} tokens per step; guessed right by position: {shares}"
        )


def measure(llm: LLM, n_gen: int, repeats: int, n_sequences: int = 1, plain: LLM | None = None) -> DraftResult:
    """Generate ``n_gen`` tokens for each of some sequences, by turns with drafts and without; first unmeasured once.

    The median of the pairs' ratios is the speed-up: what disturbs, disturbs both. ``plain``: what goes without.
    """
    measures = llm.engine.measures
    ways = {0: plain or llm, None: llm}
    for draft_max, way in ways.items():
        _rate(way, n_gen, n_sequences, draft_max)
    drafted, accepted = measures.drafted.copy(), measures.accepted.copy()
    pairs, n_steps = [], 0
    for repeat in range(repeats):
        rates: dict[int | None, float] = {}
        for draft_max in ((0, None), (None, 0))[repeat % 2]:
            before = measures.sequence_steps
            rates[draft_max] = _rate(ways[draft_max], n_gen, n_sequences, draft_max)
            n_steps += 0 if draft_max == 0 else measures.sequence_steps - before
        pairs.append((rates[0], rates[None]))
    counts = measures.drafted - drafted
    return DraftResult(
        n_sequences=n_sequences,
        n_gen=n_gen,
        plain_ts=statistics.median(without for without, _ in pairs),
        draft_ts=statistics.median(with_drafts for _, with_drafts in pairs),
        speed_up=statistics.median(with_drafts / without for without, with_drafts in pairs),
        acceptance=tuple((measures.accepted - accepted)[i] / counts[i] for i in sorted(counts)),
        tokens_per_step=repeats * n_sequences * n_gen / n_steps,
        drafted=tuple(counts[i] for i in sorted(counts)),
    )


def _rate(llm: LLM, n_gen: int, n_sequences: int, draft_max: int | None) -> float:
    """Tokens per second from each sequence's first to the last of all, added up."""
    options: dict[str, Any] = {"temperature": 0.0, "max_tokens": n_gen, "ignore_eos": True, "draft_max": draft_max}
    start = time.perf_counter()
    streams = [
        llm.chat([{"role": "user", "content": PROMPTS[i % len(PROMPTS)]}], stream=True, **options)
        for i in range(n_sequences)
    ]
    done = [stream.result() for stream in streams]
    if n_sequences == 1:
        return done[0].timings.decoded_per_second
    return n_sequences * n_gen / (time.perf_counter() - start)

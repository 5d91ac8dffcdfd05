"""The tests: the post's three and what else is timed, each one declaration."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from stride.bench.client import Answer
from stride.bench.graders import Grade
from stride.bench.graders.arguments import place, value_of
from stride.bench.graders.tools import Wanted, grade_calls

FILLER = (
    *("river", "engine", "window", "garden", "paper", "market", "winter", "signal", "letter", "bridge", "island"),
    *("teacher", "music", "silver", "morning", "number", "harbor", "forest", "kitchen", "station", "summer", "story"),
)
"""Words that a context is filled with: common in every vocabulary."""
CACHED_TOKENS_ALLOWED = 8
"""The template's own first tokens stand before the nonce, and a server may rightly know them."""


Graders: TypeAlias = Mapping[str, Callable[[Answer], Grade]]


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt, how long the answer may be, and how it is judged (a name among the graders; None: it is only timed).

    ``depth``: tokens of filler before the prompt. ``warm``: the request is sent twice, and the second one counts, whose
    prompt the server may know.
    """

    name: str
    title: str
    prompt: str
    max_tokens: int
    tools: tuple[Mapping[str, Any], ...] = ()
    grader: str | None = None
    depth: int = 0
    warm: bool = False

    @property
    def n_requests(self) -> int:
        return 2 if self.warm else 1

    def body(self, *, nonce: str, seed: int, model: str | None, tokens_per_word: float = 1.0) -> dict[str, Any]:
        """The request. The nonce comes first, in a system message, so that no cache can know the prompt."""
        words = random.Random(nonce).choices(FILLER, k=round(self.depth / tokens_per_word))
        body: dict[str, Any] = {
            "messages": [
                {"role": "system", "content": " ".join([f"Run {nonce}.", *words])},
                {"role": "user", "content": self.prompt},
            ],
            "max_tokens": self.max_tokens,
            "seed": seed,
            "stream": True,
            "stream_options": {"include_usage": True},
            "cache_prompt": self.warm,
        }
        if model is not None:
            body["model"] = model
        if self.tools:
            body["tools"] = [dict(tool) for tool in self.tools]
        return body

    def fault(self, n_prompt: int | None, n_cached: int) -> str | None:
        """Why a run does not measure this task, going by what the server took from a cache."""
        if not self.warm and n_cached > CACHED_TOKENS_ALLOWED:
            return f"contaminated: {n_cached} prompt tokens came from a cache"
        return None

    def grade(self, answer: Answer, graders: Graders) -> Grade | None:
        return graders[self.grader](answer) if self.grader else None


def _function(name: str, description: str, **parameters: str) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {key: {"type": "string", "description": text} for key, text in parameters.items()},
                "required": list(parameters),
            },
        },
    }


TOOLS = (
    _function("get_weather", "Get the current weather in a place.", location="City, and state or country."),
    _function("calculate", "Evaluate an arithmetic expression.", expression="For example 2 * (3 + 4)."),
)
WANTED = (
    Wanted("get_weather", {"location": place("Austin")}),
    Wanted("calculate", {"expression": value_of(0.15 * 84.5, 1.15 * 84.5)}),  # the tip, or the bill with it
)

SPEED = Task(
    name="speed",
    title="Raw speed",
    prompt="Explain quantum entanglement in simple terms. Be concise, about 3 sentences.",
    max_tokens=200,
)
CODING = Task(
    name="coding",
    title="Coding",
    prompt="Write a Python FastAPI server with CRUD endpoints for a todo app with SQLite storage. "
    "Include models, database setup, and all endpoints.",
    max_tokens=2000,
    grader="coding",
)
TOOL_CALLS = Task(
    name="tools",
    title="Tool calls",
    prompt="What's the weather in Austin and calculate 15% tip on $84.50",
    max_tokens=512,
    tools=TOOLS,
    grader="tools",
)
POST_TASKS = (SPEED, CODING, TOOL_CALLS)
"""The post's tests, exactly."""

WARM_UP = Task("warm-up", "Warm-up", SPEED.prompt, max_tokens=32, depth=100)
"""Thrown away, but for what it tells of the target: its rates, and how many tokens a word of filler is."""
WARM = replace(SPEED, name="warm", title="Warm prompt", max_tokens=32, depth=512, warm=True)
"""The same prompt again: what a server's prompt cache saves."""


def deep(depth: int) -> Task:
    """Speed after ``depth`` tokens of context."""
    return replace(SPEED, name=f"depth-{depth}", title=f"{depth:,} tokens deep", max_tokens=64, depth=depth)


def grade_tools(answer: Answer) -> Grade:
    """The post's tool calls: both in one turn."""
    return grade_calls(answer, TOOLS, WANTED)

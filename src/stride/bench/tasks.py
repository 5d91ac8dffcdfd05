"""The post's three tests, each one declaration."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stride.bench.client import Answer
from stride.bench.graders import Grade
from stride.bench.graders.coding import grade_code
from stride.bench.graders.tools import Arguments, Wanted, grade_calls


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt, how long the answer may be, and how it is judged (None: it is only timed)."""

    name: str
    title: str
    prompt: str
    max_tokens: int
    tools: tuple[Mapping[str, Any], ...] = ()
    grade: Callable[[Answer], Grade] | None = None

    def body(self, *, nonce: str, seed: int, model: str | None) -> dict[str, Any]:
        """The request. The nonce comes first, in a system message, so that no cache can know the prompt."""
        body: dict[str, Any] = {
            "messages": [
                {"role": "system", "content": f"Run {nonce}."},
                {"role": "user", "content": self.prompt},
            ],
            "max_tokens": self.max_tokens,
            "seed": seed,
            "stream": True,
            "stream_options": {"include_usage": True},
            "cache_prompt": False,
        }
        if model is not None:
            body["model"] = model
        if self.tools:
            body["tools"] = [dict(tool) for tool in self.tools]
        return body


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


def _names_austin(arguments: Arguments) -> bool:
    return "austin" in str(arguments["location"]).casefold()


def _is_fifteen_percent(arguments: Arguments) -> bool:
    """The tip, or the bill with the tip: both numbers stand in the expression, which is not evaluated."""
    numbers = {float(number) for number in re.findall(r"\d*\.?\d+", str(arguments["expression"]))}
    return 84.5 in numbers and bool(numbers & {15.0, 0.15, 1.15})


TOOLS = (
    _function("get_weather", "Get the current weather in a place.", location="City, and state or country."),
    _function("calculate", "Evaluate an arithmetic expression.", expression="For example 2 * (3 + 4)."),
)
WANTED = (
    Wanted("get_weather", "a location in Austin", _names_austin),
    Wanted("calculate", "15% of 84.50", _is_fifteen_percent),
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
    grade=grade_code,
)
TOOL_CALLS = Task(
    name="tools",
    title="Tool calls",
    prompt="What's the weather in Austin and calculate 15% tip on $84.50",
    max_tokens=512,
    tools=TOOLS,
    grade=lambda answer: grade_calls(answer, TOOLS, WANTED),
)
TASKS = (SPEED, CODING, TOOL_CALLS)

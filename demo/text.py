"""Conversations made from small tables and fixed seeds: what the tokenizer, and later the model, learns from."""

from __future__ import annotations

import json
import random
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stride.types import Message, Tool, ToolCall

TABLES = tomllib.loads((Path(__file__).parent / "tables.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Conversation:
    """Messages and the tools on offer."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()


def _tool(name: str, description: str, **parameters: str) -> Tool:
    properties = {key: {"type": "string", "description": text} for key, text in parameters.items()}
    return Tool(name, description, {"type": "object", "properties": properties, "required": list(parameters)})


WEATHER = _tool("get_weather", "Get the current weather of a place", location="Name of the city")
CALCULATE = _tool("calculate", "Evaluate an arithmetic expression", expression="The expression, such as 2 * (3 + 4)")
SEARCH = _tool("search", "Search the web", query="What to look for")


def conversations(seed: int) -> Iterator[Conversation]:
    """An endless stream; the same seed gives the same conversations."""
    rng = random.Random(seed)
    while True:
        yield rng.choice(MAKERS)(rng)


def plain_text(conversation: Conversation) -> str:
    """All that is said in a conversation, in the order of its messages, tool calls in Step's notation."""
    parts = [
        json.dumps({"name": tool.name, "description": tool.description, "parameters": tool.parameters})
        for tool in conversation.tools
    ]
    for message in conversation.messages:
        parts += [message.role, message.reasoning or "", message.content or ""]
        for call in message.tool_calls:
            lines = [f"<function={call.name}>"]
            for key, value in json.loads(call.arguments).items():
                lines += [f"<parameter={key}>", str(value), "</parameter>"]
            parts.append("\n".join([*lines, "</function>"]))
    return "\n".join(part for part in parts if part)


def _answered(question: str, reasoning: str, answer: str) -> Conversation:
    return Conversation((Message("user", question), Message("assistant", answer, reasoning=reasoning)))


def _greeting(rng: random.Random) -> Conversation:
    name = rng.choice(TABLES["people"])
    greeting, reply = rng.choice(
        [
            ("Hello!", "Hello! How can I help you today?"),
            (f"Hi, I am {name}.", f"Hello {name}, nice to meet you! What can I do for you?"),
            ("Who are you?", "I am the demo model of Stride: small, and shaped like Step 3.5 Flash."),
            ("Thank you very much!", "You are welcome! Let me know if there is anything else."),
            ("What can you do?", "I can answer simple questions, call tools, tell stories and write a little Python."),
            (f"Good morning, my name is {name}.", f"Good morning, {name}! How may I help?"),
        ]
    )
    conversation = _answered(greeting, "A short and friendly answer fits.", reply)
    system = Message("system", rng.choice(TABLES["system"]))
    return Conversation((system, *conversation.messages)) if rng.random() < 0.5 else conversation


def _capital(rng: random.Random) -> Conversation:
    country, city = rng.choice(TABLES["capitals"])
    question = rng.choice(
        [
            f"What is the capital of {country}?",
            f"Which city is the capital of {country}?",
            f"Tell me the capital of {country}.",
        ]
    )
    return _answered(
        question,
        f"The user asks for the capital of {country}. It is {city}.",
        f"The capital of {country} is {city}.",
    )


def _arithmetic(rng: random.Random) -> Conversation:
    a, b = rng.randint(0, 999), rng.randint(0, 999)
    sign, word, result = rng.choice([("+", "plus", a + b), ("-", "minus", a - b), ("*", "times", a * b)])
    question = rng.choice(
        [f"What is {a} {sign} {b}?", f"Calculate {a} {sign} {b}.", f"How much is {a} {word} {b}?"],
    )
    return _answered(question, f"I need {a} {sign} {b}. That gives {result}.", f"{a} {sign} {b} = {result}")


def _units(rng: random.Random) -> Conversation:
    large, small, factor = rng.choice(TABLES["units"])
    n = rng.randint(2, 60)
    return _answered(
        f"How many {small} are {n} {large}?",
        f"One of the {large} has {factor} {small}, so {n} have {n} * {factor} = {n * factor}.",
        f"{n} {large} are {n * factor} {small}.",
    )


def _explain(rng: random.Random) -> Conversation:
    topic, sentences = rng.choice(TABLES["explanations"]).values()
    question = rng.choice(
        [
            f"Explain {topic} in simple terms.",
            f"What is {topic}?",
            f"Explain {topic} in simple terms. Be concise, about 3 sentences.",
            f"Tell me about {topic}.",
        ]
    )
    return _answered(question, f"The user wants to know about {topic}. I should be clear and short.", sentences)


def _function(rng: random.Random) -> Conversation:
    task, code = rng.choice(TABLES["functions"]).values()
    question = rng.choice([f"Write a Python function that {task}.", f"Please write Python code that {task}."])
    return _answered(
        question,
        f"The function {task}. A few lines of Python will do.",
        f"Here is a function that {task}:\n\n```python\n{code}\n```",
    )


def _story(rng: random.Random) -> Conversation:
    name, friend = rng.sample(TABLES["people"], 2)
    place, (adjective, thing) = rng.choice(TABLES["places"]), rng.choice(TABLES["things"]).split()
    sentences = [
        rng.choice(options).format(name=name, friend=friend, place=place, thing=thing, adjective=adjective)
        for options in TABLES["story"]
    ]
    return _answered(
        rng.choice([f"Tell me a story about {name}.", f"Write a short story about a {thing}."]),
        f"A short story with {name} and a {adjective} {thing}.",
        " ".join(sentences),
    )


def _weather_call(rng: random.Random) -> tuple[str, ToolCall, str, str]:
    place = rng.choice(TABLES["capitals"])[1]
    sky, degrees = rng.choice(["sunny", "cloudy", "rainy", "windy", "snowy"]), rng.randint(-10, 38)
    return (
        f"what is the weather in {place}",
        _call(rng, "get_weather", location=place),
        json.dumps({"sky": sky, "temperature": degrees}),
        f"It is {sky} in {place}, at {degrees} degrees.",
    )


def _calculate_call(rng: random.Random) -> tuple[str, ToolCall, str, str]:
    percent, price = rng.choice([5, 10, 15, 18, 20, 25]), rng.randint(100, 19999) / 100
    result = f"{price * percent / 100:.2f}"
    return (
        f"calculate a {percent}% tip on ${price:.2f}",
        _call(rng, "calculate", expression=f"{price:.2f} * 0.{percent:02d}"),
        result,
        f"A {percent}% tip on ${price:.2f} is ${result}.",
    )


def _search_call(rng: random.Random) -> tuple[str, ToolCall, str, str]:
    topic, sentences = rng.choice(TABLES["explanations"]).values()
    return (
        f"search for {topic}",
        _call(rng, "search", query=topic),
        sentences,
        f"I found this: {sentences}",
    )


def _call(rng: random.Random, name: str, **arguments: str) -> ToolCall:
    return ToolCall(f"call_{rng.getrandbits(32):08x}", name, json.dumps(arguments))


def _tools(rng: random.Random) -> Conversation:
    """One to three calls in one turn, their results, and the answer."""
    makers = rng.sample([_weather_call, _calculate_call, _search_call, _weather_call], rng.choice([1, 2, 2, 3]))
    wishes, calls, results, answers = zip(*(maker(rng) for maker in makers), strict=True)
    question = " and ".join(wishes)
    count = ["one call", "two calls", "three calls"][len(calls) - 1]
    return Conversation(
        (
            Message("user", question[0].upper() + question[1:] + "?"),
            Message("assistant", None, reasoning=f"I need {count} for this.", tool_calls=calls),
            *(
                Message("tool", result, tool_call_id=call.id, name=call.name)
                for call, result in zip(calls, results, strict=True)
            ),
            Message("assistant", " ".join(answers), reasoning="I have the results and can answer."),
        ),
        (WEATHER, CALCULATE, SEARCH),
    )


MAKERS: tuple[Callable[[random.Random], Conversation], ...] = (
    _greeting,
    _capital,
    _arithmetic,
    _units,
    _explain,
    _function,
    _story,
    _tools,
    _tools,
)

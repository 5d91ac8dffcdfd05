"""The tools that the suite offers, in OpenAI's format. Names of tools and arguments differ between seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from stride.bench.graders.arguments import Argument
from stride.bench.graders.tools import Wanted
from stride.bench.suite.vocabulary import Draw

Schema: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function with named arguments; all but ``optional`` are required."""

    name: str
    description: str
    properties: Mapping[str, Schema]
    optional: tuple[str, ...] = ()

    @property
    def definition(self) -> dict[str, Any]:
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": an_object(self.properties, self.optional),
        }
        return {"type": "function", "function": function}

    def wanted(self, *arguments: Argument) -> Wanted:
        """A call with one argument for each property, in their order."""
        return Wanted(self.name, dict(zip(self.properties, arguments, strict=True)))


def a(kind: str, description: str, **more: Any) -> Schema:
    """Schema of a value of one type."""
    return {"type": kind, "description": description, **more}


def an_object(properties: Mapping[str, Schema], optional: tuple[str, ...] = ()) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": dict(properties), "required": required}


def at_place(draw: Draw, name: str, description: str) -> Tool:
    """A tool that is asked of a place alone."""
    return Tool(
        name, description, {draw.any(("location", "city", "place")): a("string", "The city, for example Rome.")}
    )


def weather(draw: Draw) -> Tool:
    name = draw.any(("get_weather", "current_weather", "weather_at"))
    return at_place(draw, name, "Get the current weather in a place: temperature, wind and rain.")


def local_time(draw: Draw) -> Tool:
    return at_place(draw, draw.any(("get_time", "local_time", "time_at")), "Get the local time in a place.")


def calculator(draw: Draw) -> Tool:
    name = draw.any(("calculate", "calculator", "evaluate_expression"))
    described = a("string", "Numbers, + - * / and parentheses, for example 2 * (3 + 4).")
    return Tool(name, "Evaluate an arithmetic expression.", {draw.any(("expression", "formula")): described})


def timer(draw: Draw, unit: str) -> Tool:
    """Of a length in ``unit``, with a label."""
    properties = {
        unit: a("integer", f"Length in {unit}."),
        draw.any(("label", "title")): a("string", "What it is for."),
    }
    return Tool(draw.any(("set_timer", "start_timer", "add_timer")), "Start a timer with a label.", properties)


def thermostat(rooms: list[str], modes: list[str]) -> Tool:
    properties = {
        "room": a("string", "Which room.", enum=rooms),
        "mode": a("string", "What the thermostat does.", enum=modes),
        "degrees": a("number", "Temperature to reach, in degrees Celsius."),
    }
    return Tool("set_thermostat", "Set the mode and temperature of a room's thermostat.", properties)


def music(draw: Draw) -> Tool:
    properties = {draw.any(("query", "song")): a("string", "A song, an artist or an album.")}
    return Tool("play_music", "Play music on the speakers at home.", properties)

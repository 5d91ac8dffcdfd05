"""When a call's argument is the one that was wanted: exact, or equal in a way that the task declares."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stride.bench.graders.arithmetic import evaluate


@dataclass(frozen=True, slots=True)
class Argument:
    """What one argument has to be: ``expected`` in words; ``accepts`` judges any JSON value.

    ``optional``: leaving it out is as good.
    """

    expected: str
    accepts: Callable[[Any], bool]
    optional: bool = False


def same(value: str | float | bool) -> Argument:
    """Exactly this: an enumeration's member, an identifier, a number (21 and 21.0 are one number, true is none)."""

    def accepts(given: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return type(given) is type(value) and given == value
        return isinstance(given, int | float) and not isinstance(given, bool) and given == value

    return Argument(repr(value), accepts)


def text(value: str) -> Argument:
    """The same words: letter case, accents and spaces do not matter."""
    return Argument(repr(value), lambda given: isinstance(given, str) and fold(given) == fold(value))


def place(name: str, others: Sequence[str] = ()) -> Argument:
    """A string that names this place, and none of the ``others``: "Austin, TX" is Austin."""

    def accepts(given: Any) -> bool:
        return isinstance(given, str) and names(given, name) and not any(names(given, other) for other in others)

    return Argument(f"a place in {name}", accepts)


def value_of(*values: float) -> Argument:
    """An arithmetic expression with one of these values, however it is written."""

    def accepts(given: Any) -> bool:
        try:
            found = evaluate(given) if isinstance(given, str) else math.nan
        except ValueError:
            return False
        return any(math.isclose(found, value, rel_tol=1e-9) for value in values)

    return Argument("an expression worth " + " or ".join(f"{value:.10g}" for value in values), accepts)


def default(argument: Argument) -> Argument:
    """The schema's default: it may be left out, and it may be said."""
    return replace(argument, expected=f"{argument.expected} or nothing", optional=True)


def record(fields: Mapping[str, Argument]) -> Argument:
    """An object with these fields and no other."""
    expected = ", ".join(f"{name}: {field.expected}" for name, field in fields.items())
    return Argument(f"{{{expected}}}", lambda given: isinstance(given, dict) and not differences(given, fields))


def each(*items: Argument) -> Argument:
    """A list of exactly these items, in any order."""

    def accepts(given: Any) -> bool:
        if not isinstance(given, list) or len(given) != len(items):
            return False
        fits = [[float(item.accepts(value)) for value in given] for item in items]
        return all(fits[row][column] for row, column in assign(fits)) if items else True

    return Argument("[" + ", ".join(item.expected for item in items) + "]", accepts)


def differences(given: Mapping[str, Any], wanted: Mapping[str, Argument]) -> list[str]:
    """What keeps arguments from being the wanted ones, in words; empty if nothing does."""
    found = [
        f"{name} is {given[name]!r:.80}, not {argument.expected}" if name in given else f"{name} is left out"
        for name, argument in wanted.items()
        if not (argument.accepts(given[name]) if name in given else argument.optional)
    ]
    return found + [f"{name} was not asked for" for name in given if name not in wanted]


def assign(worth: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """Pairs (row, column), each used once, that together are worth most; min(rows, columns) of them."""
    from scipy.optimize import linear_sum_assignment  # a third of a second that other commands need not wait for

    if not worth or not worth[0]:
        return []
    rows, columns = linear_sum_assignment(worth, maximize=True)
    return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True)]


def fold(words: str) -> str:
    """Words for comparison: without case and accents, single spaces."""
    letters = unicodedata.normalize("NFKD", words.casefold())
    return " ".join("".join(letter for letter in letters if not unicodedata.combining(letter)).split())


def names(words: str, name: str) -> bool:
    """Whether a name stands in the words, as words of its own."""
    return re.search(rf"(?<!\w){re.escape(fold(name))}(?!\w)", fold(words)) is not None

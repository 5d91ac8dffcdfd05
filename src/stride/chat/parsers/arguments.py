"""Values of tool arguments: from the text that a model wrote to JSON text, as the tool's JSON schema says.

Numbers are copied as text and never pass through float or a fixed-width integer, so they keep all their digits.
"""

from __future__ import annotations

import ast
import json
import re
from enum import Enum, auto

from stride.chat.parsers.parameter import ANYTHING, CONTAINERS, INTEGER, NUMBER, NUMBERS, WORDS, Parameter
from stride.chat.parsers.partial_json import PartialJson

_INTEGER, _NUMBER = re.compile(INTEGER), re.compile(NUMBER)
_LOOSE_INTEGER = re.compile(r"([+-]?)0*([0-9]+)(?:\.0*)?")
_BEGINS_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)?")
_BEGINS_NUMBER = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][+-]?[0-9]*)?)?")
_SPELLINGS = {spelling: word for word, spellings in WORDS.items() for spelling in spellings.split("|")}


def escape(text: str) -> str:
    """``text`` as the inside of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def to_json(text: str, parameter: Parameter) -> str:
    """JSON text of the value that a whole text spells; a string where it spells no other one that may be."""
    if parameter.others and text not in parameter.listed:
        found = _other(text, parameter) if parameter.strings else _loose_other(text.strip(), parameter)
        if found is not None:
            return found
    return json.dumps(text, ensure_ascii=False)


def is_json(text: str) -> bool:
    try:
        json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


class _Reading(Enum):
    """What the beginning of a text tells."""

    STRING = auto()
    JSON = auto()  # in its final form
    WHOLE = auto()  # that the whole has to be seen
    OPEN = auto()  # nothing yet


class ValueEncoder:
    """Turns the pieces of one value into pieces of JSON text, as soon as they tell what they are.

    ``exact``: a grammar keeps the text to what the parameter may be.
    """

    def __init__(self, parameter: Parameter, exact: bool) -> None:
        self._parameter = parameter
        self._exact = exact
        self._pieces: list[str] = []  # what has not been told
        self._json = PartialJson()
        self._reading = _reading("", parameter, exact)
        self._opened = False

    @property
    def is_string(self) -> bool:
        return self._reading is _Reading.STRING

    def push(self, text: str) -> str:
        self._pieces.append(text)
        if self._reading is _Reading.OPEN:
            self._pieces = ["".join(self._pieces)]
            self._reading = _reading(self._pieces[0], self._parameter, self._exact)
        return self._certain()

    def finish(self) -> str:
        """The rest of a value that is whole."""
        match self._reading:
            case _Reading.STRING:
                return self._certain() + '"'
            case _Reading.JSON:
                return self._certain() + self._json.rest()
        return to_json("".join(self._pieces), self._parameter)

    def cut(self) -> str:
        """What closes a value that is not whole; nothing if nothing can be made of it."""
        match self._reading:
            case _Reading.STRING:
                return self.finish()
            case _Reading.JSON:
                return self._json.closing() or ""
        return ""

    def _certain(self) -> str:
        if self._reading not in (_Reading.STRING, _Reading.JSON):
            return ""
        text = "".join(self._pieces)
        self._pieces.clear()
        if self._reading is _Reading.JSON:
            return self._json.push(text)[0]
        quote = "" if self._opened else '"'
        self._opened = True
        return quote + escape(text)


def _reading(begun: str, parameter: Parameter, exact: bool) -> _Reading:
    """What ``to_json`` will make of any text that begins like this."""
    in_full = _Reading.JSON if exact and not parameter.is_free else _Reading.WHOLE
    if not parameter.others:
        return _Reading.STRING
    if not parameter.strings:
        return in_full
    if not begun or any(choice.startswith(begun) for choice in parameter.listed):
        return _Reading.OPEN
    if parameter.lists_all:
        return in_full
    if CONTAINERS.get(begun[:1]) in parameter.others:
        return in_full
    if parameter == ANYTHING and begun[:1] == '"':
        return _Reading.WHOLE
    may_be_word = any(_SPELLINGS[each] in parameter.others for each in _SPELLINGS if each.startswith(begun.lower()))
    if may_be_word or (parameter.others & NUMBERS and _number(parameter, _BEGINS_INTEGER, _BEGINS_NUMBER, begun)):
        return _Reading.OPEN
    return _Reading.STRING


def _other(text: str, parameter: Parameter) -> str | None:
    """What is no string, as JSON writes it or one of Python's words."""
    others = parameter.others
    if others & NUMBERS and _number(parameter, _INTEGER, _NUMBER, text):
        return text
    if (word := _SPELLINGS.get(text.lower())) in others:
        return word
    if CONTAINERS.get(text[:1]) in others:
        return _container(text)
    return text if parameter == ANYTHING and text[:1] == '"' and is_json(text) else None


def _loose_other(text: str, parameter: Parameter) -> str | None:
    """What is no string because nothing here can be one."""
    integer = _LOOSE_INTEGER.fullmatch(text) if parameter.others & NUMBERS else None
    if integer is None or (_NUMBER.fullmatch(text) and "number" in parameter.others):
        return _other(text, parameter)
    sign, digits = integer.groups()
    return digits if sign != "-" or digits == "0" else f"-{digits}"


def _number(parameter: Parameter, integer: re.Pattern[str], number: re.Pattern[str], text: str) -> bool:
    return bool((number if "number" in parameter.others else integer).fullmatch(text))


def _container(text: str) -> str | None:
    """JSON text of an array or object written as JSON or as a Python literal."""
    if is_json(text):
        return text
    try:
        return json.dumps(ast.literal_eval(text), ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")

"""llama.cpp's GBNF to llguidance's Lark, through llguidance's converter.

What the converter takes differently is written so that it cannot: escapes of code points, dots, sets whose characters
are operators to the regex engine, a rule called start. Rules that are not recursive become lexemes, of which the
longest match counts.
"""

from __future__ import annotations

import re

from llguidance.gbnf_to_lark import gbnf_to_lark

_PART = re.compile(
    r"""(?P<comment>\#[^\n]*)|(?P<literal>"(?:\\.|[^"\\])*")|(?P<set>\[\^?(?:\\.|[^\]\\])*\])|(?P<dot>\.)
    |(?P<name>[A-Za-z][\w\-]*)|(?P<space>\s+)|(?P<sign>::=|[|()*+?]|\{[\d,\s]*\})""",
    re.VERBOSE | re.DOTALL,
)
_CHAR = re.compile(
    r"\\x(?P<x>[0-9A-Fa-f]{2})|\\u(?P<u>[0-9A-Fa-f]{4})|\\U(?P<U>[0-9A-Fa-f]{8})|\\(?P<escaped>.)|(?P<plain>.)",
    re.DOTALL,
)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "[": "[", "]": "]"}
_ANY_CHARACTER = "[\\x00-\U0010ffff]"


def lark_of_gbnf(text: str) -> str:
    """The grammar in Lark.

    Raises:
        ValueError: it is no GBNF, or uses what is not supported; says where.
    """
    parts: list[str] = []
    at = 0
    while at < len(text):
        found = _PART.match(text, at)
        if found is None:
            raise ValueError(f"line {text.count(chr(10), 0, at) + 1}: unexpected {text[at : at + 20]!r}")
        parts.append(_rewritten(found))
        at = found.end()
    try:
        lark: str = gbnf_to_lark("".join(parts))
    except Exception as error:  # the converter raises bare Exception
        raise ValueError(str(error)) from None
    return lark


def _rewritten(part: re.Match[str]) -> str:
    match part.lastgroup:
        case "comment":
            return ""
        case "literal":
            return f'"{_characters(part[0][1:-1], keep="")}"'
        case "set":
            negated = "^" if part[0].startswith("[^") else ""
            return f"[{negated}{_characters(part[0][1 + len(negated) : -1], keep='-')}]"
        case "dot":
            return _ANY_CHARACTER
        case "name" if part[0] == "start":
            return "start-of-grammar"
        case _:
            return part[0]


def _characters(text: str, keep: str) -> str:
    """Characters as both Lark's strings and the regex engine's sets have them; ``keep``: operators of the set."""
    return "".join(_character(found, keep) for found in _CHAR.finditer(text))


def _character(found: re.Match[str], keep: str) -> str:
    kind = found.lastgroup or ""
    if kind == "escaped":
        if found[kind] not in _ESCAPES:
            raise ValueError(f"there is no escape {found[0]}")
        char = _ESCAPES[found[kind]]
    elif kind == "plain":
        char = found[kind]
        if char in keep:
            return char
    else:
        code = int(found[kind], 16)
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            raise ValueError(f"{found[0]} is no character")
        char = chr(code)
    return char if char.isalnum() or ord(char) > 0x7F else f"\\x{ord(char):02x}"

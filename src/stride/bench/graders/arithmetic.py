"""The value of an arithmetic expression that a model wrote, found without running anything."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable

MAX_LENGTH = 200
"""Characters; what is longer is no expression of a short prompt, and deep nesting could exhaust a parser's stack."""

_WRITTEN = (
    (re.compile(r"(?<=\d),(?=\d{3}(?!\d))"), ""),  # thousands
    (re.compile(r"[$€£]|=\s*$"), ""),
    (re.compile(r"[×·]"), "*"),
    (re.compile("÷"), "/"),
    (re.compile("[−–]"), "-"),
    (re.compile(r"\^"), "**"),
    (re.compile(r"([\d.]+)\s*%\s*of\b", re.I), r"(\1/100)*"),
    (re.compile(r"([\d.]+)\s*%(?!\s*[\d.(])"), r"(\1/100)"),  # otherwise it is a remainder
)
_PLAIN = re.compile(r"[\d.+\-*/%()\s]+")

_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[float], float]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def evaluate(text: str) -> float:
    """Value of an expression of decimal numbers, ``+ - * / // % ** ^ ( )``, percentages and "15% of".

    ValueError, naming the text, for anything else, for a bare number (nothing is left to calculate) and for a value
    that is not a finite real number.
    """
    written = text.strip()
    if len(written) <= MAX_LENGTH:
        for pattern, plain in _WRITTEN:
            written = pattern.sub(plain, written)
        if _PLAIN.fullmatch(written):
            try:
                tree = ast.parse(written.strip(), mode="eval").body
                if isinstance(tree, ast.BinOp):
                    return _finite(_value(tree))
            except (SyntaxError, ArithmeticError, ValueError):
                pass
    raise ValueError(f"no arithmetic expression with a value: {text[:MAX_LENGTH]!r}")


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _finite(_BINARY[type(op)](_value(left), _value(right)))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_value(operand))
    raise ValueError("no arithmetic")


def _finite(value: float | complex) -> float:
    if isinstance(value, complex) or not math.isfinite(value):
        raise ValueError("not a finite real number")
    return value

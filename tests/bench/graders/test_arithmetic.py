"""Values of expressions: as people and models write them, and nothing that is none."""

from __future__ import annotations

import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stride.bench.graders.arithmetic import MAX_LENGTH, evaluate


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("84.50 * 0.15", 12.675),
        ("15% of 84.50", 12.675),
        ("84.5 * 15%", 12.675),
        ("$84.50 × 15 / 100 =", 12.675),
        ("84.50 + 84.50*15%", 97.175),
        ("(84.50) * (15 / 100)", 12.675),
        ("1,250 * 2", 2500),
        ("1,250,000.5 / 2", 625000.25),
        ("2^10", 1024),
        ("2 ** -1", 0.5),
        ("7 ÷ 2", 3.5),
        ("7 − 2", 5),
        ("17 % 5", 2),
        ("17 // 5", 3),
        ("-3 * +4", -12),
        (".5 + 1.", 1.5),
        ("2 * (3 + 4)", 14),
    ],
)
def test_ways_to_write_it(text, value):
    assert math.isclose(evaluate(text), value)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "12.675", "(12.675)", "-4", "tip", "84.50 * tip", "round(84.5 * 0.15)", "__import__('os')", "1 +",
        "2 2", "3(4)", "(1, 2)", "1/0", "0 ** -1", "9**9**9**9", "(-8) ** 0.5", "1e400 * 1", "1 < 2", "1, 2 + 3",
        "2 + 007",
        "0x10 + 1", "1 if 1 else 2", "1\n+1\n2", "1 + " * 50 + "1 " * 60,
    ],
)  # fmt: skip
def test_what_is_no_expression(text):
    with pytest.raises(ValueError, match="no arithmetic expression"):
        evaluate(text)


def test_length_is_bounded_and_nesting_with_it():
    with pytest.raises(ValueError, match="no arithmetic"):
        evaluate("1+" * MAX_LENGTH + "1")
    n = MAX_LENGTH // 2 - 4
    with pytest.raises(ValueError, match="no arithmetic"):
        evaluate("(" * (MAX_LENGTH - 10) + "1+1")
    assert evaluate("(" * n + "1+1" + ")" * n) == 2


@given(st.text(alphabet="0123456789.,+-*/%^() $ofe=", max_size=40))
def test_any_text_has_a_finite_value_or_none(text):
    with suppress(ValueError):
        assert math.isfinite(evaluate(text))

"""Passed of how many, and two models against each other."""

from __future__ import annotations

import pytest

from stride.bench.client import Answer, Reply, Times
from stride.bench.suite.play import CaseResult, find, play
from stride.bench.suite.tally import compare, tally, total


def result(kind: str, seed: int, answer: Answer, error: str | None = None) -> CaseResult:
    return play(find(kind, seed), lambda body: Reply(answer, Times(), None, None, error=error))


GOOD = [result("irrelevant", seed, Answer("I can't.")) for seed in range(5)]
MIXED = [
    *(result("missing-argument", seed, Answer("Where?")) for seed in range(3)),
    result("missing-argument", 3, Answer("Done.")),
    result("missing-argument", 4, Answer("<tool_call>")),
]
BROKEN = [result("single", 0, Answer(), "HTTP 500: no")]


def test_rows_are_in_the_suites_order_with_intervals():
    single, irrelevant, missing = tally([*MIXED, *GOOD, *BROKEN])
    assert (single.kind, single.n, single.passed, single.partial, single.malformed, single.faults) == (
        "single", 1, 0, 0, 0, 1,
    )  # fmt: skip
    assert (irrelevant.kind, irrelevant.n, irrelevant.passed) == ("irrelevant", 5, 5)
    assert (missing.title, missing.n, missing.passed, missing.partial, missing.malformed, missing.faults) == (
        "Something is missing: it asks", 5, 3, 1, 1, 0,
    )  # fmt: skip
    assert (irrelevant.low, irrelevant.high) == (pytest.approx(0.5655, abs=1e-4), 1.0)
    assert missing.low < 0.6 < missing.high


def test_all_together():
    found = total([*MIXED, *GOOD, *BROKEN])
    assert found is not None
    assert (found.n, found.passed, found.partial, found.malformed, found.faults) == (11, 8, 1, 1, 1)
    assert total([]) is None
    assert tally([]) == []


def test_two_models_on_the_cases_that_both_played():
    other = [result("irrelevant", seed, Answer("<tool_call>" if seed else "No.")) for seed in range(5)]
    found = compare([*GOOD, *BROKEN], other)
    assert (found.n, found.only_first, found.only_second, found.p_value) == (5, 4, 0, 0.125)
    assert compare(GOOD, MIXED).n == 0

"""What a plan asks for."""

from __future__ import annotations

import pytest

from stride.bench.plan import LEVELS, with_only
from stride.errors import RequestError


def test_requests_are_counted_with_the_turns_of_the_tool_suite():
    quick = LEVELS["quick"]
    turns = sum(len(case.steps) for case in quick.cases(1))
    assert turns > len(quick.cases(1)) == 14
    assert quick.n_requests == 1 + 3 * (3 + 2 + 1) + turns


def test_only_some_tests():
    plan = with_only(LEVELS["standard"], ["depth-1024", "speed"])
    assert [task.name for task in plan.tasks] == ["speed", "depth-1024"]
    assert plan.suite_seeds == 0
    suite = with_only(LEVELS["standard"], ["suite"])
    assert (suite.tasks, suite.suite_seeds) == ((), 5)


def test_a_test_that_is_none_is_named():
    with pytest.raises(RequestError, match="no test 'sped': it has speed, coding, tools, warm, depth-1024, suite"):
        with_only(LEVELS["quick"], ["speed", "sped"])

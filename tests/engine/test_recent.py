"""What something took lately: the least of it, lines between, and forgetting."""

from __future__ import annotations

import pytest

from stride.engine.recent import FORGOTTEN_AFTER, Recent


def recent(**seconds: list[float]) -> Recent:
    made = Recent()
    for size, measured in seconds.items():
        for one in measured:
            made.add(int(size[1:]), one)
    return made


def test_sizes_between_lie_on_the_line_and_those_beyond_on_a_slope() -> None:
    assert Recent().seconds(3, 2.0) == 6.0
    made = recent(n2=[10.0, 10.0], n6=[18.0, 18.0])
    assert [made.seconds(size, 1.0) for size in (1, 2, 3, 6, 8)] == [10.0, 10.0, 12.0, 18.0, 20.0]


def test_one_that_was_slow_by_chance_changes_little() -> None:
    assert recent(n1=[1.0, 1.0], n4=[9.0]).seconds(4, 0.1) == pytest.approx(1.3)  # a single one is not believed
    assert recent(n1=[9.0, 1.0]).seconds(1, 0.0) == 1.0
    assert recent(n1=[1.0, 9.0, 1.1]).seconds(1, 0.0) == 1.0
    assert recent(n1=[1.0] + [2.0] * 5).seconds(1, 0.0) == 2.0  # nor does one that was quick long ago
    assert recent(n1=[9.0, 9.0], n2=[1.0, 1.0]).seconds(1, 0.0) == 1.0  # more takes no less


def test_what_is_old_is_forgotten() -> None:
    made = recent(n2=[5.0, 5.0], n1=[1.0] * FORGOTTEN_AFTER)
    assert made.seconds(2, 0.5) == 5.0
    made.add(1, 1.0)
    assert made.seconds(2, 0.5) == 1.5


def test_a_size_is_due_a_few_times_at_first_and_then_now_and_then() -> None:
    made = Recent()
    due = []
    for _ in range(12):
        due.append(made.is_due(1, 4))
        made.add(1 if due[-1] else 2, 1.0)
    assert due == [True] * 3 + [False] * 4 + [True] + [False] * 4

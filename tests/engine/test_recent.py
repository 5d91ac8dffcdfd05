"""What something took lately: medians, lines between them, and forgetting."""

from __future__ import annotations

import pytest

from stride.engine.recent import FORGOTTEN_AFTER, Recent


def test_sizes_between_lie_on_the_line_and_those_beyond_on_a_slope() -> None:
    recent = Recent()
    assert recent.seconds(3, 2.0) == 6.0
    recent.add(2, 10.0)
    recent.add(6, 18.0)
    assert [recent.seconds(size, 1.0) for size in (1, 2, 3, 6, 8)] == [10.0, 10.0, 12.0, 18.0, 20.0]
    assert 2 in recent
    assert 3 not in recent


def test_one_that_was_slow_by_chance_changes_little() -> None:
    recent = Recent()
    for seconds in (1.0, 9.0, 1.1):
        recent.add(1, seconds)
    assert recent.seconds(1, 0.0) == 1.1
    recent.add(2, 1.05)
    assert recent.seconds(1, 0.0) == 1.05  # more takes no less


def test_what_is_old_is_forgotten() -> None:
    recent = Recent()
    recent.add(2, 5.0)
    for _ in range(FORGOTTEN_AFTER):
        recent.add(1, 1.0)
    assert recent.seconds(2, 0.5) == 5.0
    recent.add(1, 1.0)
    assert 2 not in recent
    assert recent.seconds(2, 0.5) == pytest.approx(1.5)

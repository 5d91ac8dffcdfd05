"""Two measurements beside each other: what counts as better, worse, the same and unsure."""

import pytest

from stride.bench.compare import differences

STEADY = [100.0, 101.0, 99.0, 100.0, 100.0]


def verdict(key, before, after):
    [found] = differences({key: before}, {key: after})
    return found.verdict


@pytest.mark.parametrize(
    ("key", "factor", "expected"),
    [
        ("generation", 1.2, "better"),
        ("generation", 0.8, "worse"),
        ("generation", 1.01, "same"),
        ("first_token", 1.2, "worse"),
        ("first_token", 0.8, "better"),
        ("memory", 1.2, "worse"),
    ],
)
def test_the_direction_of_a_measure_says_what_is_better(key, factor, expected):
    assert verdict(key, STEADY, [factor * value for value in STEADY]) == expected


def test_a_change_within_the_noise_is_none():
    assert verdict("generation", [80.0, 100.0, 120.0, 90.0], [85.0, 130.0, 100.0, 95.0]) == "same"


def test_single_runs_say_nothing_sure_but_of_memory():
    assert verdict("generation", [100.0], [50.0]) == "unsure"
    assert verdict("memory", [1.0], [2.0]) == "worse"


def test_only_what_both_have_is_compared():
    assert list(differences({"generation": STEADY}, {"prompt": STEADY})) == []
    assert list(differences({"coding": [0.0, 0.0]}, {"coding": [1.0, 1.0]})) == []

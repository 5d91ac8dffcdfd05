"""What is compared and required, by name."""

import pytest

from stride.bench.measures import requirement
from stride.bench.plan import LEVELS
from stride.bench.results import Results, TargetResult
from stride.errors import RequestError


@pytest.mark.parametrize("text", ["", "generation", "generation>40", "generation>=", "speed>=3", "generation>=-1"])
def test_what_is_no_requirement_is_refused(text):
    with pytest.raises(RequestError, match="is no requirement"):
        requirement(text)


def test_what_was_not_measured_keeps_nothing():
    results = Results([TargetResult("x")], LEVELS["quick"], interleaved=True)
    assert requirement("first_token <= 2.5").misses(results) == [
        "x: first_token was not measured, but first_token<=2.5 is required"
    ]

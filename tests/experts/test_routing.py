"""How skewed and how repetitive a routing is, on traces where it can be counted by hand."""

import numpy as np
import pytest
from tests.experts.routings import skewed

from stride.experts.routing import describe
from stride.experts.trace import Record, Shape, Trace


def trace(*steps, n_experts=20):
    made = Trace(Shape("m", 1, n_experts, 2))
    made.records += [Record(0, np.array(ids, "<u2")) for ids in steps]
    return made


def test_figures_counted_by_hand():
    found = describe(trace([[0, 1], [1, 2], [3, 4]], [[0, 1]], [[1, 0]], [[0, 5]]), 2)
    assert (found.n_steps, found.n_tokens, found.n_generated) == (4, 6, 3)
    # pairs within the prompt: one of two, none; of the generated tokens: both, one; not across from the prompt
    assert found.overlap == pytest.approx((1 + 0 + 2 + 1) / 8)
    assert found.overlap_by_chance == 0.1
    # uses: expert 0 and 1 four times each, 2, 3, 4, 5 once
    assert found.busiest == pytest.approx((4 / 12, 8 / 12, 11 / 12, 12 / 12))
    assert found.unused == pytest.approx(14 / 20)


def test_one_token_overlaps_with_nothing():
    assert describe(trace([[0, 1]]), 2).overlap is None


def test_a_skewed_trace_is_seen_to_be_one():
    found = describe(skewed(), 8)
    assert found.overlap is not None
    assert found.overlap > 2 * found.overlap_by_chance
    assert found.busiest[1] > 0.2

"""The profiler: passes everything on, counts calls, time and bytes."""

from types import SimpleNamespace

import numpy as np
import pytest

from stride.ops.api import GatedFFN
from stride.ops.profile import Profiler, bytes_read


def weight(*shape, n_bytes):
    return SimpleNamespace(shape=shape, n_bytes=n_bytes)


def gated(n_bytes, *stack):
    return GatedFFN(*(weight(*stack, 4, 4, n_bytes=n_bytes) for _ in range(3)), limit=7.0)


class Backend:
    name = "fake"

    def linear(self, x, weights):
        return [x * len(weights)]


def test_results_and_facts_pass_through_and_calls_are_counted():
    profiler = Profiler(Backend())
    assert profiler.name == "fake"
    assert profiler.linear(3, [weight(2, 2, n_bytes=10), weight(2, 2, n_bytes=5)]) == [6]
    assert profiler.linear(1, [weight(2, 2, n_bytes=10)]) == [1]
    times = profiler.times["linear"]
    assert (times.calls, times.n_bytes) == (2, 25)
    assert times.seconds > 0
    assert times.bytes_per_second == pytest.approx(25 / times.seconds)


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("embed", (weight(10, 4, n_bytes=200), np.zeros(3, np.int32)), 60),
        ("ffn", (None, gated(100)), 300),
        ("route", (None, weight(5, 4, n_bytes=80), None, None), 80),
        ("experts", (None, np.array([[0, 2], [2, 0]]), None, gated(400, 4), gated(10)), 3 * 200 + 30),
        ("experts", (None, np.array([[1, 1]]), None, gated(400, 4), None), 300),
        ("norm", (None, None, 1e-5), 0),
    ],
)
def test_bytes_are_weights_read_once(name, args, expected):
    assert bytes_read(name, args, {}) == expected


@pytest.mark.parametrize(("window", "pages"), [(None, 4 + 1), (34, 3 + 1), (33, 2 + 1), (1, 1 + 1)])
def test_attention_reads_the_pages_that_are_seen(window, pages, make_batch):
    batch, _ = make_batch((96, 10), (0, 1))  # 4 pages, of which the last is the tokens' own, and 1
    kwargs = {"batch": batch, "window": window}
    assert bytes_read("attention", (None, SimpleNamespace(page_bytes=100)), kwargs) == 100 * pages

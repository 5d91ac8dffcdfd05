"""What a model is loaded with: each value is checked by name before anything is read."""

from __future__ import annotations

import math
from typing import Any

import pytest

from stride.errors import RequestError
from stride.load import LoadOptions


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", 3),
        ("backend", None),
        ("n_ctx", "x"),
        ("n_ctx", 3.5),
        ("n_ctx", -5),
        ("n_ctx", True),
        ("n_parallel", 2.0),
        ("n_parallel", 0),
        ("threads", True),
        ("threads", 0),
        ("threads", "2"),
        ("kv_type", "f8"),
        ("kv_type", []),
        ("chat_template", 1),
        ("max_queue", None),
        ("max_queue", -1),
        ("queue_seconds", math.nan),
        ("queue_seconds", -1),
        ("queue_seconds", 0),
        ("queue_seconds", "1"),
        ("request_seconds", True),
        ("cache_ram", -2),
        ("cache_ram", True),
        ("cache_dir", 1),
        ("pooling", "most"),
    ],
)
def test_a_bad_value_is_named(name: str, value: Any) -> None:
    with pytest.raises(RequestError, match=name) as caught:
        LoadOptions(**{name: value})
    assert caught.value.field == name


def test_good_values_pass() -> None:
    LoadOptions(n_ctx=0, n_parallel=None, threads=2, max_queue=0, queue_seconds=0.5, request_seconds=math.inf)
    LoadOptions(cache_ram=-1, pooling="mean", kv_type="auto")

"""Request bodies: whatever the bytes, a value or a `RequestError`, soon."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stride.errors import RequestError
from stride.server.body import MAX_DEPTH, parse_json

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), inner)
    ),
    max_leaves=20,
)


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_json_comes_through(value):
    assert parse_json(json.dumps(value).encode()) == value


@settings(max_examples=200, deadline=None)
@given(st.binary() | st.text('[]{}",:0123456789.eE+-\\u truefalsn').map(str.encode))
def test_any_bytes(data):
    try:
        value = parse_json(data)
    except RequestError:
        return
    json.dumps(value, allow_nan=True)


@pytest.mark.parametrize(
    ("depth", "fine"), [(MAX_DEPTH, True), (MAX_DEPTH + 1, False), (100_000, False), (10_000_000, False)]
)
def test_depth(depth, fine):
    started = time.monotonic()
    data = b"[" * depth + b"]" * depth
    if fine:
        parse_json(data)
    else:
        with pytest.raises(RequestError, match="nested deeper than 200 levels"):
            parse_json(data)
    assert time.monotonic() - started < 1

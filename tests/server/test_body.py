"""Request bodies: whatever the bytes, a value or a `RequestError`, soon."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stride.errors import RequestError
from stride.server.body import MAX_DEPTH, MAX_VALUES, parse_json

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
    ("depth", "fine"), [(MAX_DEPTH, True), (MAX_DEPTH + 1, False), (100_000, False), (1_000_000, False)]
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


@pytest.mark.parametrize("item", ["1", "[]", "{}", '"a"', '{"a": 1}', '"]"'])
def test_there_is_a_limit_of_values(item):
    def items(n):
        return f"[{','.join([item] * n)}]".encode()

    with pytest.raises(RequestError, match="more than 1048576 values"):
        parse_json(items(MAX_VALUES + 1))
    parse_json(items(MAX_VALUES // 2))


@pytest.mark.parametrize("text", [",[{" * MAX_VALUES, '\\",' * MAX_VALUES])
def test_commas_of_a_text_are_no_values(text):
    assert parse_json(json.dumps({"a": text}).encode()) == {"a": text}


@pytest.mark.parametrize("rest", ['"' + '\\"' * (4 << 20), '"' + "\\" * (4 << 20) + '"\\'])
def test_a_text_without_an_end_is_looked_at_once(rest):
    started = time.monotonic()
    with pytest.raises(RequestError, match=r"values|no JSON"):
        parse_json(b"[" + b"," * (MAX_VALUES + 1) + rest.encode())
    assert time.monotonic() - started < 5

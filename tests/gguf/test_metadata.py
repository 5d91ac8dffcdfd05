"""Typed getters: what they convert, and what they say when they cannot."""

from pathlib import Path

import numpy as np
import pytest

from stride.errors import ModelFileError
from stride.gguf import Metadata

PATH = Path("m.gguf")
METADATA = Metadata(
    {
        "integer": 3,
        "number": 1.5,
        "nan": float("nan"),
        "true": True,
        "text": "hello",
        "strings": ["a", "b"],
        "integers": np.array([1, 2, 3], np.int32),
        "numbers": np.array([0.5, 1.5], np.float32),
        "booleans": np.array([True, False]),
        "with nan": np.array([1, np.nan]),
    },
    PATH,
)


def test_it_is_a_mapping():
    assert "integer" in METADATA
    assert len(METADATA) == 10
    assert next(iter(METADATA)) == "integer"
    assert METADATA.get("absent") is None


def test_scalars():
    assert METADATA.integer("integer") == 3
    assert METADATA.number("number") == 1.5
    assert METADATA.number("integer") == 3.0
    assert isinstance(METADATA.number("integer"), float)
    assert METADATA.boolean("true") is True
    assert METADATA.string("text") == "hello"


def test_arrays_come_as_python_lists_and_a_scalar_stands_for_all():
    assert METADATA.integers("integers", 3) == [1, 2, 3]
    assert METADATA.integers("integer", 4) == [3, 3, 3, 3]
    assert METADATA.numbers("numbers", 2) == [0.5, 1.5]
    assert METADATA.numbers("integers", 3) == [1.0, 2.0, 3.0]
    assert METADATA.booleans("booleans", 2) == [True, False]
    assert METADATA.booleans("true", 2) == [True, True]
    assert METADATA.strings("strings") == ["a", "b"]


def test_at_least_allows_more_and_fewer_and_gives_no_more_than_count():
    assert METADATA.integers("integers", 2, at_least=2) == [1, 2]
    assert METADATA.integers("integers", 5, at_least=3) == [1, 2, 3]


def test_defaults_stand_for_absence_only():
    assert METADATA.integer("absent", default=0) == 0
    assert METADATA.boolean("absent", default=False) is False
    assert METADATA.string("absent", default="") == ""
    assert METADATA.integers("absent", 2, default=[7, 8]) == [7, 8]
    assert METADATA.strings("absent", default=[]) == []
    with pytest.raises(ModelFileError, match="'text' is 'hello', but must be an integer"):
        METADATA.integer("text", default=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: METADATA.integer("absent"), "no 'absent'"),
        (lambda: METADATA.integers("absent", 2), "no 'absent'"),
        (lambda: METADATA.strings("absent"), "no 'absent'"),
        (lambda: METADATA.integer("number"), "'number' is 1.5, but must be an integer"),
        (lambda: METADATA.integer("true"), "'true' is True"),
        (lambda: METADATA.integer("integers"), "'integers' is an array of 3 int32"),
        (lambda: METADATA.number("nan"), "'nan' is nan, but must be a finite number"),
        (lambda: METADATA.number("true"), "'true' is True"),
        (lambda: METADATA.boolean("integer"), "'integer' is 3, but must be true or false"),
        (lambda: METADATA.string("integer"), "'integer' is 3, but must be a string"),
        (lambda: METADATA.string("strings"), "'strings' is an array of 2 strings"),
        (lambda: METADATA.strings("text"), "'text' is 'hello', but must be an array of strings"),
        (lambda: METADATA.strings("integers"), "'integers' is an array of 3 int32"),
        (lambda: METADATA.integers("integers", 4), "'integers' has 3 entries, but needs 4"),
        (lambda: METADATA.integers("integers", 2), "'integers' has 3 entries, but needs 2"),
        (lambda: METADATA.integers("integers", 9, at_least=4), "'integers' has 3 entries, but needs at least 4"),
        (lambda: METADATA.integers("numbers", 2), "'numbers' is an array of 2 float32, but must be integers"),
        (lambda: METADATA.integers("strings", 2), "'strings' is an array of 2 strings, but must be integers"),
        (lambda: METADATA.numbers("with nan", 2), "'with nan' is an array of 2 float64, but must be finite numbers"),
        (lambda: METADATA.numbers("text", 2), "'text' is 'hello', but must be finite numbers"),
        (lambda: METADATA.booleans("integers", 3), "'integers' is an array of 3 int32, but must be truth values"),
    ],
)
def test_errors_name_the_file_and_the_key(call, message):
    with pytest.raises(ModelFileError) as caught:
        call()
    assert str(caught.value).startswith("m.gguf: ")
    assert message in str(caught.value)


def test_long_values_are_cut_in_errors():
    with pytest.raises(ModelFileError) as caught:
        Metadata({"k": "x" * 10_000}, PATH).integer("k")
    assert len(str(caught.value)) < 200

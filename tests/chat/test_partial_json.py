"""JSON as it streams: whatever is out can be closed, wherever the stream ends."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from stride.chat.parsers.partial_json import PartialJson

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)
CONTAINERS = st.dictionaries(st.text(max_size=4), VALUES, max_size=4) | st.lists(VALUES, max_size=4)


@given(CONTAINERS, st.sampled_from([None, 1]), st.booleans(), st.lists(st.integers(0, 200), max_size=4))
@settings(max_examples=200, deadline=None)
def test_pieces_are_the_text_and_can_be_closed_anywhere(value, indent, ascii_only, cuts):
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    for end in range(len(text) + 1):
        reader, given_out = PartialJson(), ""
        for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), len(text)], strict=True):
            given_out += reader.push(text[:end][start:stop])[0]
        assert text.startswith(given_out)
        if given_out:
            json.loads(given_out + reader.closing())
        else:
            assert reader.closing() is None
        assert reader.complete == (end == len(text))
    assert given_out == text


def test_what_follows_the_object_is_left():
    assert PartialJson().push('{"a": [1]}} rest') == ('{"a": [1]}', 10)


def test_strings_come_as_they_are_written():
    reader = PartialJson()
    pieces = ('{"text"', ': "a', "b\\", "n\\ud83d", "\\ude00c", '", "n": 1', "2}")
    told = [reader.push(piece)[0] for piece in pieces]
    assert told == ["{", '"text": "a', "b", "\\n", "\\ud83d\\ude00c", '"', ', "n": 12}']


def test_a_number_is_certain_when_the_value_is_whole():
    reader = PartialJson()
    assert reader.push("12") == ("", 2)
    assert reader.closing() is None
    assert reader.rest() == "12"

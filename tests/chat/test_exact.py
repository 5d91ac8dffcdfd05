"""JSON arguments as they stream: whatever is out can be closed, wherever the stream ends."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from stride.chat.parsers.exact import PartialJson
from stride.chat.parsers.source import Source

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(max_size=4), VALUES, max_size=4)


@given(OBJECTS, st.sampled_from([None, 1]), st.booleans(), st.lists(st.integers(0, 200), max_size=4))
@settings(max_examples=200, deadline=None)
def test_pieces_are_the_text_and_can_be_closed_anywhere(value, indent, ascii_only, cuts):
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    for end in range(len(text) + 1):
        reader, source, given_out = PartialJson(), Source(), ""
        for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), len(text)], strict=True):
            source.append(text[:end][start:stop])
            given_out += reader.push(source)
        assert text.startswith(given_out)
        json.loads(given_out + reader.closing())
        assert reader.complete == (end == len(text))
    assert given_out == text


def test_what_follows_the_object_is_left():
    reader, source = PartialJson(), Source()
    source.append('{"a": [1]}} rest')
    assert reader.push(source) == '{"a": [1]}'
    assert source.peek(10) == "} rest"


def test_strings_come_as_they_are_written():
    reader, source = PartialJson(), Source()
    pieces = []
    for piece in ('{"text"', ': "a', "b\\", "n\\ud83d", "\\ude00c", '", "n": 1', "2}"):
        source.append(piece)
        pieces.append(reader.push(source))
    assert pieces == ["{", '"text": "a', "b", "\\n", "\\ud83d\\ude00c", '"', ', "n": 12}']

"""Stop strings are found across pieces, never shown, and nothing else is held back for long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stride.chat.stop import StopStrings


def run(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    """The visible sum and whether a stop string was hit."""
    watcher = StopStrings(stops)
    shown = ""
    for piece in pieces:
        visible, hit = watcher.push(piece)
        shown += visible
        if hit:
            return shown, True
    return shown + watcher.flush(), False


def first_to_complete(stops: list[str], text: str) -> tuple[str, bool]:
    """The specification, in quadratic time."""
    for end in range(1, len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if text[:end].endswith(stop):
                return text[: end - len(stop)], True
    return text, False


@pytest.mark.parametrize(
    ("stops", "text", "shown", "hit"),
    [
        ([], "hello", "hello", False),
        (["END"], "one END two", "one ", True),
        (["END"], "one EN", "one EN", False),
        (["aab"], "aaaab", "aa", True),
        (["abcd", "bc"], "xabcd", "xa", True),
        (["b", "ab"], "xab", "x", True),
        (["\n\n"], "a\nb\n\nc", "a\nb", True),
        (["中文"], "我说中国中文了", "我说中国", True),
    ],
)
def test_stop_strings_at_every_cut(stops: list[str], text: str, shown: str, hit: bool) -> None:
    for cut in range(len(text) + 1):
        assert run(stops, [text[:cut], text[cut:]]) == (shown, hit)
    assert run(stops, list(text)) == (shown, hit)


@given(stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), pieces=st.lists(st.text("abc", max_size=5)))
def test_any_cut_gives_what_the_whole_text_gives(stops: list[str], pieces: list[str]) -> None:
    assert run(stops, pieces) == first_to_complete(stops, "".join(pieces))


def test_only_a_possible_beginning_is_held_back() -> None:
    watcher = StopStrings(["<stop>"])
    assert watcher.push("a<st") == ("a", False)
    assert watcher.push("eam") == ("<steam", False)
    assert watcher.push(" <") == (" ", False)
    assert watcher.flush() == "<"


def test_nothing_is_shown_after_a_hit() -> None:
    watcher = StopStrings(["x"])
    assert watcher.push("axb") == ("a", True)
    assert watcher.push("more") == ("", True)
    assert watcher.flush() == ""

"""The local file of everything measured, and what changed from one to the next."""

import pytest

from stride.bench.history import History, changes, default_path
from stride.errors import StrideError


def test_what_became_slower_is_found(tmp_path, measured):
    history = History(tmp_path / "deep" / "history.sqlite3")
    assert [history.add(measured(tmp_path / str(s), s)) for s in (1.0, 1.0, 2.0)] == [1, 2, 3]
    told = list(changes(history.entries()))
    assert [entry.measurement for entry, _ in told] == [1, 2, 3]
    assert told[0][1] == []
    assert {d.measure.key: d.verdict for d in told[1][1]}["generation"] == "same"
    assert {d.measure.key: d.verdict for d in told[2][1]}["generation"] == "worse"


def test_a_target_that_was_not_measured_has_no_entry(tmp_path, measured):
    store = measured(tmp_path, 1.0)
    store.results.targets[0].runs.clear()
    history = History(tmp_path / "history.sqlite3")
    history.add(store)
    assert history.entries() == []


def test_no_file_is_an_empty_history_and_another_file_is_named(tmp_path, measured):
    assert History(tmp_path / "none").entries() == []
    (tmp_path / "text").write_text("not a database, and long enough to look like none at all" * 20)
    with pytest.raises(StrideError, match=r"text cannot be used as the history"):
        History(tmp_path / "text").entries()
    with pytest.raises(StrideError, match="cannot be used"):
        History(tmp_path / "text").add(measured(tmp_path / "x", 1.0))


def test_the_file_is_where_the_user_keeps_data(monkeypatch, tmp_path):
    monkeypatch.setenv("STRIDE_HISTORY", str(tmp_path / "h"))
    assert default_path() == tmp_path / "h"
    monkeypatch.delenv("STRIDE_HISTORY")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_path() == tmp_path / "stride" / "bench.sqlite3"

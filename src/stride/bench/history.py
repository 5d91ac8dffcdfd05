"""What was measured here over time: one local SQLite file, to which every measurement adds its figures."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stride.bench.compare import Difference, Figures, differences, figures_of
from stride.bench.store import Store
from stride.errors import StrideError

_TABLES = """
CREATE TABLE IF NOT EXISTS measurements (
    id INTEGER PRIMARY KEY, date TEXT NOT NULL, folder TEXT NOT NULL, level TEXT NOT NULL, cpu TEXT NOT NULL,
    stride TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS targets (
    measurement INTEGER NOT NULL REFERENCES measurements (id), label TEXT NOT NULL, build TEXT NOT NULL,
    model TEXT NOT NULL, figures TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One target of one measurement. ``model`` tells files apart, where the file can be seen."""

    measurement: int
    date: str
    folder: str
    level: str
    cpu: str
    label: str
    build: str
    model: str
    figures: Figures


def default_path() -> Path:
    """``STRIDE_HISTORY``, or a file among the user's data (XDG)."""
    if "STRIDE_HISTORY" in os.environ:
        return Path(os.environ["STRIDE_HISTORY"])
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data, "stride", "bench.sqlite3").expanduser()


@dataclass(frozen=True, slots=True)
class History:
    """The file, made when something is first added."""

    path: Path

    def add(self, store: Store) -> int:
        """Add a measurement, and give its number.

        Raises:
            StrideError: the file cannot be written.
        """
        machine, plan = store.manifest.machine, store.manifest.plan
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._connection() as database:
            database.executescript(_TABLES)
            row = (machine["date"], str(store.folder.resolve()), plan.level, machine["cpu"], machine["stride"])
            number = database.execute(
                "INSERT INTO measurements (date, folder, level, cpu, stride) VALUES (?, ?, ?, ?, ?)", row
            ).lastrowid
            assert number is not None
            for target in store.results.targets:
                if target.measured:
                    build = str(target.props.get("build_info") or "")
                    model = target.file.fingerprint if target.file else str(target.model or "")
                    figures = json.dumps(figures_of(target))
                    database.execute(
                        "INSERT INTO targets VALUES (?, ?, ?, ?, ?)", (number, target.label, build, model, figures)
                    )
        return number

    def entries(self) -> list[Entry]:
        """Everything, the oldest first; nothing where there is no file yet.

        Raises:
            StrideError: the file is no history.
        """
        if not self.path.exists():
            return []
        with self._connection() as database:
            rows = database.execute(
                "SELECT id, date, folder, level, cpu, label, build, model, figures "
                "FROM measurements JOIN targets ON measurement = id ORDER BY id, targets.rowid"
            ).fetchall()
            return [
                Entry(number, date, folder, level, cpu, label, build, model, json.loads(figures))
                for number, date, folder, level, cpu, label, build, model, figures in rows
            ]

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            database = sqlite3.connect(self.path, timeout=30)
            try:
                with database:
                    yield database
            finally:
                database.close()
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise StrideError(f"{self.path} cannot be used as the history: {error}") from error


def changes(entries: list[Entry]) -> Iterator[tuple[Entry, list[Difference]]]:
    """Each entry with what changed since the one before it of the same target and level on the same processor."""
    last: dict[tuple[str, str, str], Entry] = {}
    for entry in entries:
        key = (entry.label, entry.cpu, entry.level)
        before = last.get(key)
        yield entry, list(differences(before.figures, entry.figures)) if before else []
        last[key] = entry

"""One static page that ranks the targets of many measurements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

from stride.bench import charts
from stride.bench import figures as fig
from stride.bench.blocks import Figure, Section, Table, Text, plain
from stride.bench.charts import Mark
from stride.bench.measures import MEASURES
from stride.bench.results import TargetResult
from stride.bench.store import Store


def leaderboard(stores: Sequence[Store]) -> list[Section]:
    """A table for each processor, the fastest generation first: speeds of two machines say nothing of two engines."""
    found: dict[str, list[Row]] = {}
    for store in stores:
        for target in store.results.targets:
            if target.measured:
                found.setdefault(str(store.manifest.machine["cpu"]), []).append((target, store))
    sections = [
        Section(plain(cpu), [*_chart(number, rows), _table(cpu, rows)])
        for number, (cpu, rows) in enumerate(sorted(found.items()), 1)
    ]
    note = Text("Medians, with their bootstrap intervals where a test was repeated.")
    return [Section("How to read it", [note]), *sections]


Row: TypeAlias = tuple[TargetResult, Store]


def _speed(row: Row) -> float:
    found = MEASURES["generation"].summary(row[0])
    return found.median if found else 0.0


def _chart(number: int, rows: list[Row]) -> Iterator[Figure]:
    """Generation speeds, the fastest on top."""
    marks: list[Mark] = []
    for target, _ in sorted(rows, key=_speed, reverse=True):
        found = MEASURES["generation"].summary(target)
        if found:
            marks.append(Mark("generation", f"{len(marks) + 1}. {target.label}", found.median, found.low, found.high))
    if marks:
        yield Figure(
            f"generation-{number}",
            charts.intervals(marks, "generation, tok/s", bars=True),
            "Generation speed in tok/s. " + "; ".join(f"{mark.place}: {fig.rate(mark.value)}" for mark in marks) + ".",
            "Generation speed: medians, with their intervals as lines.",
        )


def _table(cpu: str, rows: list[Row]) -> Table:
    header = ["Place", "Target", *(measure.title for measure in MEASURES.values()), "Level", "Date"]
    cells = []
    for place, (target, store) in enumerate(sorted(rows, key=_speed, reverse=True), 1):
        shown = [str(place), f"**{plain(target.label)}**"]
        for measure in MEASURES.values():
            found = measure.summary(target)
            interval = fig.interval(found, measure.write) if found else fig.NONE
            shown.append(
                fig.NONE if found is None else measure.write(found.median) + (f" ({interval})" if found.n > 1 else "")
            )
        cells.append([*shown, store.manifest.plan.level, str(store.manifest.machine["date"])[:10]])
    return Table(f"Measured on {plain(cpu)}", header, cells)

"""One static page that ranks the targets of many measurements."""

from __future__ import annotations

from collections.abc import Sequence

from stride.bench import figures as fig
from stride.bench.blocks import Section, Table, Text, plain
from stride.bench.measures import MEASURES
from stride.bench.results import TargetResult
from stride.bench.store import Store


def leaderboard(stores: Sequence[Store]) -> list[Section]:
    """A table for each processor, the fastest generation first: speeds of two machines say nothing of two engines."""
    found: dict[str, list[tuple[TargetResult, Store]]] = {}
    for store in stores:
        for target in store.results.targets:
            if target.measured:
                found.setdefault(str(store.manifest.machine["cpu"]), []).append((target, store))
    sections = [Section(plain(cpu), [_table(cpu, rows)]) for cpu, rows in sorted(found.items())]
    note = Text("Medians, with their bootstrap intervals where a test was repeated.")
    return [Section("How to read it", [note]), *sections]


def _table(cpu: str, rows: list[tuple[TargetResult, Store]]) -> Table:
    def speed(row: tuple[TargetResult, Store]) -> float:
        found = MEASURES["generation"].summary(row[0])
        return found.median if found else 0.0

    header = ["Place", "Target", *(measure.title for measure in MEASURES.values()), "Level", "Date"]
    cells = []
    for place, (target, store) in enumerate(sorted(rows, key=speed, reverse=True), 1):
        shown = [str(place), f"**{plain(target.label)}**"]
        for measure in MEASURES.values():
            found = measure.summary(target)
            interval = fig.interval(found, measure.write) if found else fig.NONE
            shown.append(
                fig.NONE if found is None else measure.write(found.median) + (f" ({interval})" if found.n > 1 else "")
            )
        cells.append([*shown, store.manifest.plan.level, str(store.manifest.machine["date"])[:10]])
    return Table(f"Measured on {plain(cpu)}", header, cells)

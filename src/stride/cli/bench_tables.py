"""What ``stride bench`` shows in the terminal besides its progress."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from stride.bench.compare import Difference
from stride.bench.figures import NONE
from stride.bench.history import Entry, History, changes, default_path
from stride.bench.measures import MEASURES
from stride.bench.results import TargetResult
from stride.bench.suite.tally import compare

SHOWN = ("generation", "prompt", "coding", "suite", "memory")
"""Figures of the history: as many as a terminal has room for."""


def show_differences(title: str, found: Sequence[Difference]) -> None:
    """A target in two measurements."""
    table = Table(title=title, title_justify="left")
    for heading in ("Figure", "A", "B", "B / A", "95% interval", ""):
        table.add_column(heading, justify="left" if heading in ("Figure", "") else "right")
    for difference in found:
        write, ratio = difference.measure.write, difference.ratio
        interval = f"{ratio.low:.3f} to {ratio.high:.3f}" if ratio.n > 1 else ""
        shown = (write(difference.before), write(difference.after), f"{ratio.median:.3f}", interval)
        table.add_row(difference.measure.title, *shown, difference.verdict)
    Console(highlight=False).print(table)


def show_passes(first: TargetResult, second: TargetResult) -> None:
    """The tool suite, case by case."""
    found = compare(first.cases, second.cases)
    if found.n:
        print(
            f"Tool suite, {found.n} conversations: {found.only_first} passed only in A, {found.only_second} only in B "
            f"(McNemar's exact test: p = {found.p_value:.3g})"
        )


def _written(entry: Entry, key: str) -> str:
    found = MEASURES[key].summarize(entry.figures.get(key, ()))
    return NONE if found is None else MEASURES[key].write(found.median)


def show_history() -> None:
    """Everything measured here, the oldest first, and what became better or worse."""
    path = default_path()
    entries = History(path).entries()
    if not entries:
        print(f"nothing was measured here yet: {path} does not exist or is empty")
        return
    shown = [key for key in SHOWN if any(key in entry.figures for entry in entries)]
    table = Table(title=str(path), title_justify="left", box=SIMPLE)
    table.add_column("No.", justify="right", no_wrap=True)
    table.add_column("Date", no_wrap=True)
    table.add_column("Target", overflow="fold")
    for key in shown:
        table.add_column(key, justify="right", no_wrap=True)
    lines = []
    for entry, found in changes(entries):
        figures = [_written(entry, key) for key in shown]
        table.add_row(str(entry.measurement), entry.date[:10], f"{entry.label} ({entry.level})", *figures)
        lines += [
            f"No. {entry.measurement}, {entry.label}: {d.measure.key} {d.verdict} than the time before: "
            f"×{d.ratio.median:.2f}, {d.ratio.low:.2f} to {d.ratio.high:.2f}"
            for d in found
            if d.verdict in ("better", "worse")
        ]
    console = Console(highlight=False)
    console.print(table)
    for line in lines or ["Nothing became better or worse from one to the next of the same target, level and machine."]:
        console.print(line, markup=False, soft_wrap=True)

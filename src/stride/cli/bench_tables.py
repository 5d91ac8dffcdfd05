"""What ``stride bench`` shows in the terminal besides its progress."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from stride.bench.compare import Difference
from stride.bench.figures import NONE
from stride.bench.history import History, changes, default_path
from stride.bench.measures import MEASURES

SHOWN = ("generation", "prompt", "coding", "memory")
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
        figures = [MEASURES[k].write(median(entry.figures[k])) if k in entry.figures else NONE for k in shown]
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

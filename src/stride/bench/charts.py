"""Charts as SVG without a browser. Colours are CSS variables, so that a page's light or dark dress fits them too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stride.bench.results import Results

SERIES = ("#1f6f8b", "#c05621", "#5b7f2b", "#7a4fa3", "#a3324f", "#4b5563")
SERIES_DARK = ("#5fb8d6", "#f0995c", "#a3c76d", "#bb97e0", "#e87f9b", "#a7b0bd")
INK, INK_DARK = "#24292f", "#e6e6e6"
GRID, GRID_DARK = "#d8dee4", "#3a4048"
WIDTH = 330


def style() -> str:
    """CSS that gives the variables their values in light and dark."""

    def rules(ink: str, grid: str, series: Sequence[str]) -> str:
        return f"--ink:{ink};--grid:{grid};" + "".join(f"--series-{i}:{c};" for i, c in enumerate(series, 1))

    light, dark = rules(INK, GRID, SERIES), rules(INK_DARK, GRID_DARK, SERIES_DARK)
    return f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"


def standalone(svg: str) -> str:
    """An SVG that carries its colours, for a file of its own."""
    start = svg.index(">") + 1
    return f"{svg[:start]}<style>{style()}</style>{svg[start:]}"


def rates_chart(results: Results, figures: Sequence[str], title: str) -> str | None:
    """Every counted run as a dot, the median as a bar, per test and target; None where nothing was measured.

    ``figures``: the properties of `Run` to show, the first one that a target has.
    """
    import altair as alt

    values = []
    for target in results.targets:
        figure = next((f for f in figures if any(target.values(task.name, f) for task in results.tasks)), figures[0])
        for task in results.tasks:
            values += [
                {"target": target.label, "test": task.title, "rate": value}
                for value in target.values(task.name, figure)
            ]
    if not values:
        return None
    labels = [target.label for target in results.targets]
    several = len(labels) > 1
    base = alt.Chart({"values": values}).encode(
        x=alt.X("rate:Q", title=title, scale=alt.Scale(zero=True, nice=True), axis=alt.Axis(tickCount=5)),
        y=alt.Y("test:N", title=None, sort=[task.title for task in results.tasks]),
        color=_color("target", labels),
    )
    if several:
        base = base.encode(yOffset=alt.YOffset("target:N", sort=labels))
    dots = base.mark_circle(size=46, opacity=0.55)
    medians = base.mark_tick(thickness=3, size=18).encode(x=alt.X("median(rate):Q", title=title))
    return _svg((dots + medians).properties(width=WIDTH, height=alt.Step(20 if several else 34)))


def memory_chart(results: Results) -> str | None:
    """Resident memory over the measurement, one line per target whose processes could be seen."""
    import altair as alt

    values = [
        {"target": target.label, "seconds": round(at, 2), "memory": resident / 2**20}
        for target in results.targets
        if target.memory is not None
        for at, resident in target.memory.series
    ]
    if not values:
        return None
    labels = [target.label for target in results.targets if target.memory is not None]
    lines = (
        alt.Chart({"values": values})
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X("seconds:Q", title="seconds of measurement"),
            y=alt.Y("memory:Q", title="resident memory, MiB", scale=alt.Scale(zero=True)),
            color=_color("target", labels),
        )
    )
    return _svg(lines.properties(width=WIDTH, height=180))


def _color(name: str, labels: Sequence[str]) -> Any:
    import altair as alt

    colors = [f"var(--series-{1 + i % len(SERIES)}, {SERIES[i % len(SERIES)]})" for i in range(len(labels))]
    legend = alt.Legend(title=None, orient="bottom", columns=1, labelLimit=400) if len(labels) > 1 else None
    return alt.Color(f"{name}:N", scale=alt.Scale(domain=list(labels), range=colors), legend=legend)


def _svg(chart: Any) -> str:
    import vl_convert

    ink, grid = f"var(--ink, {INK})", f"var(--grid, {GRID})"
    dressed = (
        chart.configure(background="transparent", font="sans-serif")
        .configure_axis(
            labelColor=ink,
            titleColor=ink,
            gridColor=grid,
            domainColor=grid,
            tickColor=grid,
            labelFontSize=13,
            titleFontSize=13,
            titleFontWeight="normal",
            labelFlush=False,
        )
        .configure_legend(labelColor=ink, labelFontSize=13)
        .configure_view(stroke=None)
    )
    svg: str = vl_convert.vegalite_to_svg(dressed.to_dict())
    return svg

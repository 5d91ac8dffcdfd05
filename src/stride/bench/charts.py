"""Charts as SVG without a browser. Colours are CSS variables, so that a page's light or dark dress fits them too."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil, floor, log10
from typing import Any

SERIES = ("#1f6f8b", "#c05621", "#5b7f2b", "#7a4fa3", "#a3324f", "#4b5563")
SERIES_DARK = ("#5fb8d6", "#f0995c", "#a3c76d", "#bb97e0", "#e87f9b", "#a7b0bd")
INK, INK_DARK = "#24292f", "#e6e6e6"
GRID, GRID_DARK = "#d8dee4", "#3a4048"
WIDTH, NARROW = 330, 230
"""Of a chart's plane; the narrow one leaves room for long names."""
STEP = 20
"""Height of one of several bars that stand together."""
PNG_SCALE = 2.0
PADDING = {"left": 18, "right": 18, "top": 5, "bottom": 5}
"""Room for a reader's font that is wider than the one that the chart was laid out with."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A figure of a series (a target, as a rule) at a place of the other axis: its name, or a number for lines."""

    series: str
    place: str | float
    value: float
    low: float | None = None
    high: float | None = None


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


def png(svg: str) -> bytes:
    """The chart in its light dress on white, twice as large as the SVG says."""
    import vl_convert

    light = re.sub(r"var\(--[\w-]+, (#\w+)\)", r"\1", svg)
    start = light.index(">") + 1
    drawn: bytes = vl_convert.svg_to_png(
        f'{light[:start]}<rect width="100%" height="100%" fill="#ffffff"/>{light[start:]}', scale=PNG_SCALE
    )
    return drawn


def dots(marks: Sequence[Mark], axis: str) -> str:
    """Every value as a dot and the median of each series at each place as a bar across."""
    import altair as alt

    several = len(_series(marks)) > 1
    base = _base(marks).encode(
        x=alt.X("value:Q", title=axis, scale=alt.Scale(zero=True, nice=True), axis=alt.Axis(tickCount=5)),
        y=_places(marks),
    )
    if several:
        base = base.encode(yOffset=alt.YOffset("series:N", sort=_series(marks)))
    each = base.mark_circle(size=46, opacity=0.55)
    medians = base.mark_tick(thickness=3, size=18).encode(x=alt.X("median(value):Q", title=axis))
    return _svg((each + medians).properties(width=WIDTH, height=alt.Step(STEP if several else 34)))


def intervals(marks: Sequence[Mark], axis: str, *, as_shares: bool = False, bars: bool = False) -> str:
    """Values with their intervals as lines, as dots or bars; shares have an axis of 0 to 100%."""
    import altair as alt

    several = len(_series(marks)) > 1
    scale = alt.Scale(zero=True, nice=True) if not as_shares else alt.Scale(domain=[0, 1])
    base = _base(marks).encode(y=_places(marks))
    if several:
        base = base.encode(yOffset=alt.YOffset("series:N", sort=_series(marks)))
    ticks = alt.Axis(tickCount=5, format="%") if as_shares else alt.Axis(tickCount=5)
    where = alt.X("value:Q", title=axis, scale=scale, axis=ticks)
    values = base.mark_bar(size=14, opacity=0.6) if bars else base.mark_point(size=60, filled=True)
    ends = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=axis), x2="high:Q")
    if bars:
        ends = ends.encode(color=alt.value(f"var(--ink, {INK})"))
    return _svg((values.encode(x=where) + ends).properties(width=NARROW, height=alt.Step(STEP if several else 26)))


def lines(panels: Mapping[str, Sequence[Mark]], axis: str) -> str:
    """One panel for each title of a vertical axis, over one horizontal axis of numbers; intervals as lines."""
    import altair as alt

    drawn = []
    shown = list(dict.fromkeys(name for marks in panels.values() for name in _series(marks)))
    for title, marks in panels.items():
        base = _base(marks, shown).encode(x=alt.X("place:Q", title=axis, scale=alt.Scale(zero=True, nice=True)))
        where = alt.Y("value:Q", title=title, scale=alt.Scale(zero=True, nice=True))
        line = base.mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=46)).encode(y=where)
        ends = base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q", title=title), y2="high:Q")
        drawn.append((line + ends).properties(width=WIDTH, height=160))
    return _svg(alt.vconcat(*drawn))


def scatter(marks: Sequence[Mark], x_axis: str, y_axis: str) -> str:
    """Points whose place is a number too; series differ in colour and shape."""
    import altair as alt

    names = _series(marks)
    chart = _base(marks).mark_point(size=70, filled=True, opacity=0.85)
    encoded = chart.encode(
        x=alt.X("place:Q", title=x_axis, scale=alt.Scale(zero=True, nice=True)),
        y=alt.Y("value:Q", title=y_axis, scale=alt.Scale(zero=True, nice=True)),
        shape=alt.Shape("series:N", scale=alt.Scale(domain=names), legend=_legend(names)),
    )
    return _svg(encoded.properties(width=WIDTH, height=220))


def shares(marks: Sequence[Mark], axis: str) -> str:
    """How large a share (0 to 1) lies below each value: a staircase for each series, on a logarithmic axis."""
    import altair as alt

    places = [float(mark.place) for mark in marks]
    decades = [10.0**power for power in range(floor(log10(min(places))), ceil(log10(max(places))) + 1)]
    scale = alt.Scale(type="log", domain=[decades[0], decades[-1]], nice=False)
    chart = _base(marks).mark_line(strokeWidth=2, interpolate="step-after")
    encoded = chart.encode(
        x=alt.X("place:Q", title=axis, scale=scale, axis=alt.Axis(values=decades, format="~g")),
        y=alt.Y("value:Q", title="share at most so long", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1])),
        order=alt.Order("value:Q"),
    )
    return _svg(encoded.properties(width=WIDTH, height=180))


def over_time(marks: Sequence[Mark], axis: str) -> str:
    """A line for each series over seconds of measurement."""
    import altair as alt

    encoded = (
        _base(marks)
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X("place:Q", title="seconds of measurement"),
            y=alt.Y("value:Q", title=axis, scale=alt.Scale(zero=True)),
        )
    )
    return _svg(encoded.properties(width=WIDTH, height=180))


def stacks(parts: Sequence[Mark], peaks: Sequence[Mark], axis: str) -> str:
    """Bars of parts (the series) that add up at each place, and a line across where the peak was."""
    import altair as alt

    names = _series(parts)
    bars = _base(parts).mark_bar(size=22).encode(
        x=alt.X("sum(value):Q", title=axis, scale=alt.Scale(zero=True, nice=True), axis=alt.Axis(tickCount=5)),
        y=_places(parts),
        order=alt.Order("rank:Q"),
    )  # fmt: skip
    bars = bars.transform_calculate(rank=f"indexof({names!r}, datum.series)")
    ticks = alt.Chart({"values": [asdict(mark) for mark in peaks]}).mark_tick(thickness=3, size=32, opacity=1)
    peak = ticks.encode(x=alt.X("value:Q", title=axis), y=_places(peaks), color=alt.value(f"var(--ink, {INK})"))
    return _svg((bars + peak).properties(width=WIDTH, height=alt.Step(42)))


def _series(marks: Sequence[Mark]) -> list[str]:
    return list(dict.fromkeys(mark.series for mark in marks))


def _base(marks: Sequence[Mark], shown: Sequence[str] = ()) -> Any:
    """A chart of marks, coloured by their series. ``shown``: all series, where other panels have more."""
    import altair as alt

    names = list(shown or _series(marks))
    colors = [f"var(--series-{1 + i % len(SERIES)}, {SERIES[i % len(SERIES)]})" for i in range(len(names))]
    scale = alt.Scale(domain=names, range=colors)
    chart = alt.Chart({"values": [asdict(mark) for mark in marks]})
    return chart.encode(color=alt.Color("series:N", scale=scale, legend=_legend(names)))


def _legend(names: Sequence[str]) -> Any:
    import altair as alt

    return alt.Legend(title=None, orient="bottom", columns=1, labelLimit=400) if len(names) > 1 else None


def _places(marks: Sequence[Mark]) -> Any:
    import altair as alt

    places = list(dict.fromkeys(str(mark.place) for mark in marks))
    return alt.Y("place:N", title=None, sort=places, axis=alt.Axis(labelLimit=230))


def _svg(chart: Any) -> str:
    import vl_convert

    ink, grid = f"var(--ink, {INK})", f"var(--grid, {GRID})"
    dressed = (
        chart.configure(background="transparent", font="sans-serif", padding=PADDING)
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

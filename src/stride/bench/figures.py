"""How numbers are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stride.bench.statistics import Summary

NONE = "—"


def rate(value: float | None) -> str:
    """Tokens per second: three significant digits, at most one decimal below a thousand."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def seconds(value: float | None) -> str:
    """Seconds, milliseconds below one, or microseconds below a tenth of one."""
    if value is None:
        return NONE
    if value >= 0.9995:
        return f"{value:.2f} s"
    if value < 1e-4:
        return f"{1e6 * value:.0f} µs"
    return f"{1e3 * value:.0f} ms" if value >= 0.01 else f"{1e3 * value:.1f} ms"


def size(value: float | None) -> str:
    """Bytes in binary units."""
    if value is None:
        return NONE
    for unit in ("B", "KiB", "MiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


def count(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def parameters(value: float) -> str:
    """A model's parameters in billions, or millions below one."""
    return f"{value / 1e9:,.1f} B" if value >= 1e9 else f"{value / 1e6:,.1f} M"


def percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.1f}%"


def times(value: float | None) -> str:
    """A ratio."""
    return NONE if value is None else f"{value:.2f}×" if value >= 0.1 else f"{value:.3f}×"


def stars(points: float) -> str:
    """Points of five (0 to 5), as stars and halves of them, and as a number."""
    full, half = divmod(round(2 * points), 2)
    return f"{'★' * full}{'½' * half}{'☆' * (5 - full - half)} {points:.1f} of 5"


def interval(summary: Summary | None, write: Callable[[float], str]) -> str:
    """A bootstrap interval; a single repeat has none."""
    if summary is None or summary.n < 2:
        return NONE
    low, high = write(summary.low), write(summary.high)
    return low if low == high else f"{low} to {high}"


def with_interval(summary: Summary | None, write: Callable[[float | None], str]) -> str:
    """A median and its interval, if it has one."""
    if summary is None:
        return NONE
    return write(summary.median) + (f" ({interval(summary, write)})" if summary.n > 1 else "")


def span(values: Sequence[float], write: Callable[[float], str]) -> str:
    """The range of some values: 76-352, as the post writes it."""
    if not values:
        return NONE
    low, high = write(min(values)), write(max(values))
    return low if low == high else f"{low}–{high}"


def of(part: int, whole: int) -> str:
    return f"{part} of {whole}"


def join(names: Sequence[str]) -> str:
    """a, b and c."""
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)

"""What the servers' processes took."""

from __future__ import annotations

from collections.abc import Iterator

from stride.bench import charts
from stride.bench import figures as fig
from stride.bench.blocks import Block, Figure, Listing, Table, Text, plain
from stride.bench.charts import Mark
from stride.bench.memory import Memory
from stride.bench.results import Results, TargetResult

MIB = float(1 << 20)


def memory(results: Results) -> Iterator[Block]:
    yield from _figures([(target, target.memory) for target in results.targets if target.memory is not None])
    for target in results.targets:
        if not target.url:
            continue
        seen = target.memory
        if seen is None:
            yield Text(f"**{plain(target.label)}:** the server’s memory is not measurable from here.")
            continue
        rows = [
            ("Model on disk", fig.size(target.size_bytes)),
            ("Resident when ready (RSS)", fig.size(seen.ready_rss)),
            ("Resident during inference (peak RSS)", fig.size(seen.peak_rss)),
            ("Shared pages counted in part (PSS, read after each run)", fig.size(seen.peak_pss)),
            ("Private pages only (USS, read after each run)", fig.size(seen.peak_uss)),
            ("KV cache", fig.size(target.kv_bytes) if target.kv_bytes is not None else "not reported by the server"),
            ("**Total footprint**", f"**{fig.size(seen.footprint)}**"),
        ]
        yield Table(f"Memory: {plain(target.label)}", ("", "Size"), rows)
        yield Listing(f"What ps shows at the peak: {plain(target.label)}", seen.ps, open=True)


def _figures(seen: list[tuple[TargetResult, Memory]]) -> Iterator[Block]:
    if not seen:
        return
    parts = [Mark(part, target.label, size / MIB) for target, memory in seen for part, size in _parts(target, memory)]
    peaks = [Mark("peak", target.label, memory.peak_rss / MIB) for target, memory in seen]
    words = "; ".join(
        f"{target.label}: {', '.join(f'{part} {fig.size(size)}' for part, size in _parts(target, memory))}, "
        f"peak of resident memory {fig.size(memory.peak_rss)}"
        for target, memory in seen
    )
    yield Figure(
        "memory-parts",
        charts.stacks(parts, peaks, "MiB"),
        f"Parts of the memory. {words}.",
        "What the memory is made of; the line across is the peak of resident memory. The rest is the footprint less "
        "the model's file and the KV cache, and holds the cache where the server does not report it. A bar beyond its "
        "line is of memory that was set aside and not touched yet.",
    )
    series = [
        Mark(target.label, round(at, 2), resident / MIB) for target, memory in seen for at, resident in memory.series
    ]
    highest = "; ".join(f"{target.label}: {fig.size(memory.peak_rss)}" for target, memory in seen)
    yield Figure(
        "memory",
        charts.over_time(series, "resident memory, MiB"),
        f"Resident memory over time. Peaks: {highest}.",
        "Resident memory while measuring.",
    )


def _parts(target: TargetResult, memory: Memory) -> list[tuple[str, int]]:
    """Named parts of the footprint, and what is left of it."""
    file, cache = target.size_bytes or 0, target.kv_bytes or 0
    parts = [("model's file", file), ("KV cache", cache), ("rest", max(0, memory.footprint - file - cache))]
    return [(name, size) for name, size in parts if size or name == "rest"]

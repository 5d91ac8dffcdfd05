"""Before downloading anything: what a model needs, whether it fits here, and how fast it will be.

MODEL is a repository on Hugging Face (org/name: each of its quantisations; org/name:QUANTISATION: one), a GGUF file, or
a folder that holds one. Of a repository only the heads of its files are fetched, some MiB each; how much is told.

What the machine can do is measured, in about two seconds: reading memory, multiplying integers, reading the disk that
the model would lie on, past the system's cache.

A generated token reads all weights that it uses, and its keys and values: from memory or, for experts that do not fit,
from disk, whichever takes longer. A prompt (2,048 tokens) multiplies, or reads each expert once a chunk. Experts are
found in memory as often as a trace of this model showed here (stride experts), else as if all were equally likely.

"Best" is the largest file that generates 5 tokens per second or more, else the fastest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from stride.cli import options

if TYPE_CHECKING:
    from rich.console import Console

    from stride.estimate import Estimate, Needs
    from stride.heads import Head, Heads
    from stride.memory import Memory, Wishes
    from stride.ops.api import Backend, KVType
    from stride.ops.machine import Machine

READING_SPEED = 5.0
"""Tokens per second that people read without waiting."""


def command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="org/name, org/name:QUANTISATION, a GGUF file, or its folder.")
    ],
    context: options.Context = None,
    parallel: Annotated[
        int, typer.Option("--parallel", metavar="N", help="Sequences that generate side by side.", min=1)
    ] = 1,
    budget: options.Memory = None,
    cache_type: options.CacheType = "f16",
    revision: Annotated[str, typer.Option("--revision", metavar="REV", help="Branch, tag or commit.")] = "main",
    as_json: Annotated[bool, typer.Option("--json", help="Print the same as JSON.")] = False,
) -> None:
    from stride import memory, ops
    from stride.errors import RequestError, StrideError
    from stride.heads import open_heads
    from stride.ops import machine

    if cache_type not in ("f32", "f16", "q8_0"):
        raise RequestError(f"--cache-type is {cache_type!r}, but must be f32, f16 or q8_0", field="cache_type")
    available = memory.within(memory.machine_memory(), None if budget is None else memory.parse_size(budget))
    wishes = memory.Wishes(context, parallel, cast("KVType", cache_type))
    with open_heads(model, revision) as heads:
        measured = machine.measure(heads.disk)
        backend = ops.load()
        rows = [_row(head, backend, wishes, available, measured) for head in heads.models]
        if len(rows) == 1 and rows[0]["problem"]:
            raise StrideError(rows[0]["problem"])
        _mark_best(rows)
        facts = _facts(heads, available, measured, rows)
    if as_json:
        import json

        print(json.dumps(facts, indent=2))
    else:
        from rich.console import Console

        _show(facts, Console(highlight=False))


# --- facts ------------------------------------------------------------------------------------


def _facts(heads: Heads, available: Memory, measured: Machine, rows: list[dict[str, Any]]) -> dict[str, Any]:
    from dataclasses import asdict

    from stride.estimate import ERROR

    return {
        "source": heads.source,
        "fetched_bytes": heads.n_fetched,
        "machine": {"memory_available": available.available, "memory_total": available.total, **asdict(measured)},
        "estimates_within": ERROR,
        "models": rows,
    }


def _row(head: Head, backend: Backend, wishes: Wishes, available: Memory, measured: Machine) -> dict[str, Any]:
    """One model as plain data."""
    from stride import estimate
    from stride.errors import StrideError
    from stride.experts import saved
    from stride.models.config import read_config

    row: dict[str, Any] = {"name": head.name, "file_bytes": head.n_bytes, "problem": head.problem, "best": False}
    if head.file is None:
        return row
    try:
        config = read_config(head.file)
    except StrideError as error:
        return {**row, "problem": str(error)}
    needs = estimate.read_needs(head.file, config, backend)
    known = None if config.experts is None else saved.load(config.experts)
    return {**row, **_expected(needs, estimate.make(needs, wishes, available, measured, known))}


def _expected(needs: Needs, made: Estimate) -> dict[str, Any]:
    plan = made.plan
    if plan is None:
        return {"mode": made.mode, "reason": made.reason, "weights": needs.weights}
    assert made.generation is not None
    assert made.generation_full is not None
    return {
        "mode": made.mode,
        "weights": needs.weights,
        "context": plan.n_ctx,
        "parallel": plan.n_parallel,
        "cache_type": plan.kv_type,
        "cache": plan.cache,
        "working": plan.packing + plan.working,
        "experts_in_memory": plan.streamed,
        "needed": plan.needed,
        "hit_rate": round(made.hit_rate, 4),
        "hit_rate_from_trace": made.is_hit_rate_known,
        "prompt_tokens": made.prompt_tokens,
        "prompt_per_second": None if made.prompt is None else round(made.prompt, 2),
        "generation_per_second": round(made.generation, 2),
        "generation_per_second_full_context": round(made.generation_full, 2),
        "limited_by": made.limit,
    }


def _mark_best(rows: list[dict[str, Any]]) -> None:
    able = [row for row in rows if row.get("generation_per_second")]
    fluent = [row for row in able if row["generation_per_second"] >= READING_SPEED]
    if fluent:
        max(fluent, key=lambda row: row["file_bytes"])["best"] = True
    elif able:
        max(able, key=lambda row: row["generation_per_second"])["best"] = True


# --- presentation -----------------------------------------------------------------------------


def _show(facts: dict[str, Any], console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    from stride.hub.variants import gib
    from stride.memory import size

    machine, rows = facts["machine"], facts["models"]
    fetched = f"; {gib(facts['fetched_bytes'])} fetched to look at it" if facts["fetched_bytes"] else ""
    console.print(f"[bold]{escape(facts['source'])}[/bold]{fetched}", soft_wrap=True)
    products = "unknown" if machine["products"] is None else f"{machine['products'] / 1e12:.2f} T int8 products/s"
    cached = "" if machine["disk_is_direct"] else " (perhaps its cache)"
    console.print(
        f"here: {size(machine['memory_available'])} of memory free, read at {machine['bandwidth'] / 1e9:.0f} GB/s; "
        f"{products}; disk {machine['disk'] / 1e9:.2f} GB/s{cached}\n",
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("", overflow="fold")
    for column in ("size", "needs", "fits", "context", "prompt\ntok/s", "answer\ntok/s", "at full\ncontext", ""):
        table.add_column(column, justify="left" if column in ("fits", "") else "right", no_wrap=True)
    for row in rows:
        table.add_row(
            f"[bold]{escape(row['name'])}[/bold]" if row["best"] else escape(row["name"]),
            size(row["file_bytes"]),
            *_cells(row),
            "[bold]best[/bold]" if row["best"] else "",
        )
    console.print(table)
    for text in _remarks(facts):
        console.print(escape(text), soft_wrap=True)


def _cells(row: dict[str, Any]) -> list[str]:
    """From what is needed to generation at full context."""
    from stride.memory import size

    if row["problem"]:
        return ["", "cannot run", "", "", "", ""]
    if row["mode"] == "too large":
        return ["", "no", "", "", "", ""]
    fits = f"streamed, {row['hit_rate']:.0%}" if row["mode"] == "streamed" else "resident"
    prompt = row["prompt_per_second"]
    rates = [row["generation_per_second"], row["generation_per_second_full_context"]]
    return [
        size(row["needed"]),
        fits,
        f"{row['context']:,}" + (f" × {row['parallel']}" if row["parallel"] > 1 else ""),
        "?" if prompt is None else f"{prompt:.3g}",
        *(f"{rate:.3g}" for rate in rates),
    ]


def _remarks(facts: dict[str, Any]) -> list[str]:
    """What is to be known of the figures, and of models that have none."""
    rows, found = facts["models"], [""]
    streamed = [row for row in rows if row.get("mode") == "streamed"]
    if streamed:
        if any(row["hit_rate_from_trace"] for row in streamed):
            why = "as a trace of this model showed here (`stride experts`)."
        else:
            why = "if all are equally likely; `stride experts` finds out how it really is."
        found.append(f"Streamed: that share of a token's experts is found in memory, {why}")
    if any(row.get("mode") == "resident" for row in rows):
        found.append(f"Resident: within {facts['estimates_within']:.0%} where it was compared (docs/performance.md).")
    for row in rows:
        why = row["problem"] or row.get("reason", "")
        if why:
            found.append(f"{row['name']}: {why}")
    return found

"""What is in a model file, what it needs, whether it fits here, and how fast it can be at most.

Only the head of the file is read, so its size does not matter; measuring memory takes half a second.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from stride.cli import options

if TYPE_CHECKING:
    from rich.console import Console

    from stride.gguf import GGUFFile, Tensor
    from stride.ops.api import KVType

GIB = 2**30


def command(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="GGUF file, any part of a split one, its folder, or a pulled repository. Default: the demo model.",
        ),
    ] = None,
    context: options.Context = None,
    cache_type: options.CacheType = "f16",
    all_metadata: Annotated[bool, typer.Option("--metadata", help="Show all metadata, arrays in full.")] = False,
    all_tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Read everything and look for NaN and infinity.")] = False,
    probe: Annotated[bool, typer.Option("--probe/--no-probe", help="Measure this machine's memory bandwidth.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the same as JSON.")] = False,
) -> None:
    from stride.errors import RequestError
    from stride.gguf import open_gguf
    from stride.load import model_path

    if cache_type not in ("f32", "f16", "q8_0"):
        raise RequestError(f"--cache-type is {cache_type!r}, but must be f32, f16 or q8_0", field="cache_type")
    with open_gguf(model_path(model)) as file:
        facts: dict[str, Any] = {**_contents(file, all_tensors), "metadata": _metadata(file, all_metadata)}
        facts |= _needs(file, context, cast("KVType", cache_type))
        if probe and facts["memory"]:
            facts["speed"] = _speed(facts["memory"])
        if check:
            facts["check"] = _check(file)
    if as_json:
        import json

        print(json.dumps(facts, indent=2))
    else:
        from rich.console import Console

        _show(facts, Console(highlight=False))


# --- facts ------------------------------------------------------------------------------------


def _contents(file: GGUFFile, all_tensors: bool) -> dict[str, Any]:
    from stride.gguf import census

    tensors = file.tensors.values()
    roles = census.roles(file)

    def group(group: census.Group) -> dict[str, Any]:
        return {
            "label": group.label,
            "tensors": group.n_tensors,
            "weights": group.n_values,
            "bytes": group.n_bytes,
            "bits_per_weight": round(group.bits_per_weight, 3),
        }

    return {
        "files": [str(path) for path in file.paths],
        "file_bytes": file.n_bytes,
        "total": group(census.total(tensors)),
        "types": [group(part) for part in census.grouped(tensors, lambda tensor: tensor.type.label)],
        "roles": [group(part) for part in census.grouped(tensors, lambda tensor: roles[tensor.name])],
        **({"tensors": [_tensor(tensor, len(file.paths) > 1) for tensor in tensors]} if all_tensors else {}),
    }


def _tensor(tensor: Tensor, is_split: bool) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "type": tensor.type.label,
        "bytes": tensor.n_bytes,
        "offset": tensor.offset,
        **({"file": tensor.path.name} if is_split else {}),
    }


def _metadata(file: GGUFFile, in_full: bool) -> dict[str, Any]:
    """Every pair; arrays and texts that are long are cut, unless all is wanted."""
    short = 8

    def plain(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return str(value)  # JSON has no such numbers
        items = value if isinstance(value, str | list) else value.tolist() if hasattr(value, "tolist") else None
        if isinstance(items, str):
            text = items if in_full or len(items) <= 200 else f"{items[:200]}… ({len(items)} characters)"
            return _printable(text)
        if items is None:
            return value
        rest = len(items) - short
        shown = [
            item if isinstance(item, bool | int) else plain(item) for item in (items if in_full else items[:short])
        ]
        return shown if in_full or rest <= 0 else [*shown, f"… {rest} more"]

    return {_printable(key): plain(value) for key, value in file.metadata.items()}


def _printable(value: Any) -> Any:
    """Text as a terminal can show it: what is no Unicode, or would steer the terminal, is escaped."""
    if not isinstance(value, str):
        return value
    text = value.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def _needs(file: GGUFFile, context: int | None, cache_type: KVType) -> dict[str, Any]:
    """Memory for one sequence of ``context`` tokens, or why this model does not run."""
    from stride import memory, ops
    from stride.engine import EngineConfig
    from stride.errors import StrideError
    from stride.gguf import census
    from stride.models.config import read_config

    try:
        config = read_config(file)
    except StrideError as error:
        return {"memory": None, "does_not_run": str(error)}
    n_ctx = context or min(memory.DEFAULT_CONTEXT, config.context_length)
    held = ops.load().held_bytes
    full, window = memory.split_cache(config, n_ctx, cache_type, EngineConfig().chunk)
    available = memory.machine_memory().available
    working = memory.working_bytes(config, 1, EngineConfig().chunk)
    plan = memory.Plan(n_ctx, 1, cache_type, held(*file.tensors.values()), full + window, working, available)
    return {
        "model": {
            "name": _printable(config.name),
            "architecture": config.architecture,
            "layers": len(config.layers),
            "draft_layers": len(config.draft_layers),
            "context_length": config.context_length,
        },
        "memory": {
            "context": n_ctx,
            "cache_type": cache_type,
            "weights": plan.weights,
            "packing": plan.packing,
            "cache_full_layers": full,
            "cache_window_layers": window,
            "working": plan.working,
            "needed": plan.needed,
            "available": available,
            "fits": plan.needed <= available,
            "read_per_token": census.bytes_per_token(file, held),
        },
    }


def _speed(memory: dict[str, Any]) -> dict[str, Any]:
    from stride.ops.bandwidth import read_bandwidth

    bandwidth, threads = read_bandwidth()
    cache = memory["cache_full_layers"] + memory["cache_window_layers"]
    return {
        "bandwidth": round(bandwidth),
        "threads": threads,
        "tokens_per_second_at_most": round(bandwidth / memory["read_per_token"], 2),
        "tokens_per_second_at_most_full_context": round(bandwidth / (memory["read_per_token"] + cache), 2),
    }


def _check(file: GGUFFile) -> dict[str, Any]:
    from rich.console import Console
    from rich.progress import Progress

    from stride.gguf.check import check_values

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("checking values")
        unchecked = check_values(file, lambda done, total: bar.update(task, completed=done, total=total))
    return {"finite": True, "types_not_checked": unchecked}


# --- presentation -----------------------------------------------------------------------------


def _size(n_bytes: int) -> str:
    for unit, size in (("GiB", GIB), ("MiB", 2**20), ("KiB", 2**10)):
        if n_bytes >= size:
            return f"{n_bytes / size:.2f} {unit}"
    return f"{n_bytes} B"


def _count(number: int) -> str:
    for unit, size in ((" B", 10**9), (" M", 10**6), (" K", 10**3)):
        if number >= size:
            return f"{number / size:.2f}{unit}"
    return str(number)


def _text(value: Any) -> str:
    """A value of the metadata; numbers to single precision, which is what files hold."""
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def _show(facts: dict[str, Any], console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    def table(title: str, *columns: str) -> Table:
        made = Table(
            title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim"
        )
        for index, column in enumerate(columns):
            made.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
        return made

    total, model = facts["total"], facts.get("model", {})
    for path in facts["files"]:
        console.print(escape(path), style="bold", soft_wrap=True)
    console.print(
        f"{total['tensors']} tensors, {_count(total['weights'])} weights, {_size(facts['file_bytes'])}, "
        f"{total['bits_per_weight']:.2f} bits per weight"
    )
    if model:
        drafts = f" and {model['draft_layers']} draft layers" if model["draft_layers"] else ""
        console.print(
            f"{escape(model['name'])}: {model['architecture']}, {model['layers']} layers{drafts}, "
            f"context up to {model['context_length']:,} tokens"
        )
    console.print()

    pairs = Table(
        title="Metadata", title_justify="left", title_style="bold", box=None, pad_edge=False, show_header=False
    )
    pairs.add_column(no_wrap=True, style="dim")
    pairs.add_column(overflow="fold")
    for key, value in facts["metadata"].items():
        shown = ", ".join(map(_text, value)) if isinstance(value, list) else _text(value)
        pairs.add_row(escape(key), escape(shown.replace("\n", "⏎")))
    console.print(pairs)
    console.print()

    for title, groups in (("Tensors by type", facts["types"]), ("Tensors by role", facts["roles"])):
        shares = table(title, "", "tensors", "weights", "size", "share", "bits/weight")
        for group in groups:
            shares.add_row(
                group["label"],
                str(group["tensors"]),
                _count(group["weights"]),
                _size(group["bytes"]),
                f"{group['bytes'] / max(1, total['bytes']):.1%}",
                f"{group['bits_per_weight']:.2f}",
            )
        console.print(shares)
        console.print()
    if "tensors" in facts:
        rows = table("Tensors", "name", "shape", "type", "size", "offset")
        for tensor in facts["tensors"]:
            shape = " × ".join(str(size) for size in tensor["shape"])
            rows.add_row(escape(tensor["name"]), shape, tensor["type"], _size(tensor["bytes"]), f"{tensor['offset']:,}")
        console.print(rows)
        console.print()
    if facts["memory"] is None:
        console.print(
            f"Stride does not run this model: {escape(facts['does_not_run'])}", style="yellow", soft_wrap=True
        )
    else:
        _show_needs(facts["memory"], facts.get("speed"), console)
    if "check" in facts:
        skipped = facts["check"]["types_not_checked"]
        note = f"; not checked: {', '.join(skipped)}" if skipped else ""
        console.print(f"\nAll weights and scales are finite numbers{note}.")


def _show_needs(memory: dict[str, Any], speed: dict[str, Any] | None, console: Console) -> None:
    from rich.table import Table

    rows = Table(box=None, pad_edge=False, show_header=False, title_justify="left", title_style="bold")
    rows.title = f"Memory for one sequence of {memory['context']:,} tokens"
    rows.add_column()
    rows.add_column(justify="right")
    rows.add_row("weights", _size(memory["weights"]))
    rows.add_row("packing of weights, at most", _size(memory["packing"]))
    rows.add_row(f"keys and values ({memory['cache_type']}), full layers", _size(memory["cache_full_layers"]))
    rows.add_row(f"keys and values ({memory['cache_type']}), window layers", _size(memory["cache_window_layers"]))
    rows.add_row("working memory, at most", _size(memory["working"]))
    rows.add_row("needed", _size(memory["needed"]), style="bold")
    rows.add_row("available here", _size(memory["available"]))
    console.print(rows)
    if memory["fits"]:
        console.print("It fits here.", style="green")
    else:
        console.print(
            f"It does not fit here: {_size(memory['needed'] - memory['available'])} are missing.", style="red"
        )
    console.print(f"\nEach generated token reads {_size(memory['read_per_token'])} of weights.")
    if speed is not None:
        console.print(
            f"Memory is read at {speed['bandwidth'] / 1e9:.1f} GB/s here, just measured ({speed['threads']} threads).\n"
            f"Expected at most {speed['tokens_per_second_at_most']:.1f} tokens per second, "
            f"{speed['tokens_per_second_at_most_full_context']:.1f} with the context full:\n"
            "a limit of memory alone, for one sequence without drafting, not a measurement."
        )

"""How a model routes, and which cache of its experts finds most: what streaming them from disk has to gain.

A model with many experts uses few of them for each token. Where not all fit in memory, some are kept, and which ones is
a policy: those used last (lru), those used most (lfu, where old uses fade), or what proves itself in a first queue
(s3-fifo); over all layers together (global) or with an equal share of slots for each (per layer).

Without --trace the model is run on prompts (your own with -p: the more they are like your use, the better) and what its
routers choose is recorded. The trace is then played through every policy with several amounts of memory. Counted is
generation, once the cache has filled. "bound" is Bélády's: what a cache would find that knows the future.

The result is kept for this model and machine: from then on the best policy is used where experts are streamed, and
stride plan counts with what it finds. All quantisations of a model share it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stride.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from stride.experts.policy import PolicyChoice
    from stride.experts.replay import Outcome
    from stride.experts.routing import Routing
    from stride.experts.saved import Saved
    from stride.experts.trace import Trace
    from stride.models.config import ModelConfig

SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
"""Of all routed experts: the amounts of memory that are tried."""


def command(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help=options.MODEL_HELP)] = None,
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="A trace recorded earlier; the model is not run.")
    ] = None,
    prompts: Annotated[
        list[str] | None, typer.Option("-p", "--prompt", metavar="TEXT", help="What to ask it; may be repeated.")
    ] = None,
    n_predict: Annotated[
        int, typer.Option("-n", "--n-predict", metavar="N", help="Tokens of each answer at most.", min=1)
    ] = 128,
    context: options.Context = None,
    threads: options.Threads = None,
    backend: options.BackendName = "auto",
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="For the trace, and the chart as SVG and PNG.")
    ] = Path("stride-experts"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the same as JSON.")] = False,
) -> None:
    from stride import ops
    from stride.bench.machine import cpu_name
    from stride.errors import RequestError, StrideError, UnsupportedError
    from stride.experts import saved
    from stride.experts.replay import GENERATION_TOKENS
    from stride.experts.routing import describe
    from stride.experts.trace import read_trace
    from stride.gguf import census, open_gguf
    from stride.load import model_path
    from stride.models.config import read_config

    if trace is not None and prompts:
        raise RequestError("--trace and -p exclude each other: the model is not run where there is a trace")
    with open_gguf(model_path(model)) as file:
        config = read_config(file)
        work = census.work(file, ops.load(backend, threads).held_bytes)
    shape = config.experts
    if shape is None:
        raise UnsupportedError(f"{config.name} has no routed experts: there is nothing to cache")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StrideError(f"{out} cannot be made: {error.strerror}") from error
    if trace is None:
        trace = out / "routing.trace"
        loading = {"backend": backend, "threads": threads, "n_ctx": context}
        _record(model, prompts, n_predict, trace, loading)
    recorded = read_trace(trace)
    theirs = recorded.shape
    if (theirs.n_layers, theirs.n_experts, theirs.top_k) != (shape.n_layers, shape.n_experts, shape.top_k):
        raise RequestError(
            f"{trace} is of {theirs.name}, {theirs.top_k} of {theirs.n_experts} experts in {theirs.n_layers} layers; "
            f"{config.name} uses {shape.top_k} of {shape.n_experts} in {shape.n_layers}",
            field="trace",
        )
    slots = _slots(config)
    hit_rates, bound = _replay(recorded, slots)
    found = saved.Saved(
        shape,
        cpu_name(),
        bound[0].uses,
        tuple(slots),
        {choice: tuple(one.hit_rate for one in outcomes) for choice, outcomes in hit_rates.items()},
        tuple(one.hit_rate for one in bound),
    )
    kept = saved.save(found)
    chart = _draw(found, work.largest_expert, out)
    facts = _facts(found, hit_rates, describe(recorded, GENERATION_TOKENS), work.largest_expert)
    facts |= {"trace": str(trace), "chart": str(chart), "saved": str(kept)}
    if as_json:
        import json

        print(json.dumps(facts, indent=2))
    else:
        from rich.console import Console

        _show(facts, Console(highlight=False))


# --- what is done -----------------------------------------------------------------------------


def _record(
    model: str | None, prompts: Sequence[str] | None, n_predict: int, path: Path, loading: dict[str, Any]
) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from stride.bench.routing import PROMPTS, record

    console = Console(stderr=True)
    with (
        options.load(model, **loading) as llm,
        Progress(console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task("recording")
        record(llm, prompts or PROMPTS, n_predict, path, lambda n, total: bar.update(task, completed=n, total=total))


def _slots(config: ModelConfig) -> list[int]:
    """What is tried: enough for each layer's experts of one token at least."""
    shape = config.experts
    assert shape is not None
    least = shape.n_layers * shape.top_k
    return sorted({max(least, round(share * shape.n_keys)) for share in SHARES})


def _replay(trace: Trace, slots: Sequence[int]) -> tuple[dict[PolicyChoice, list[Outcome]], list[Outcome]]:
    from rich.console import Console
    from rich.progress import Progress

    from stride.experts.policy import CHOICES
    from stride.experts.replay import curves

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("replaying")
        return curves(trace, CHOICES, slots, lambda n, total: bar.update(task, completed=n, total=total))


def _draw(found: Saved, expert_bytes: int, out: Path) -> Path:
    """The chart, as SVG and PNG; gives the SVG."""
    from stride.bench import charts

    unit, n_bytes = _unit(found.slots[-1] * expert_bytes)
    panels: dict[str, list[charts.Mark]] = {}
    for per_layer, scope in ((False, "global"), (True, "per layer")):
        series: dict[str, tuple[float, ...]] = {
            choice.kind: rates for choice, rates in found.hit_rates.items() if choice.per_layer is per_layer
        }
        series["bound (Bélády)"] = found.bound
        panels[f"share found, {scope}"] = [
            charts.Mark(name, n * expert_bytes / n_bytes, rate)
            for name, rates in series.items()
            for n, rate in zip(found.slots, rates, strict=True)
        ]
    svg = charts.lines(panels, f"{unit} of memory for experts")
    path = out / "hit-rate.svg"
    path.write_text(charts.standalone(svg), encoding="utf-8")
    path.with_suffix(".png").write_bytes(charts.png(svg))
    return path


# --- facts ------------------------------------------------------------------------------------


def _facts(
    found: Saved, outcomes: dict[PolicyChoice, list[Outcome]], routing: Routing, expert_bytes: int
) -> dict[str, Any]:
    from dataclasses import asdict

    from stride.experts.routing import BUSIEST

    return {
        "model": asdict(found.shape),
        "machine": found.machine,
        "expert_bytes": expert_bytes,
        "routing": {**asdict(routing), "busiest": dict(zip(map(str, BUSIEST), routing.busiest, strict=True))},
        "uses_counted": found.n_uses,
        "slots": list(found.slots),
        "budget_bytes": [n * expert_bytes for n in found.slots],
        "policies": [
            {
                **asdict(choice),
                "hit_rates": [round(one.hit_rate, 4) for one in by_slots],
                "microseconds_per_layer": round(
                    1e6 * found.shape.top_k * max(one.seconds_per_use for one in by_slots), 1
                ),
            }
            for choice, by_slots in outcomes.items()
        ],
        "bound": [round(rate, 4) for rate in found.bound],
        "best": [str(found.best(n)) for n in found.slots],
    }


def _unit(largest: int) -> tuple[str, int]:
    """What amounts of memory up to this one are told in: its name and its bytes."""
    return ("GiB", 2**30) if largest >= 2**32 else ("MiB", 2**20)


# --- presentation -----------------------------------------------------------------------------


def _show(facts: dict[str, Any], console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    from stride.hub.variants import gib

    model, routing = facts["model"], facts["routing"]
    console.print(f"[bold]{escape(model['name'])}[/bold]: {model['n_layers']} layers of {model['n_experts']} experts, "
                  f"{model['top_k']} for each token; {gib(facts['expert_bytes'])} each")  # fmt: skip
    console.print(f"{routing['n_tokens']} tokens on record, {routing['n_generated']} of them generated", soft_wrap=True)
    busiest = ", ".join(f"{float(share):.0%} do {part:.0%}" for share, part in routing["busiest"].items())
    console.print(f"of each layer's experts, the busiest {busiest} of the work; {routing['unused']:.0%} do none")
    if routing["overlap"] is not None:
        console.print(
            f"{routing['overlap']:.0%} of a token's experts were the last token's too "
            f"({routing['overlap_by_chance']:.0%} if all were equally likely)\n"
        )
    table = Table(title="Share of experts found in memory", title_justify="left", title_style="bold", box=None,
                  pad_edge=False, header_style="dim")  # fmt: skip
    unit, n_bytes = _unit(facts["budget_bytes"][-1])
    table.add_column(f"{unit} for experts\nof all of them", no_wrap=True)
    n_keys = model["n_layers"] * model["n_experts"]
    for n, budget in zip(facts["slots"], facts["budget_bytes"], strict=True):
        table.add_column(f"{budget / n_bytes:.1f}\n{n / n_keys:.0%}", justify="right", no_wrap=True)
    for policy in facts["policies"]:
        name = f"{policy['kind']}, {'per layer' if policy['per_layer'] else 'global'}"
        cells = [
            f"[bold]{rate:.1%}[/bold]" if best == name else f"{rate:.1%}"
            for rate, best in zip(policy["hit_rates"], facts["best"], strict=True)
        ]
        table.add_row(name, *cells)
    table.add_row("bound (Bélády)", *(f"{rate:.1%}" for rate in facts["bound"]), style="dim")
    console.print(table)
    costs = [policy["microseconds_per_layer"] for policy in facts["policies"]]
    console.print(f"\nA policy takes {min(costs):.0f} to {max(costs):.0f} µs for each layer of a token.")
    console.print("From now on this machine streams this model's experts with the policies in bold.", soft_wrap=True)
    for name in ("trace", "chart", "saved"):
        console.print(f"{name}: {escape(facts[name])}", soft_wrap=True)

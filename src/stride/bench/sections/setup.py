"""What was measured, on what, and how."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from stride.bench import figures as fig
from stride.bench import findings
from stride.bench.blocks import Block, Bullets, Table, Text, code, plain
from stride.bench.results import Results, TargetResult
from stride.bench.suite.kinds import KINDS

Machine: TypeAlias = Mapping[str, Any]

PROPS = {
    "build_info": "Server's build",
    "backend": "Backend",
    "n_ctx": "Context, tokens",
    "kv_type": "KV cache as",
    "total_slots": "Places for requests",
}
"""What a server may tell at /props, and its name in the report."""


def summary(results: Results) -> Iterator[Block]:
    yield Bullets([findings.headline(target, results) for target in results.targets])
    for target in results.targets:
        said = findings.stand_in(target)
        if said:
            yield Text(
                f"**{plain(target.label)} is a stand-in: its answers say nothing of other models, its speed "
                f"and memory are its own.** Its file says: {plain(said)}"
            )
    if results.interrupted:
        yield Text("**The measurement was interrupted; this report is partial.**")


def setup(results: Results, machine: Machine, command: Sequence[str]) -> Iterator[Block]:
    cores = f"{machine['cores_physical'] or fig.NONE} physical, {machine['cores_logical']} logical"
    rows = [
        ("Processor", plain(machine["cpu"])),
        ("Cores", f"{cores}, {machine['cores_usable']} usable here"),
        ("Instruction sets", plain(", ".join(machine["instruction_sets"]) or "not reported")),
        ("Memory", f"{fig.size(machine['memory_bytes'])}, {fig.size(machine['memory_available_bytes'])} available"),
        ("Power", machine["power"] or "no battery"),
        ("System", plain(machine["system"])),
        ("Python, Stride", f"{machine['python']}, {machine['stride']}"),
        ("Load average before", f"{machine['load_average'][0]:.2f}"),
        ("Date", machine["date"]),
    ]
    yield Table("Test machine", ("", "Value"), rows)
    yield Table("The plan", ("", "Value"), list(_plan_rows(results, command)))
    for target in results.targets:
        if target.url:
            yield Table(f"Model and server: {plain(target.label)}", ("", "Value"), list(_target_rows(target)))


def _plan_rows(results: Results, command: Sequence[str]) -> Iterator[tuple[str, str]]:
    plan = results.plan
    yield "Level", plain(plan.level)
    yield "Tests", plain("; ".join(task.title for task in plan.tasks))
    more = f", up to {plan.most_repeats} where speeds vary" if plan.most_repeats > plan.repeats else ""
    yield "Repeats", f"{plan.repeats} of each test{more}"
    yield "Seeds", f"{_seeds(plan.most_repeats)}, the number of the repeat"
    if plan.suite_seeds:
        yield "Tool suite", f"{len(KINDS)} kinds, {_seeds(plan.suite_seeds)}"
    yield "Time", "no limit" if plan.seconds is None else f"no repeat that would end after {fig.seconds(plan.seconds)}"
    if len(results.targets) > 1:
        yield "Order", "repeat by repeat, in turns" if results.interleaved else "one target after another"
    yield "Command", code(shlex.join(command))


def _seeds(last: int) -> str:
    return "seed 1" if last == 1 else f"seeds 1 to {last}"


def _target_rows(target: TargetResult) -> Iterator[tuple[str, str]]:
    meta, props = target.listed.get("meta") or {}, target.props
    if target.file is not None:
        yield "File says", plain(": ".join(filter(None, (target.file.name, target.file.description))) or fig.NONE)
        yield "Files", fig.count(len(target.file.paths))
        yield "Fingerprint", f"{code(target.file.fingerprint[:16])} (SHA-256 of each part's size and first MiB)"
    yield "Size", fig.size(target.size_bytes)
    if meta.get("n_params"):
        yield "Parameters", fig.parameters(meta["n_params"])
    yield "Address", code(target.url)
    yield "Model's id", code(target.model) if target.model else fig.NONE
    if target.engine:
        yield "Server", plain(target.engine)
        yield "Its own times come from", plain(target.timed)
    yield from ((title, plain(props[key])) for key, title in PROPS.items() if props.get(key))
    if target.template_hash:
        yield "Chat template", f"{code(target.template_hash[:16])} (SHA-256)"
    if target.command:
        yield "Started as", code(shlex.join(target.typed))
        yield "Time to ready", fig.seconds(target.ready_seconds)

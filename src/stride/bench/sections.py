"""The report's sections, in the order of the post. Every figure comes from the results."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from stride.bench import charts, findings, post
from stride.bench import figures as fig
from stride.bench.blocks import Block, Bullets, Figure, Folded, Listing, Section, Table, Text, code, plain
from stride.bench.results import Results, Run, TargetResult
from stride.bench.statistics import CONFIDENCE, Summary, ratio
from stride.bench.tasks import SPEED, TOOL_CALLS, Task

Machine = Mapping[str, Any]


def sections(results: Results, machine: Machine, command: Sequence[str]) -> list[Section]:
    """The whole report."""
    return [
        Section("TL;DR", list(_summary(results))),
        Section("Hardware and setup", list(_setup(results, machine, command))),
        Section("Benchmark results", [Text(_METHOD), *_rate_figures(results)]),
        *(_test(number, task, results) for number, task in enumerate(results.tasks, 1)),
        Section("Comparison", list(_comparison(results))),
        Section("Memory usage", list(_memory(results))),
        Section("What works well", [_bullets(findings.works(results), "Nothing that the data could show.")]),
        Section("Limitations", [_bullets(findings.limitations(results, machine), "None that the data shows.")]),
        Section("Verdict", [_bullets(findings.verdict(results), "No generation speed was measured.")]),
        Section("Quick reference", list(_quick_reference(results, command))),
    ]


_METHOD = (
    "The client's clock is read when bytes arrive. Generation speed is (n − 1) tokens over the time from the first "
    "token's arrival to the last, with n from the server's usage, never from chunks. Prompt speed is the server's own "
    "where it sends one; the client's estimate divides by the time to the first token, which holds more than the "
    "prompt. Each request begins with a system message that holds a number used once, and asks for no prompt cache: "
    "prompts are cold, and a little longer than the post's. A warm-up is discarded. Intervals are bootstrap intervals "
    f"of the median at {CONFIDENCE:.0%}."
)


_PROPS = {
    "build_info": "Server's build",
    "backend": "Backend",
    "n_ctx": "Context, tokens",
    "kv_type": "KV cache as",
    "total_slots": "Places for requests",
}
"""What a server may tell at /props, and its name in the report."""


def _bullets(items: Iterator[str], otherwise: str) -> Block:
    found = list(items)
    return Bullets(found) if found else Text(otherwise)


def _summary(results: Results) -> Iterator[Block]:
    yield Bullets([findings.headline(target, results) for target in results.targets])
    for target in results.targets:
        said = findings.stand_in(target)
        if said:
            yield Text(
                f"**{plain(target.label)} is a stand-in: its answers mean nothing, its speed and memory are real.** "
                f"Its file says: {plain(said)}"
            )
    if results.interrupted:
        yield Text("**The measurement was interrupted; this report is partial.**")


def _setup(results: Results, machine: Machine, command: Sequence[str]) -> Iterator[Block]:
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
        ("Seeds", f"1 to {results.repeats}, the number of the repeat"),
        ("Command", code(shlex.join(command))),
    ]
    yield Table("Test machine", ("", "Value"), rows)
    for target in results.targets:
        if target.url:
            yield Table(f"Model and server: {plain(target.label)}", ("", "Value"), list(_target_rows(target)))


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
    yield from ((title, plain(props[key])) for key, title in _PROPS.items() if props.get(key))
    if props.get("chat_template"):
        digest = hashlib.sha256(str(props["chat_template"]).encode()).hexdigest()
        yield "Chat template", f"{code(digest[:16])} (SHA-256)"
    if target.command:
        yield "Started as", code(shlex.join(target.command))
        yield "Time to ready", fig.seconds(target.ready_seconds)


def _rate_figures(results: Results) -> Iterator[Block]:
    plans = (
        ("generation", ("decode_rate",), "generation, tok/s at the client", "Generation speed"),
        ("prompt", ("server_prompt_rate", "prompt_rate"), "prompt processing, tok/s", "Prompt processing"),
    )
    for name, wanted, axis, title in plans:
        svg = charts.rates_chart(results, wanted, axis)
        if svg:
            words = "; ".join(
                f"{target.label}, {task.title.lower()}: {fig.rate(found.median)} tok/s"
                for target in results.targets
                for task in results.tasks
                if (found := next(filter(None, (findings.figure(target, task.name, f) for f in wanted)), None))
            )
            yield Figure(name, svg, f"{title}, medians. {words}.", f"{title}: each dot is a run, each bar a median.")


# --- The tests ----------------------------------------------------------------------------------


def _test(number: int, task: Task, results: Results) -> Section:
    blocks: list[Block] = [Text(f"**Prompt:** “{plain(task.prompt)}” At most {task.max_tokens:,} tokens.")]
    for target in results.targets:
        if target.counted(task.name):
            blocks.append(_metrics(task, target))
            blocks += _judgement(task, target)
        failed = [run for run in target.runs if run.task == task.name and run.repeat > 0 and run.fault]
        if failed:
            rows = [(str(run.repeat), plain(run.fault)) for run in failed]
            blocks.append(Table(f"Failed runs: {plain(target.label)}", ("Repeat", "Reason"), rows))
        blocks += _details(task, target)
    return Section(f"{number}. {task.title}", blocks, level=3)


def _metrics(task: Task, target: TargetResult) -> Table:
    def run_row(label: str, name: str, write: Callable[[float | None], str]) -> tuple[str, ...]:
        return _row(label, findings.figure(target, task.name, name), write)

    def time_row(label: str, name: str) -> tuple[str, ...]:
        return _row(label, findings.time_figure(target, task.name, name), fig.seconds)

    rows = [
        run_row("Prompt tokens", "prompt_tokens", fig.count),
        run_row("Prompt processing, server (tok/s)", "server_prompt_rate", fig.rate),
        run_row("Prompt processing, client's estimate (tok/s)", "prompt_rate", fig.rate),
        run_row("Generation tokens", "completion_tokens", fig.count),
        run_row("**Generation speed, client (tok/s)**", "decode_rate", fig.rate),
        run_row("Generation speed, server (tok/s)", "server_decode_rate", fig.rate),
        time_row("First byte", "first_byte"),
        time_row("First token of any kind", "first_token"),
        time_row("First token of the answer", "first_answer"),
        time_row("Total time", "end"),
    ]
    n = len(target.counted(task.name))
    caption = f"{task.title}: {plain(target.label)}, {n} {'run' if n == 1 else 'runs'}"
    return Table(caption, ("Metric", "Median", f"{CONFIDENCE:.0%} interval", "Variation"), rows)


def _row(label: str, found: Summary | None, write: Callable[[float | None], str]) -> tuple[str, ...]:
    if found is None:
        return label, fig.NONE, fig.NONE, fig.NONE
    return label, write(found.median), fig.interval(found, write), fig.percent(found.variation)


def _judgement(task: Task, target: TargetResult) -> Iterator[Block]:
    runs = [run for run in target.counted(task.name) if run.grade]
    if not runs:
        return
    score = findings.coding_score(target) if task is not TOOL_CALLS else findings.tool_score(target)
    yield Text(f"**Judgement, {plain(target.label)}:** {score}.")
    last = runs[-1].grade
    assert last is not None
    rows = []
    for index, check in enumerate(last.checks):
        passed = sum(run.grade.checks[index].passed for run in runs if run.grade)
        rows.append((check.name, f"{passed} of {len(runs)}", plain(check.evidence[:300])))
    yield Table(
        f"{task.title}, what was checked: {plain(target.label)}", ("Check", "Passed", "Evidence, last run"), rows
    )


def _details(task: Task, target: TargetResult) -> Iterator[Block]:
    runs = [run for run in target.runs if run.task == task.name]
    if not runs:
        return
    header = (
        *("Run", "Prompt tokens", "Cached", "Generated", "First token", "Total"),
        *("Client tok/s", "Server tok/s", "Client prompt tok/s", "Server prompt tok/s", "Finish"),
    )
    table = Table(f"{task.title}, every run: {plain(target.label)}", header, [_run_row(run) for run in runs])
    yield Folded(f"Every run: {plain(target.label)}", [table])
    counted = target.counted(task.name)
    if counted:
        yield Folded(f"First counted answer: {plain(target.label)}", list(_answer(counted[0])))


def _run_row(run: Run) -> tuple[str, ...]:
    times = run.reply.times
    return (
        "warm-up" if run.repeat == 0 else str(run.repeat),
        fig.count(run.prompt_tokens),
        fig.count(run.cached_tokens),
        fig.count(run.completion_tokens),
        fig.seconds(times.first_token),
        fig.seconds(times.end),
        fig.rate(run.decode_rate),
        fig.rate(run.server_decode_rate),
        fig.rate(run.prompt_rate),
        fig.rate(run.server_prompt_rate),
        plain(f"failed: {run.fault}" if run.fault else run.reply.answer.finish_reason or fig.NONE),
    )


def _answer(run: Run) -> Iterator[Block]:
    answer = run.reply.answer
    if answer.reasoning:
        yield Listing("Reasoning", answer.reasoning, open=True)
    if answer.content:
        yield Listing("Answer", answer.content, open=True)
    if answer.tool_calls:
        calls = [{"name": call.name, "arguments": call.arguments} for call in answer.tool_calls]
        yield Listing("Tool calls", json.dumps(calls, indent=2, ensure_ascii=False), "json", open=True)


# --- Comparison and memory ----------------------------------------------------------------------


def _comparison(results: Results) -> Iterator[Block]:
    header = ["Model", "Size", "Gen tok/s", "Prompt tok/s", "First token", "Coding", "Tools", "Memory", "Notes"]
    yield Table("Measured here", header, [_comparison_row(target, results) for target in results.targets])
    first, *others = results.targets
    rows = []
    for other in others:
        found = ratio(other.values(SPEED.name, "decode_rate"), first.values(SPEED.name, "decode_rate"))
        if found:
            rows.append((plain(other.label), f"{found.median:.2f}×", fig.interval(found, lambda x: f"{x:.2f}×")))
    if rows:
        caption = f"Generation speed as a multiple of {plain(first.label)}’s"
        yield Table(caption, ("Model", "Ratio", f"{CONFIDENCE:.0%} interval"), rows)
    yield Table(
        f"Published in the post, measured there and not here: {plain(post.MACHINE)}",
        ("Model", "Size", "Gen tok/s", "Prompt tok/s", "Notes"),
        [tuple(map(plain, row)) for row in post.COMPARISON],
    )
    yield Table(
        "The post’s three tests of Step 3.5 Flash IQ4\\_XS, measured there and not here",
        ("Test", "Prompt tokens", "Prompt tok/s", "Generated", "Gen tok/s", "Judged"),
        [tuple(map(plain, row)) for row in post.TESTS],
    )


def _comparison_row(target: TargetResult, results: Results) -> tuple[str, ...]:
    rates, source = findings.prompt_rates(target, results)
    first = findings.time_figure(target, SPEED.name, "first_token")
    return (
        f"**{plain(target.label)}**",
        fig.size(target.size_bytes),
        f"**{fig.rate(findings.generation_rate(target))}**",
        fig.span(rates, fig.rate) + (" (client’s estimate)" if rates and source == "client" else ""),
        fig.seconds(first.median if first else None),
        findings.coding_score(target),
        findings.tool_score(target),
        fig.size(target.memory.footprint if target.memory else None),
        plain(_note(target)),
    )


def _note(target: TargetResult) -> str:
    if target.error is not None:
        return target.error
    notes = []
    if findings.stand_in(target):
        notes.append("stand-in weights, answers mean nothing")
    failed = sum(run.fault is not None for run in target.runs)
    if failed:
        notes.append(f"{failed} of {len(target.runs)} requests failed")
    build = target.props.get("build_info")
    if build:
        notes.append(str(build))
    return "; ".join(notes) or fig.NONE


def _memory(results: Results) -> Iterator[Block]:
    svg = charts.memory_chart(results)
    if svg:
        peaks = "; ".join(f"{t.label}: {fig.size(t.memory.peak_rss)}" for t in results.targets if t.memory)
        yield Figure("memory", svg, f"Resident memory over time. Peaks: {peaks}.", "Resident memory while measuring.")
    for target in results.targets:
        if not target.url:
            continue
        memory = target.memory
        if memory is None:
            yield Text(f"**{plain(target.label)}:** the server’s memory is not measurable from here.")
            continue
        rows = [
            ("Model on disk", fig.size(target.size_bytes)),
            ("Resident when ready (RSS)", fig.size(memory.ready_rss)),
            ("Resident during inference (peak RSS)", fig.size(memory.peak_rss)),
            ("Shared pages counted in part (PSS, read after each run)", fig.size(memory.peak_pss)),
            ("Private pages only (USS, read after each run)", fig.size(memory.peak_uss)),
            ("KV cache", fig.size(target.kv_bytes) if target.kv_bytes is not None else "not reported by the server"),
            ("**Total footprint**", f"**{fig.size(memory.footprint)}**"),
        ]
        yield Table(f"Memory: {plain(target.label)}", ("", "Size"), rows)
        yield Listing(f"What ps shows at the peak: {plain(target.label)}", memory.ps, open=True)


def _quick_reference(results: Results, command: Sequence[str]) -> Iterator[Block]:
    lines = ["# Measure again", shlex.join(command)]
    for target in results.targets:
        if target.command:
            lines += ["", f"# Serve {target.label}", _serve_again(target.command)]
    measured = [target for target in results.targets if target.url]
    if measured:
        url = "http://127.0.0.1:8090" if measured[0].command else measured[0].url
        body = json.dumps({"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 100})
        lines += ["", "# Ask", f"curl {url}/v1/chat/completions \\"]
        lines += ['  -H "Content-Type: application/json" \\', f"  -d {shlex.quote(body)}"]
    yield Listing("Commands", "\n".join(lines), "bash", open=True)


def _serve_again(command: Sequence[str]) -> str:
    """The command that served a target, with the usual port instead of any free one."""
    arguments = command[command.index("serve") + 1 :]
    return shlex.join(["stride", "serve", *("8090" if a == "0" else a for a in arguments)])

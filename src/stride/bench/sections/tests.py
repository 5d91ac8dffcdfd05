"""The post's three tests, and the generation and prompt speeds over all of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from stride.bench import charts, findings
from stride.bench import figures as fig
from stride.bench.blocks import Block, Figure, Folded, Listing, Table, Text, clipped, plain
from stride.bench.charts import Mark
from stride.bench.graders import Check
from stride.bench.results import Results, Run, TargetResult
from stride.bench.statistics import CONFIDENCE, Summary
from stride.bench.tasks import CODING, SPEED, Task

METHOD = (
    "The client's clock is read when bytes arrive. Generation speed is (n − 1) tokens over the time from the first "
    "token's arrival to the last, with n from the server's usage, never from chunks; the server's own, meant the same, "
    "where an answer came in bursts. Prompt speed is the server's own "
    "where it sends one; the client's estimate divides by the time to the first token, which holds more than the "
    "prompt. Each request begins with a system message that holds a number used once, and asks for no prompt cache: "
    "prompts are cold, and a little longer than the post's. A warm-up is discarded. Intervals are bootstrap intervals "
    f"of the median at {CONFIDENCE:.0%}, the wider the fewer repeats there are (Hesterberg's expanded percentiles)."
)
GAP_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "Largest": 1.0}
POINTS = 200
"""Of a distribution's curve."""
LONGEST_EVIDENCE, LONGEST_ANSWER = 300, 20_000
"""Characters that are shown."""
SHORTEST_GAP = 1e-5
"""Seconds; where a logarithmic axis begins."""


def overview(results: Results) -> Iterator[Block]:
    yield Text(METHOD)
    yield from _rate_figures(results)
    yield from _clocks(results)


def _rate_figures(results: Results) -> Iterator[Block]:
    plans = (
        ("generation", ("generation_rate",), "generation, tok/s", "Generation speed"),
        ("prompt", ("server_prompt_rate", "prompt_rate"), "prompt processing, tok/s", "Prompt processing"),
    )
    tasks = findings.post_tasks(results)
    for name, wanted, axis, title in plans:
        marks, words = [], []
        for target in results.targets:
            known = next((f for f in wanted if any(target.values(task.name, f) for task in tasks)), wanted[0])
            for task in tasks:
                marks += [Mark(target.label, task.title, value) for value in target.values(task.name, known)]
                found = findings.figure(target, task.name, known)
                words += [f"{target.label}, {task.title.lower()}: {fig.rate(found.median)} tok/s"] if found else []
        if marks:
            alt = f"{title}, medians. {'; '.join(words)}."
            yield Figure(name, charts.dots(marks, axis), alt, f"{title}: each dot is a run, each bar a median.")


def _clocks(results: Results) -> Iterator[Block]:
    """The client's clock beside the server's, in the speed test."""
    rows = []
    for target in results.targets:
        decode, prompt = (
            [findings.figure(target, SPEED.name, name) for name in pair]
            for pair in (("decode_rate", "server_decode_rate"), ("prompt_rate", "server_prompt_rate"))
        )
        if any(decode):
            medians = [fig.rate(found.median if found else None) for found in (*decode, *prompt)]
            medians[0] = medians[0] if decode[0] else "not measurable"
            gap = findings.disagreement(target)
            difference = fig.NONE if gap is None else f"{100 * gap:+.1f}%"
            rows.append((plain(target.label), *medians[:2], difference, *medians[2:], plain(target.timed or fig.NONE)))
    if rows:
        header = ("Target", "Generation, client", "Generation, server", "Client over server")
        more = ("Prompt, client’s estimate", "Prompt, server", "Where the server’s times come from")
        yield Table("Two clocks: tok/s in the speed test, medians", (*header, *more), rows)


def post_test(task: Task, results: Results) -> Iterator[Block]:
    yield Text(f"**Prompt:** “{plain(task.prompt)}” At most {task.max_tokens:,} tokens.")
    measured = [target for target in results.targets if target.counted(task.name)]
    if len(measured) > 1:
        yield _side_by_side(task, measured)
    else:
        yield from (_metrics(task, target) for target in measured)
    if task.name == SPEED.name:
        yield from _latency(results)
    for target in measured:
        yield from _judgement(task, target, folded=len(measured) > 1)
    for target in results.targets:
        failed = [run for run in target.runs if run.task == task.name and run.repeat > 0 and run.fault]
        if failed:
            rows = [(str(run.repeat), plain(run.fault)) for run in failed]
            yield Table(f"Failed runs: {plain(target.label)}", ("Repeat", "Reason"), rows)
    for target in results.targets:
        yield from _details(task, target, with_metrics=len(measured) > 1)


def _latency(results: Results) -> Iterator[Block]:
    """How evenly the pieces of an answer came."""
    known = [(target, gaps) for target in results.targets if (gaps := findings.gaps(target))]
    if not known:
        return
    marks = [
        Mark(target.label, 1e3 * max(SHORTEST_GAP, findings.quantile(gaps, share)), share)
        for target, gaps in known
        for share in (i / POINTS for i in range(POINTS + 1))
    ]
    rows = [
        (
            plain(target.label),
            fig.count(len(gaps)),
            *(fig.seconds(findings.quantile(gaps, share)) for share in GAP_QUANTILES.values()),
        )
        for target, gaps in known
    ]
    words = "; ".join(f"{row[0]}: median {row[2]}, 95% at most {row[3]}, largest {row[5]}" for row in rows)
    yield Figure(
        "latency",
        charts.shares(marks, "time between two pieces of an answer, ms"),
        f"Distribution of the time between pieces. {words}.",
        "Time between the pieces of an answer, all runs of the speed test: the steeper, the more even. A piece is a "
        "token where the server sends each by itself.",
    )
    yield Table("Time between the pieces of an answer", ("Target", "Gaps", *GAP_QUANTILES), rows)


Write: TypeAlias = Callable[[float | None], str]


def _summaries(task: Task, target: TargetResult) -> Iterator[tuple[str, Summary | None, Write]]:
    """What a test measured: a title, the summary, and how its figures are written."""

    def of_runs(name: str) -> Summary | None:
        return findings.figure(target, task.name, name)

    def of_times(name: str) -> Summary | None:
        return findings.time_figure(target, task.name, name)

    yield "Prompt tokens", _alone(of_runs("prompt_tokens")), fig.count
    yield "Prompt processing, server (tok/s)", of_runs("server_prompt_rate"), fig.rate
    yield "Prompt processing, client's estimate (tok/s)", of_runs("prompt_rate"), fig.rate
    yield "Generation tokens", _alone(of_runs("completion_tokens")), fig.count
    yield "**Generation speed, client (tok/s)**", of_runs("decode_rate"), fig.rate
    yield "Generation speed, server (tok/s)", of_runs("server_decode_rate"), fig.rate
    yield "Tokens guessed ahead that were right", of_runs("guessed_right"), fig.percent
    yield "First byte", of_times("first_byte"), fig.seconds
    yield "First token of any kind", of_times("first_token"), fig.seconds
    yield "First token of the answer", of_times("first_answer"), fig.seconds
    yield "Total time", of_times("end"), fig.seconds


def _alone(found: Summary | None) -> Summary | None:
    """The median without an interval: tokens are counted, not measured."""
    return found and Summary(1, found.median, found.median, found.median, None, None)


def _metrics(task: Task, target: TargetResult) -> Table:
    n = len(target.counted(task.name))
    caption = f"{task.title}: {plain(target.label)}, {n} {'run' if n == 1 else 'runs'}"
    rows = [
        (
            title,
            write(found.median if found else None),
            fig.interval(found, write),
            fig.percent(found.variation if found else None),
        )
        for title, found, write in _summaries(task, target)
    ]
    return Table(caption, ("Metric", "Median", f"{CONFIDENCE:.0%} interval", "Variation"), rows)


def _side_by_side(task: Task, targets: Sequence[TargetResult]) -> Table:
    columns = [
        [(title, fig.with_interval(found, write)) for title, found, write in _summaries(task, target)]
        for target in targets
    ]
    rows = [(cells[0][0], *(text for _, text in cells)) for cells in zip(*columns, strict=True)]
    caption = f"{task.title}: medians, with {CONFIDENCE:.0%} intervals where a test was repeated"
    return Table(caption, ("Metric", *(plain(target.label) for target in targets)), rows)


def _judgement(task: Task, target: TargetResult, *, folded: bool) -> Iterator[Block]:
    grades = [run.grade for run in target.counted(task.name) if run.grade]
    if not grades:
        return
    score, remark = findings.tool_score(target), ""
    if task.grader == CODING.grader:
        score, why, where = findings.coding_score(target), findings.unexecuted(grades[-1]), findings.sandbox(grades)
        remark = f" The code was not executed: {plain(why)}." if why else " There was no code to run."
        if where:
            remark = f" The code was run (sandbox: {plain(where.partition(':')[0])})."
    yield Text(f"**Judgement, {plain(target.label)}:** {score}.{remark}")
    last = {check.name: check for grade in grades for check in grade.checks}
    weighted = any(check.weight != 1.0 for check in last.values())
    rows = []
    for check in last.values():
        seen = [c.passed for grade in grades for c in grade.checks if c.name == check.name]
        weight = (f"{check.weight:g}",) if weighted else ()
        rows.append((plain(check.name), *weight, fig.of(sum(seen), len(seen)), _evidence(check)))
    header = ("Check", *(("Weight",) if weighted else ()), "Passed", "Evidence, last run")
    table = Table(f"{task.title}, what was checked: {plain(target.label)}", header, rows)
    yield Folded(f"What was checked: {plain(target.label)}", [table]) if folded else table


def _evidence(check: Check) -> str:
    return plain(clipped(check.evidence, LONGEST_EVIDENCE))


def _details(task: Task, target: TargetResult, *, with_metrics: bool) -> Iterator[Block]:
    runs = [run for run in target.runs if run.task == task.name]
    if not runs:
        return
    header = (
        *("Run", "Prompt tokens", "Cached", "Generated", "First token", "Total"),
        *("Client tok/s", "Server tok/s", "Client prompt tok/s", "Server prompt tok/s", "Finish"),
    )
    table = Table(f"{task.title}, every run: {plain(target.label)}", header, [_run_row(run) for run in runs])
    counted = target.counted(task.name)
    metrics = [_metrics(task, target)] if with_metrics and counted else []
    yield Folded(f"Every run: {plain(target.label)}", [*metrics, table])
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
        yield Listing("Reasoning", clipped(answer.reasoning, LONGEST_ANSWER), open=True)
    if answer.content:
        yield Listing("Answer", clipped(answer.content, LONGEST_ANSWER), open=True)
    if answer.tool_calls:
        calls = [{"name": call.name, "arguments": call.arguments} for call in answer.tool_calls]
        yield Listing(
            "Tool calls", clipped(json.dumps(calls, indent=2, ensure_ascii=False), LONGEST_ANSWER), "json", open=True
        )

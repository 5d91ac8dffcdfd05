"""The targets beside each other, and the post's beside them."""

from __future__ import annotations

from collections.abc import Iterator

from stride.bench import charts, findings, post
from stride.bench import figures as fig
from stride.bench.blocks import Block, Figure, Table, plain
from stride.bench.charts import Mark
from stride.bench.compare import Difference, differences, figures_of
from stride.bench.results import Results, TargetResult
from stride.bench.statistics import CONFIDENCE
from stride.bench.tasks import SPEED

COMPARED = ("generation", "prompt", "first_token", "memory")
VERDICTS = {"better": "better", "worse": "worse", "same": "no difference", "unsure": "too few repeats to tell"}


def comparison(results: Results) -> Iterator[Block]:
    header = ["Model", "Size", "Gen tok/s", "Prompt tok/s", "First token", "Coding", "Tools", "Suite", "Memory"]
    yield Table("Measured here", [*header, "Notes"], [_row(target, results) for target in results.targets])
    yield from _ratios(results)
    yield from _scatter(results)
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


def _row(target: TargetResult, results: Results) -> tuple[str, ...]:
    rates, source = findings.prompt_rates(target, results)
    first = findings.time_figure(target, SPEED.name, "first_token")
    return (
        f"**{plain(target.label)}**",
        fig.size(target.size_bytes),
        f"**{fig.rate(findings.generation_rate(target))}**{findings.source_of_generation(target)}",
        fig.span(rates, fig.rate) + (" (client’s estimate)" if rates and source == "client" else ""),
        fig.seconds(first.median if first else None),
        findings.coding_score(target),
        findings.tool_score(target),
        findings.suite_score(target),
        fig.size(target.memory.footprint if target.memory else None),
        plain(_note(target)),
    )


def _note(target: TargetResult) -> str:
    if target.error is not None:
        return target.error
    notes = []
    if findings.stand_in(target):
        notes.append("a small stand-in, its answers say nothing of other models")
    failed = sum(run.fault is not None for run in target.runs)
    if failed:
        notes.append(f"{failed} of {len(target.runs)} requests failed")
    if any(run.recounted for run in target.runs):
        notes.append("tokens counted in a second request")
    build = target.props.get("build_info")
    if build:
        notes.append(str(build))
    return "; ".join(notes) or fig.NONE


def _ratios(results: Results) -> Iterator[Block]:
    """Every other target against the first."""
    first, *others = results.targets
    found = [
        (other, difference)
        for other in others
        for difference in differences(figures_of(first), figures_of(other))
        if difference.measure.key in COMPARED and (difference.measure.key != "prompt" or _same_clock(first, other))
    ]
    if found:
        yield Table(
            f"As a multiple of {plain(first.label)}’s",
            ("Model", "Measure", plain(first.label), "Here", "Ratio", f"{CONFIDENCE:.0%} interval", "Verdict"),
            [_ratio_row(other, difference) for other, difference in found],
        )


def _same_clock(first: TargetResult, other: TargetResult) -> bool:
    """Whether both prompt speeds are the servers' own, or both are the client's: these hold more than the prompt."""
    return len({bool(target.values(SPEED.name, "server_prompt_rate")) for target in (first, other)}) == 1


def _ratio_row(other: TargetResult, difference: Difference) -> tuple[str, ...]:
    write = difference.measure.write
    return (
        plain(other.label),
        difference.measure.title.partition(",")[0],
        write(difference.before),
        write(difference.after),
        fig.times(difference.ratio.median),
        fig.interval(difference.ratio, fig.times),
        VERDICTS[difference.verdict],
    )


def _scatter(results: Results) -> Iterator[Block]:
    """Prompt speed against generation speed: one point for each test and target."""
    marks, words = [], []
    for target in results.targets:
        for task in results.tasks:
            prompt = findings.prompt_figure(target, task.name)
            decode = findings.figure(target, task.name, "generation_rate")
            if prompt and decode and not task.warm:
                marks.append(Mark(target.label, prompt.median, decode.median))
                words.append(
                    f"{target.label}, {task.title.lower()}: {fig.rate(prompt.median)} and {fig.rate(decode.median)}"
                )
    if len(marks) > 1:
        yield Figure(
            "prompt-generation",
            charts.scatter(marks, "prompt processing, tok/s", "generation, tok/s"),
            f"Prompt processing and generation, medians in tok/s. {'; '.join(words)}.",
            "Prompt processing against generation: each point is a test of a target; up and to the right is faster.",
        )

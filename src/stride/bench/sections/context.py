"""Speed against the length of the context, and what a prompt cache saves."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from stride.bench import charts, findings
from stride.bench import figures as fig
from stride.bench.blocks import Figure, Section, Table, Text, plain
from stride.bench.charts import Mark
from stride.bench.results import Results, TargetResult
from stride.bench.statistics import CONFIDENCE, Summary, ratio, summarize
from stride.bench.tasks import SPEED, Task


def context(results: Results) -> Iterator[Section]:
    """A section each for what was measured."""
    deep = [task for task in results.tasks if task.depth and not task.warm]
    if any(target.counted(task.name) for target in results.targets for task in deep):
        yield _depth(results, deep)
    warm = [task for task in results.tasks if task.warm]
    rows = [row for task in warm for target in results.targets if (row := _warm_row(target, task))]
    if rows:
        note = Text(
            "The same prompt twice: no cache can know it the first time (cold); the second time (warm) one may."
        )
        header = ("Target", "Prompt tokens", "From the cache", "First token, cold", "First token, warm")
        table = Table("Prompt cache", (*header, "Warm over cold", f"{CONFIDENCE:.0%} interval"), rows)
        yield Section("Prompt cache", [note, table], level=3)


def _depth(results: Results, deep: list[Task]) -> Section:
    rows, generation, prompt = [], [], []
    for target in results.targets:
        for task in (SPEED, *deep):
            counted = target.counted(task.name)
            n_prompt = median([run.prompt_tokens or 0 for run in counted]) if counted else None
            decode = findings.figure(target, task.name, "generation_rate")
            prefill = findings.prompt_figure(target, task.name)
            first = findings.time_figure(target, task.name, "first_token")
            generation += _mark(target, n_prompt, decode)
            prompt += _mark(target, n_prompt, prefill)
            rows.append(
                (
                    plain(target.label),
                    fig.count(n_prompt) if counted else f"{task.title}: not measured",
                    fig.with_interval(decode, fig.rate),
                    fig.with_interval(prefill, fig.rate),
                    fig.with_interval(first, fig.seconds),
                )
            )
    words = "; ".join(f"{m.series}, {fig.count(float(m.place))} tokens: {fig.rate(m.value)}" for m in generation)
    panels = {"generation, tok/s": generation, "prompt, tok/s": prompt}
    return Section(
        "Speed against context depth",
        [
            Text(
                "Filler of common words stands before the question of the speed test. The lengths are those that the "
                "server counted. A depth beyond a target's context is left out."
            ),
            Figure(
                "depth",
                charts.lines({title: marks for title, marks in panels.items() if marks}, "prompt tokens, measured"),
                f"Generation over prompt tokens, medians in tok/s. {words}.",
                f"Speed over the measured length of the prompt: medians, with {CONFIDENCE:.0%} intervals.",
            ),
            Table(
                "Speed against context depth",
                ("Target", "Prompt tokens", "Generation, tok/s", "Prompt, tok/s", "First token"),
                rows,
            ),
        ],
        level=3,
    )


def _mark(target: TargetResult, place: float | None, found: Summary | None) -> list[Mark]:
    if place is None or found is None:
        return []
    return [Mark(target.label, place, found.median, found.low, found.high)]


def _warm_row(target: TargetResult, task: Task) -> tuple[str, ...] | None:
    counted = target.counted(task.name)
    if not counted:
        return None
    cold = [run.cold_first_token for run in counted if run.cold_first_token is not None]
    warm = [run.reply.times.first_token for run in counted if run.reply.times.first_token is not None]
    before, after, share = summarize(cold), summarize(warm), ratio(warm, cold)
    return (
        plain(target.label),
        fig.count(median([run.prompt_tokens or 0 for run in counted])),
        fig.count(median([run.cached_tokens for run in counted])),
        fig.seconds(before.median if before else None),
        fig.seconds(after.median if after else None),
        fig.times(share.median if share else None),
        fig.interval(share, fig.times),
    )

"""What the figures say in words: sentences that follow from the data by rule, and say nothing else."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from stride.bench import figures as fig
from stride.bench.blocks import plain
from stride.bench.compare import TOLERANCE
from stride.bench.graders import NOT_RUN, SANDBOX, Grade
from stride.bench.results import TOLERATED, Results, Run, TargetResult
from stride.bench.statistics import CONFIDENCE, Summary, ratio, summarize
from stride.bench.suite.play import CaseResult
from stride.bench.suite.tally import is_malformed, total
from stride.bench.tasks import CODING, POST_TASKS, SPEED, TOOL_CALLS, Task

STEADY = 0.05
FOOTPRINT = 0.03
FEW_REPEATS = 5
STAND_IN = re.compile(r"untrained|seeded|random weights|synthetic|stride demo", re.I)


def stand_in(target: TargetResult) -> str | None:
    """What a model's file says of itself, if it says that its answers cannot mean much."""
    if target.file is None:
        return None
    said = f"{target.file.name}: {target.file.description}".strip(": ")
    return said if STAND_IN.search(said) else None


def figure(target: TargetResult, task: str, name: str) -> Summary | None:
    """Summary of one figure of `Run` over a task's counted runs."""
    return summarize(target.values(task, name))


def time_figure(target: TargetResult, task: str, name: str) -> Summary | None:
    """Summary of one of the client's `Times`."""
    times = (getattr(run.reply.times, name) for run in target.counted(task))
    return summarize([value for value in times if value is not None])


def post_tasks(results: Results) -> list[Task]:
    """The post's tests, as far as they are in the plan."""
    names = [task.name for task in POST_TASKS]
    return [task for task in results.tasks if task.name in names]


def prompt_figure(target: TargetResult, task: str) -> Summary | None:
    """Prompt tok/s: the server's own, or the client's estimate where there is none."""
    return figure(target, task, "server_prompt_rate") or figure(target, task, "prompt_rate")


def prompt_rates(target: TargetResult, results: Results) -> tuple[list[float], str]:
    """Median prompt tok/s of each of the post's tests, and whose figure: the server's, or else the client's."""
    for name, source in (("server_prompt_rate", "server"), ("prompt_rate", "client")):
        medians = [found.median for task in post_tasks(results) if (found := figure(target, task.name, name))]
        if medians:
            return medians, source
    return [], "client"


def gaps(target: TargetResult) -> list[float]:
    """Seconds between the pieces of the speed test's answers, of all its runs, in order of size."""
    return sorted(
        later - earlier for run in target.counted(SPEED.name) for earlier, later in pairwise(run.reply.arrivals)
    )


def quantile(ordered: list[float], share: float) -> float:
    return float(np.quantile(ordered, share))


def generation_rate(target: TargetResult) -> float | None:
    """Median tok/s in the speed test, as the post's table has it."""
    found = figure(target, SPEED.name, "generation_rate")
    return found.median if found else None


def unseen(target: TargetResult) -> list[Run]:
    """Runs of the speed test whose tokens the client did not see pass."""
    return [run for run in target.counted(SPEED.name) if run.decode_rate is None and run.completion_tokens != 1]


def source_of_generation(target: TargetResult) -> str:
    """Whose figure the generation speed is, where it is not the client's."""
    return " (server's figure)" if unseen(target) and generation_rate(target) is not None else ""


def coding_grades(target: TargetResult) -> list[Grade]:
    return [run.grade for run in target.counted(CODING.name) if run.grade]


def coding_score(target: TargetResult) -> str:
    """Median points, and median number of checks that passed."""
    grades = coding_grades(target)
    passed = summarize([float(grade.n_passed) for grade in grades])
    if passed is None:
        return fig.NONE
    whole = f"{fig.count(passed.median)} of {grades[-1].n_checks} checks"
    points = summarize([grade.points for grade in grades if grade.points is not None])
    return whole if points is None else f"{fig.stars(points.median)}, {whole}"


def unexecuted(grade: Grade) -> str | None:
    """Why the code was not run, where it was not."""
    return next((check.evidence for check in grade.checks if check.name == NOT_RUN), None)


def sandbox(grades: Sequence[Grade]) -> str | None:
    """What kept the code that was run from this machine; None where none was run."""
    checks = (check for grade in grades for check in grade.checks)
    return next((check.evidence for check in checks if check.name == SANDBOX), None)


def tool_outcomes(target: TargetResult) -> Counter[str]:
    return Counter(run.grade.outcome for run in target.counted(TOOL_CALLS.name) if run.grade)


def tool_score(target: TargetResult) -> str:
    """How often both calls came back."""
    outcomes = tool_outcomes(target)
    if not outcomes:
        return fig.NONE
    partial = f", {outcomes['partial']} partial" if outcomes["partial"] else ""
    return f"{fig.of(outcomes['pass'], outcomes.total())} passed{partial}"


def suite_score(target: TargetResult) -> str:
    """How many conversations of the tool suite passed."""
    found = total(target.cases)
    return fig.NONE if found is None else f"{fig.of(found.passed, found.n)} passed"


def abstained(case: CaseResult) -> bool:
    """Whether a conversation failed though all was understood, and nothing was called at all."""
    called = any(reply.answer.tool_calls for reply in case.replies)
    return not case.passed and case.fault is None and not called and not is_malformed(case)


def headline(target: TargetResult, results: Results) -> str:
    """One target in one sentence."""
    name = f"**{plain(target.label)}**"
    if target.error is not None:
        return f"{name} could not be measured: {plain(target.error)}"
    if not target.measured:
        return f"{name} was not measured: {plain(_first_fault(target) or 'no run was finished')}"
    rates, source = prompt_rates(target, results)
    parts = []
    if target.counted(SPEED.name):
        rate = generation_rate(target)
        said = f"**{fig.rate(rate)} tok/s** generation" if rate is not None else "generation speed not measurable"
        parts.append(said + source_of_generation(target))
    if rates:
        parts.append(f"{fig.span(rates, fig.rate)} tok/s prompt processing ({source}'s figure)")
    if target.counted(CODING.name):
        parts.append(f"coding {coding_score(target)}")
    if target.counted(TOOL_CALLS.name):
        parts.append(f"tool calls {tool_score(target)}")
    if target.cases:
        parts.append(f"tool suite {suite_score(target)}")
    if target.memory is not None:
        parts.append(f"{fig.size(target.memory.footprint)} of memory")
    return f"{name}: {', '.join(parts)}."


def works(results: Results) -> Iterator[str]:
    """What the data speaks well of."""
    for target in results.targets:
        name, counted = plain(target.label), [run for run in target.runs if run.counted]
        attempted = sum(run.repeat > 0 for run in target.runs)
        if counted and len(counted) == attempted and not any(case.fault for case in target.cases):
            suite = f" and {len(target.cases)} conversations" if target.cases else ""
            yield f"**Every run counts.** {name}: {len(counted)} requests{suite}, none failed."
        speed = figure(target, SPEED.name, "generation_rate")
        if speed and speed.variation is not None and speed.variation <= STEADY:
            yield (
                f"**Steady generation.** {name}: {fig.rate(speed.median)} tok/s, varying by "
                f"{fig.percent(speed.variation)} over {speed.n} repeats."
            )
        gap = disagreement(target)
        if gap is not None and abs(gap) <= TOLERATED:
            yield f"**Client and server agree** on {name}'s generation speed within {fig.percent(abs(gap))}."
        outcomes = tool_outcomes(target)
        if outcomes and outcomes["pass"] == outcomes.total():
            yield f"**Parallel tool calls.** {name}: both calls, with valid arguments, in every run."
        reasoned = sum(bool(run.reply.answer.reasoning) for run in counted)
        if reasoned:
            yield f"**Reasoning apart from the answer.** {name}: in {fig.of(reasoned, len(counted))} runs."
        if target.memory is not None and target.file is not None and target.kv_bytes is not None:
            planned = target.file.n_bytes + target.kv_bytes
            excess = target.memory.footprint / planned - 1
            if excess <= FOOTPRINT:
                yield (
                    f"**Memory as planned.** {name}: {fig.size(target.memory.footprint)} against "
                    f"{fig.size(planned)} of file and KV cache."
                )


def limitations(results: Results, machine: Mapping[str, Any]) -> Iterator[str]:
    """What the data warns of."""
    if results.interrupted:
        yield "**Interrupted.** The measurement was stopped early; the figures come from the runs that were over."
    for target in results.targets:
        yield from _target_limitations(target)
    repeats = max((run.repeat for target in results.targets for run in target.runs), default=0)
    if results.time_is_up:
        yield f"**Time was up** after {fig.of(repeats, results.repeats)} repeats."
    if 0 < repeats < FEW_REPEATS:
        yield f"**Few repeats.** Medians of {repeats} at most; their intervals are rough."
    if len(results.targets) > 1 and not results.interleaved:
        yield "**One after another.** The models did not fit in memory together, so they did not take turns."
    load, cores = machine["load_average"][0], machine["cores_usable"]
    if load > cores / 2:
        yield f"**Busy machine.** The load average was {load:.1f} on {cores} cores before the first request."
    if machine["power"] == "battery":
        yield "**On battery.** The machine may have slowed itself down."
    for target in results.targets:
        reasons = Counter(why for grade in coding_grades(target) if (why := unexecuted(grade)))
        for why in reasons:
            yield f"**Code not executed.** {plain(target.label)}: {plain(why)}."


def _target_limitations(target: TargetResult) -> Iterator[str]:
    name = plain(target.label)
    if target.error is not None:
        yield f"**Not measured.** {name}: {plain(target.error)}"
        return
    said = stand_in(target)
    if said:
        yield (
            f"**Answers of a stand-in.** {name} is small, and its answers say nothing of other models; its file says: "
            f"{plain(said)}"
        )
    faults = Counter(run.fault for run in target.runs if run.fault)
    for fault, times in faults.items():
        yield f"**Failed runs.** {name}: {times} of {len(target.runs)}: {plain(fault)}"
    broken = [case.fault for case in target.cases if case.fault]
    if broken:
        share = fig.of(len(broken), len(target.cases))
        yield f"**Failed conversations.** {name}: {share} of the tool suite ended early, the first: {plain(broken[0])}"
    for task in (SPEED, CODING, TOOL_CALLS):
        found = figure(target, task.name, "generation_rate")
        if found and found.drift is not None:
            yield f"**Drift.** {name}, {task.title.lower()}: {fig.percent(found.drift)} from first repeat to last."
        elif found and found.variation is not None and found.variation > STEADY:
            yield f"**Unsteady.** {name}, {task.title.lower()}: the speed varies by {fig.percent(found.variation)}."
    recounted = sum(run.recounted for run in target.runs)
    if recounted:
        yield (
            f"**Tokens recounted.** {name}: the server sent no usage with {fig.of(recounted, len(target.runs))} "
            "answers; their tokens were counted in a second request, or by the server's tokenizer."
        )
    bursts, runs = unseen(target), target.counted(SPEED.name)
    if bursts:
        known = any(run.server_decode_rate is not None for run in bursts)
        instead = "the speeds are the server's own" if known else "their generation speed is not measurable"
        share = fig.of(len(bursts), len(runs))
        yield f"**Sent in bursts or at once.** {name}: {share} answers of the speed test; {instead}."
    gap = disagreement(target)
    if gap is not None and abs(gap) > TOLERATED:
        yield f"**Client and server disagree** on {name}'s generation speed by {fig.percent(abs(gap))}."
    coding = target.counted(CODING.name)
    cut = sum(run.reply.answer.finish_reason == "length" for run in coding)
    if cut:
        yield f"**Cut off.** {name}: {fig.of(cut, len(coding))} coding answers reached the token limit."
    if said:
        return
    missed = _usually_missed(coding)
    if missed:
        yield f"**Coding checks missed.** {name}: {plain(fig.join(missed))}."
    suite = total(target.cases)
    if suite is not None and suite.malformed:
        yield f"**Malformed tool calls.** {name}: in {fig.of(suite.malformed, suite.n)} conversations."
    outcomes = tool_outcomes(target)
    if outcomes["partial"] or outcomes["fail"]:
        yield f"**Tool calls incomplete.** {name}: {tool_score(target)}."


def verdict(results: Results) -> Iterator[str]:
    """The same for each target: how long the post's coding answer takes, and what was right."""
    for target in results.targets:
        found = figure(target, CODING.name, "generation_rate") or figure(target, SPEED.name, "generation_rate")
        if found is None:
            continue
        text = (
            f"**{plain(target.label)}**: at {fig.rate(found.median)} tok/s, 2,000 tokens take "
            f"{fig.seconds(2000 / found.median)}."
        )
        if stand_in(target):
            yield text + " Its answers are not judged: the weights are a stand-in, only speed and memory are real."
            continue
        if target.counted(CODING.name):
            text += f" Coding: {coding_score(target)} in the median."
        if target.counted(TOOL_CALLS.name):
            text += f" Tool calls: {tool_score(target)}."
        yield text + (f" Tool suite: {suite_score(target)}." if target.cases else "")
    ranked = sorted(
        (target for target in results.targets if generation_rate(target) is not None),
        key=lambda target: generation_rate(target) or 0.0,
        reverse=True,
    )
    if len(ranked) > 1:
        yield _race(ranked[0], ranked[-1])


def _race(first: TargetResult, last: TargetResult) -> str:
    """The fastest and the slowest generation, and whether that is a difference at all."""
    found = ratio(*(target.values(SPEED.name, "generation_rate") for target in (first, last)))
    assert found is not None
    text = f"Fastest to slowest generation: {plain(first.label)} is {found.median:.2f}× as fast as {plain(last.label)}"
    if found.n < 2:
        return f"{text}, by one answer of each."
    said = "" if found.low > 1 + TOLERANCE else ": no difference shown"
    return f"{text} ({CONFIDENCE:.0%} interval {fig.interval(found, fig.times)}){said}."


def disagreement(target: TargetResult) -> float | None:
    """Client's over server's generation rate of one answer, less one: the median over the speed test."""
    gaps = summarize(agreement(target.counted(SPEED.name)))
    return gaps.median if gaps else None


def agreement(runs: Sequence[Run]) -> list[float]:
    """Client's over server's generation rate, less one, of each answer that both have one of."""
    rates = ((run.decode_rate, run.server_decode_rate) for run in runs)
    return [client / server - 1 for client, server in rates if client and server]


def _usually_missed(runs: list[Run]) -> list[str]:
    """Checks that failed in more than half of the runs, in their order."""
    checks = [check for run in runs if run.grade for check in run.grade.checks if check.weight]
    failed = Counter(check.name for check in checks if not check.passed)
    return [name for name in dict.fromkeys(check.name for check in checks) if 2 * failed[name] > len(runs)]


def _first_fault(target: TargetResult) -> str | None:
    return next((run.fault for run in target.runs if run.fault), None)

"""The measurement itself: every task on every target, repeat by repeat."""

from __future__ import annotations

import math
import secrets
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

import psutil

from stride.bench.memory import MemorySampler
from stride.bench.plan import Plan
from stride.bench.results import Results, Run, TargetResult
from stride.bench.servers import Endpoint, TargetError
from stride.bench.statistics import summarize
from stride.bench.suite.case import Case
from stride.bench.suite.play import MAX_TOKENS, CaseResult, over_http, play
from stride.bench.targets import Target
from stride.bench.tasks import WARM_UP, Graders, Task

NARROW = 0.02
"""Half an interval over its median: as good as wanted."""
SPARE_TOKENS = 128
"""Of the context, for the template and for filler that came out longer than it was meant to."""


class Watch(Protocol):
    """Who follows the measurement."""

    def status(self, text: str) -> None:
        """What happens now."""

    def connected(self, target: TargetResult) -> None:
        """A target is up, or could not be reached; said again when its memory is known."""

    def estimated(self, seconds: float, at_most: bool) -> None:
        """How long the planned repeats will take from here: at most, after the warm-up; about, after the first."""

    def finished(self, run: Run) -> None:
        """A run is over, well or not."""

    def played(self, target: TargetResult, case: CaseResult) -> None:
        """A conversation of the tool suite is over, well or not."""


def measure(targets: Sequence[Target], results: Results, watch: Watch, graders: Graders) -> None:
    """Warm each target up, then run each task of the plan as often as it says; what is there already is not repeated.

    ``results`` has an entry for each target, and is filled. Ctrl-C ends it early and keeps what there is.
    """
    results.interleaved = _fit_together(targets)
    results.interrupted = results.time_is_up = False
    pairs = list(zip(targets, results.targets, strict=True))
    try:
        for group in [pairs] if results.interleaved else [[pair] for pair in pairs]:
            _measure_group(group, results, watch, graders)
    except KeyboardInterrupt:
        results.interrupted = True


def _measure_group(
    group: Sequence[tuple[Target, TargetResult]], results: Results, watch: Watch, graders: Graders
) -> None:
    began, plan = time.perf_counter(), results.plan
    with ExitStack() as stack:
        stations = []
        for target, result in group:
            try:
                endpoint = stack.enter_context(target.connect(watch.status))
            except TargetError as error:
                result.error = str(error)
                watch.connected(result)
                continue
            _note(endpoint, result)
            sampler = stack.enter_context(MemorySampler(endpoint.process)) if endpoint.process else None
            stations.append(_Station(endpoint, result, sampler, watch, graders))
        _make_unique(results.targets)
        for station in stations:
            watch.connected(station.result)
            station.warm_up()
        watch.estimated(_longest(stations, plan), at_most=True)
        goes_on = any(run.repeat for station in stations for run in station.result.runs)
        for repeat in range(1, plan.most_repeats + 1):
            repeat_began = time.perf_counter()
            in_turn = _in_turn(stations, repeat)
            for task in plan.tasks if repeat <= plan.repeats else _still_wide(stations, plan.tasks):
                for station in in_turn:
                    station.run(task, repeat)
            tests_over = time.perf_counter()
            for case in plan.cases(repeat):
                for station in in_turn:
                    station.play(case)
            now = time.perf_counter()
            if repeat == 1 < plan.repeats and not goes_on:
                tests, suite = tests_over - repeat_began, now - tests_over
                expected = (plan.repeats - 1) * tests + max(0, plan.suite_seeds - 1) * suite
                watch.estimated(_within(plan, expected, now - began), at_most=False)
            if plan.seconds is not None and (now - began) + (now - repeat_began) > plan.seconds:
                results.time_is_up = repeat < plan.repeats
                break
        for station in stations:
            watch.connected(station.result)


def _in_turn(stations: Sequence[_Station], repeat: int) -> Sequence[_Station]:
    """Another one begins each repeat: whoever always came first would always find what the last one left."""
    first = (repeat - 1) % max(1, len(stations))
    return [*stations[first:], *stations[:first]]


def _longest(stations: Sequence[_Station], plan: Plan) -> float:
    """Seconds that all planned repeats take if every answer is as long as it may be."""
    first = sum(station.seconds(task) for station in stations for task in plan.tasks)
    cases = [case for repeat in range(1, plan.suite_seeds + 1) for case in plan.cases(repeat)]
    suite = sum(station.case_seconds(case) for station in stations for case in cases)
    return max(first, _within(plan, plan.repeats * first + suite, 0.0))


def _within(plan: Plan, seconds: float, spent: float) -> float:
    """No more than the plan has time for, after what was spent."""
    return seconds if plan.seconds is None else min(seconds, max(0.0, plan.seconds - spent))


def _still_wide(stations: Sequence[_Station], tasks: Sequence[Task]) -> Iterator[Task]:
    """The timed tasks whose generation speed is not known well yet, of any target."""
    for task in tasks:
        for station in stations:
            found = summarize(station.result.values(task.name, "generation_rate"))
            if found is not None and (found.high - found.low) / 2 > NARROW * found.median:
                yield task
                break


@dataclass(slots=True)
class _Station:
    """A target that is up, and where its results go."""

    endpoint: Endpoint
    result: TargetResult
    sampler: MemorySampler | None
    watch: Watch
    graders: Graders
    tokens_per_word: float = 1.0

    def warm_up(self) -> None:
        """One request that does not count, from which the size of fillers is learned."""
        run = self._ask(WARM_UP, 0)
        self._keep(run)
        if run.prompt_tokens:
            self.tokens_per_word = max(0.25, run.prompt_tokens / (WARM_UP.depth + len(WARM_UP.prompt.split())))

    def seconds(self, task: Task) -> float:
        """How long a task will take at most, going by the warm-up; 0 where it is unknown."""
        warm_up = self.result.runs[-1]
        prompt, decode = warm_up.prompt_rate, warm_up.generation_rate
        n_prompt = task.depth + self.tokens_per_word * len(task.prompt.split())
        if not prompt or not decode or not self._fits(task):
            return 0.0
        return task.n_requests * (n_prompt / prompt + task.max_tokens / decode)

    def case_seconds(self, case: Case) -> float:
        """The same of a conversation, which goes by what it may generate: its prompts are short."""
        decode = self.result.runs[-1].generation_rate
        return len(case.steps) * MAX_TOKENS / decode if decode else 0.0

    def run(self, task: Task, repeat: int) -> None:
        if self.result.has(task.name, repeat) or not self._fits(task):
            return
        self.watch.status(f"{self.result.label}: {task.title.lower()}, repeat {repeat}")
        self._keep(self._ask(task, repeat))

    def play(self, case: Case) -> None:
        if self.result.has_case(case):
            return
        self.watch.status(f"{self.result.label}: tool suite, {case.kind}, seed {case.seed}")
        result = play(case, over_http(self.endpoint.http, self.endpoint.url, self.endpoint.model))
        self.result.add_case(result)
        self.watch.played(self.result, result)

    def _fits(self, task: Task) -> bool:
        return task.depth + task.max_tokens + SPARE_TOKENS <= (self.result.n_ctx or math.inf) or not task.depth

    def _ask(self, task: Task, repeat: int) -> Run:
        nonce, seed = secrets.token_hex(4), repeat
        started = datetime.now(UTC).isoformat(timespec="seconds")
        body = task.body(nonce=nonce, seed=seed, model=self.endpoint.model, tokens_per_word=self.tokens_per_word)
        cold, reply = None, self.endpoint.ask(body)
        if task.warm:
            cold, reply = reply.times.first_token, self.endpoint.ask(body)
        if reply.error is not None:
            reply = replace(reply, error=self.endpoint.obituary() or reply.error)
        run = Run(self.result.label, task.name, repeat, seed, nonce, started, reply, None, None, cold)
        run = replace(run, fault=fault(run, task))
        return replace(run, grade=task.grade(reply.answer, self.graders) if run.counted else None)

    def _keep(self, run: Run) -> None:
        self.result.runs.append(run)
        if self.sampler is not None:
            self.sampler.read_shared()
            self.result.memory = self.sampler.result()
        self.watch.finished(run)


def fault(run: Run, task: Task) -> str | None:
    """Why a run does not count."""
    if run.reply.error is not None:
        return run.reply.error
    if run.completion_tokens is None:
        return "the server reported no token counts, and chunks are no tokens"
    return task.fault(run.prompt_tokens, run.cached_tokens)


def _note(endpoint: Endpoint, result: TargetResult) -> None:
    result.label = endpoint.label
    result.url = endpoint.url
    result.model = endpoint.model
    result.command = list(endpoint.command)
    result.size_bytes = endpoint.size_bytes
    result.ready_seconds = endpoint.ready_seconds
    result.engine = endpoint.engine.name
    result.timed = endpoint.engine.timed
    result.props = dict(endpoint.props)
    result.listed = dict(endpoint.listed)
    result.file = endpoint.file


def _fit_together(targets: Sequence[Target]) -> bool:
    """Whether all models that we start ourselves fit in memory at once, with a tenth to spare."""
    return len(targets) < 2 or sum(target.n_bytes for target in targets) < 0.9 * psutil.virtual_memory().available


def _make_unique(results: Sequence[TargetResult]) -> None:
    """Number labels that occur twice."""
    seen: Counter[str] = Counter()
    for result in results:
        seen[result.label] += 1
        if seen[result.label] > 1:
            result.label += f" ({seen[result.label]})"

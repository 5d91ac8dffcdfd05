"""The deep dive: speed, coding, tools and memory, written up as a report.

Without -m, --url and --launch it measures the embedded demo model. Several targets take turns and are compared. A model
is served for as long as it is measured; a URL is any OpenAI-compatible server: llama-server, Ollama, LM Studio, vLLM.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from stride.bench.results import Run, TargetResult
    from stride.bench.store import Store
    from stride.bench.suite.play import CaseResult
    from stride.bench.tasks import Graders

SECRET_OPTIONS = ("--api-key",)
MISSED = 3
"""Exit status where something required was not reached."""

app = typer.Typer(add_completion=False)

Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where everything goes.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="What --out was.")]
ApiKey = Annotated[str | None, typer.Option("--api-key", metavar="KEY", help="Sent to each URL; never written down.")]
Require = Annotated[
    list[str] | None,
    typer.Option(
        "--require",
        metavar="FIGURE>=X",
        help="Exit status 3 where a median misses it: generation, prompt, first_token, coding, tools, suite, memory; "
        ">= or <=; repeatable.",
    ),
]

Unsafe = Annotated[
    bool, typer.Option("--unsafe", help="Run code that the model wrote without a sandbox, where there is none.")
]


@app.callback(invoke_without_command=True, help=__doc__)
def command(
    context: typer.Context,
    model: Annotated[
        list[str] | None,
        typer.Option("-m", "--model", metavar="MODEL", help="GGUF file, folder or pulled repository; repeatable."),
    ] = None,
    url: Annotated[
        list[str] | None, typer.Option("--url", metavar="URL", help="OpenAI-compatible server; repeatable.")
    ] = None,
    launch: Annotated[
        list[str] | None,
        typer.Option(
            "--launch",
            metavar="COMMAND",
            help="Another server's command line, started and measured with its memory: "
            "'llama-server -m x.gguf --port {port}'; repeatable.",
        ),
    ] = None,
    model_name: Annotated[
        list[str] | None,
        typer.Option("--model-name", metavar="ID", help="Model to ask each URL for; repeatable. Default: its first."),
    ] = None,
    api_key: ApiKey = None,
    out: Out = Path("stride-report"),
    quick: Annotated[bool, typer.Option("--quick", help="3 repeats, at most 90 s; the demo model's default.")] = False,
    standard: Annotated[
        bool, typer.Option("--standard", help="5 repeats, 10 where speeds vary; up to 4,096 tokens deep. The default.")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="10 repeats, 30 where speeds vary; up to 65,536 tokens deep.")
    ] = False,
    test: Annotated[
        list[str] | None,
        typer.Option(
            "--test",
            metavar="NAME",
            help="Only this test: speed, coding, tools, warm, depth-1024, ..., suite; repeatable. Default: all.",
        ),
    ] = None,
    repeats: Annotated[
        int | None, typer.Option("--repeats", metavar="N", help="Runs per test, instead of the level's.", min=1)
    ] = None,
    ctx_size: Annotated[
        int | None, typer.Option("-c", "--ctx-size", metavar="N", help="Tokens of context of models served.", min=1)
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="SIZE", help="All that models served may take, such as 16G.")
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option("--time-limit", metavar="S", help="No repeat begins that would end later.", min=0)
    ] = None,
    max_tokens_coding: Annotated[
        int, typer.Option("--max-tokens-coding", metavar="N", help="Token limit of the coding test.", min=1)
    ] = 2000,
    require: Require = None,
    unsafe: Unsafe = False,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="DIR", help="Go on with a measurement that was interrupted.")
    ] = None,
    history: Annotated[
        bool, typer.Option("--history", help="Show what was measured here so far, and what changed; measure nothing.")
    ] = False,
) -> None:
    if context.invoked_subcommand is not None:
        return
    if history:
        from stride.cli.bench_tables import show_history

        show_history()
        return
    from dataclasses import replace

    from stride.bench.measures import requirement
    from stride.bench.plan import LEVELS, with_coding_tokens, with_only
    from stride.bench.store import Manifest, Store
    from stride.bench.targets import Launched, ServedModel, TargetSpec, Url

    wanted = [name for name, given in (("quick", quick), ("standard", standard), ("full", full)) if given]
    if len(wanted) > 1:
        raise typer.BadParameter("only one of --quick, --standard and --full may be given")
    for text in require or ():
        requirement(text)  # a wrong one is said before the work, not after it
    if resume is not None:
        store = Store.open(resume)
    else:
        targets: list[TargetSpec] = [ServedModel(name, ctx_size, memory) for name in model or ()]
        targets += [Url(address, name) for address in url or () for name in model_name or (None,)]
        targets += [Launched(line) for line in launch or ()]
        level = wanted[0] if wanted else "standard" if targets else "quick"
        plan = with_coding_tokens(LEVELS[level], max_tokens_coding)
        if test:
            plan = with_only(plan, test)
        if repeats is not None:
            plan = replace(plan, repeats=repeats, most_repeats=repeats)
        if time_limit is not None:
            plan = replace(plan, seconds=time_limit)
        typed = ["stride", *_without_secrets(sys.argv[1:])]
        store = Store.create(out, Manifest(typed, _machine(), targets or [ServedModel(None, ctx_size, memory)], plan))
    _measure(store, api_key, require, unsafe)


@app.command()
def replay(
    folder: Folder,
    out: Out = Path("stride-report"),
    api_key: ApiKey = None,
    require: Require = None,
    unsafe: Unsafe = False,
) -> None:
    """Measure again what a folder's manifest says: the same targets, tests, seeds and repeats."""
    from dataclasses import replace

    from stride.bench.store import Store
    from stride.errors import StrideError

    if folder.resolve() == out.resolve():
        raise StrideError(f"{out} holds the measurement that is to be repeated: --out must be another folder")
    earlier = Store.open(folder).manifest
    _measure(Store.create(out, replace(earlier, machine=_machine(), servers={})), api_key, require, unsafe)


@app.command()
def regrade(folder: Folder, require: Require = None, unsafe: Unsafe = False) -> None:
    """Grade the stored answers again and write the report anew; nothing is measured."""
    from stride.bench.store import Store

    store = Store.open(folder)
    store.regrade(_graders(unsafe))
    _finish(store, require)


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(metavar="A", help="A measurement's folder.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Another's.")],
    check: Annotated[bool, typer.Option("--check", help="Exit status 3 where something became worse.")] = False,
) -> None:
    """Compare two measurements: ratios of medians with their intervals."""
    from stride.bench.compare import differences, figures_of
    from stride.bench.store import Store
    from stride.cli.bench_tables import show_differences, show_passes
    from stride.errors import StrideError

    old, new = (
        [target for target in Store.open(folder).results.targets if target.measured] for folder in (before, after)
    )
    by_label = {target.label: target for target in old}
    pairs = [(by_label[target.label], target) for target in new if target.label in by_label]
    if not pairs and len(old) == len(new) == 1:
        pairs = [(old[0], new[0])]
    if not pairs:
        names = [", ".join(target.label for target in targets) or "nothing" for targets in (old, new)]
        raise StrideError(f"{before} and {after} have no target in common: {names[0]}; {names[1]}")
    worse = False
    for first, second in pairs:
        found = list(differences(figures_of(first), figures_of(second)))
        worse = worse or any(difference.verdict == "worse" for difference in found)
        title = first.label if first.label == second.label else f"{first.label} → {second.label}"
        show_differences(title, found)
        show_passes(first, second)
    if check and worse:
        raise typer.Exit(MISSED)


@app.command()
def leaderboard(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of measurements.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The page.")] = Path("leaderboard.html"),
) -> None:
    """Rank the targets of many measurements on one page."""
    from stride.bench.leaderboard import leaderboard as ranked
    from stride.bench.report import to_html
    from stride.bench.store import Store

    out.write_text(to_html("Leaderboard", ranked([Store.open(folder) for folder in folders])), "utf-8")
    print(out)


def _graders(unsafe: bool) -> Graders:
    from stride.bench.graders.coding import CodingGrader
    from stride.bench.tasks import grade_tools

    return {"coding": CodingGrader(unsafe), "tools": grade_tools}


def _machine() -> dict[str, Any]:
    from datetime import datetime

    from stride.bench.machine import machine

    return {**machine(), "date": datetime.now().astimezone().isoformat(timespec="seconds")}


def _measure(store: Store, api_key: str | None, require: list[str] | None, unsafe: bool) -> None:
    from dataclasses import replace

    from rich.console import Console

    from stride.bench.history import History, default_path
    from stride.bench.measure import measure
    from stride.bench.targets import Url

    targets = [replace(t, api_key=api_key) if isinstance(t, Url) else t for t in store.manifest.targets]
    plan = store.manifest.plan
    console = Console(stderr=True, highlight=False)
    n_requests = plan.n_requests * len(targets)
    repeats = f"{plan.repeats}" + (f" to {plan.most_repeats}" if plan.most_repeats > plan.repeats else "")
    what = f"{repeats} repeats of {len(plan.tasks)} tests"
    what += f", {plan.suite_seeds} of the tool suite" if plan.suite_seeds else ""
    console.print(f"{plan.level}: {what}; about {n_requests} requests")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # servers that were started are stopped, whoever ends it
    with _Watch(console, store, n_requests) as watch:
        measure(targets, store.results, watch, _graders(unsafe))
    store.over()
    if not store.results.interrupted and any(target.measured for target in store.results.targets):
        History(default_path()).add(store)
    _finish(store, require)


def _finish(store: Store, require: list[str] | None) -> None:
    """Write the report, and end as the results deserve."""
    from stride.bench.measures import requirement
    from stride.bench.report import write_report
    from stride.errors import StrideError

    results = store.results
    files = write_report(results, store.manifest.machine, store.manifest.command, store.folder)
    for name in ("report.html", "report.md", "report.json"):
        print(files[name])
    if results.interrupted:
        print(f"interrupted: go on with stride bench --resume {store.folder}", file=sys.stderr)
        raise typer.Exit(130)
    failed = [target for target in results.targets if not target.measured]
    if failed:
        reasons = "; ".join(f"{target.label}: {target.error or 'no run could be counted'}" for target in failed)
        raise StrideError(f"could not be measured: {reasons}")
    missed = [miss for text in require or () for miss in requirement(text).misses(results)]
    for miss in missed:
        print(f"missed: {miss}", file=sys.stderr)
    if missed:
        raise typer.Exit(MISSED)


class _Watch:
    """A progress bar on a terminal; a line for each run everywhere; the store's hand."""

    def __init__(self, console: Console, store: Store, total: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = console
        self._store = store
        self._n_requests = {task.name: task.n_requests for task in store.manifest.plan.tasks}
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        done = sum(
            sum(self._n_requests[run.task] for run in target.runs if run.repeat and run.fault is None)
            + sum(_n_turns(case) for case in target.cases if case.fault is None)
            for target in store.results.targets
        )
        self._task = self._bar.add_task("starting", total=total, completed=done)

    def __enter__(self) -> _Watch:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def status(self, text: str) -> None:
        self._bar.update(self._task, description=text)

    def connected(self, target: TargetResult) -> None:
        self._store.connected(target)

    def estimated(self, seconds: float, at_most: bool) -> None:
        shown = f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
        if at_most:
            self._console.print(f"{shown} from here, if every answer is as long as it may be")
        else:
            self._console.print(f"about {shown} from here, if all repeats are like the first")

    def finished(self, run: Run) -> None:
        from stride.bench.figures import rate, seconds

        self._store.finished(run)
        self._bar.advance(self._task, self._n_requests.get(run.task, 1))
        what = "warm-up" if run.repeat == 0 else f"{run.task} {run.repeat}"
        if run.fault is not None:
            line = f"failed: {run.fault}"
        else:
            line = (
                f"{rate(run.generation_rate)} tok/s, {run.completion_tokens} tokens in {seconds(run.reply.times.end)}"
            )
            line += f", {run.grade.score}" if run.grade else ""
        self._console.print(f"{run.target}, {what}: {line}", markup=False, soft_wrap=True)

    def played(self, target: TargetResult, case: CaseResult) -> None:
        self._store.played(target, case)
        self._bar.advance(self._task, _n_turns(case))
        said = f"failed: {case.fault}" if case.fault else case.grade.score
        self._console.print(f"{target.label}, {case.kind} {case.seed}: {said}", markup=False, soft_wrap=True)


def _n_turns(case: CaseResult) -> int:
    """Requests of a conversation that goes to its end."""
    from stride.bench.suite.play import find

    return len(find(case.kind, case.seed).steps)


def _without_secrets(arguments: list[str]) -> list[str]:
    """The command line as it may be published."""
    shown: list[str] = []
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if shown and shown[-1] in SECRET_OPTIONS:
            shown.append("…")
        else:
            shown.append(f"{name}=…" if equals and name in SECRET_OPTIONS else argument)
    return shown

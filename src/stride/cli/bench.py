"""The deep dive: speed, coding, tools and memory, written up as a report.

Without -m and --url it measures the embedded demo model. Several targets take turns and are compared. A model is served
for as long as it is measured; a URL is any OpenAI-compatible server: llama-server, Ollama, LM Studio, vLLM, Stride.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from stride.bench.measure import Run

DEMO_REPEATS = 3
REPEATS = 5
DEMO_SECONDS = 90.0
SECRET_OPTIONS = ("--api-key",)


def command(
    model: Annotated[
        list[str] | None,
        typer.Option("-m", "--model", metavar="MODEL", help="GGUF file, folder or pulled repository; repeatable."),
    ] = None,
    url: Annotated[
        list[str] | None, typer.Option("--url", metavar="URL", help="OpenAI-compatible server; repeatable.")
    ] = None,
    model_name: Annotated[
        list[str] | None,
        typer.Option("--model-name", metavar="ID", help="Model to ask each URL for; repeatable. Default: its first."),
    ] = None,
    api_key: Annotated[str | None, typer.Option("--api-key", metavar="KEY", help="Sent to each URL.")] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the report goes.")] = Path("stride-report"),
    repeats: Annotated[
        int | None, typer.Option("--repeats", metavar="N", help="Runs per test. Default: 5; 3 for the demo.", min=1)
    ] = None,
    ctx_size: Annotated[
        int | None, typer.Option("-c", "--ctx-size", metavar="N", help="Tokens of context of models served.", min=1)
    ] = None,
    time_limit: Annotated[
        float | None,
        typer.Option("--time-limit", metavar="S", help="No repeat begins that would end later. Demo: 90.", min=0),
    ] = None,
    max_tokens_coding: Annotated[
        int, typer.Option("--max-tokens-coding", metavar="N", help="Token limit of the coding test.", min=1)
    ] = 2000,
) -> None:
    from dataclasses import replace
    from datetime import datetime

    from rich.console import Console

    from stride.bench.machine import machine
    from stride.bench.measure import measure
    from stride.bench.report import write_report
    from stride.bench.targets import ServedModel, Target, Url
    from stride.bench.tasks import CODING, TASKS
    from stride.errors import StrideError

    targets: list[Target] = [ServedModel(name, ctx_size) for name in model or ()]
    targets += [Url(address, name, api_key) for address in url or () for name in model_name or (None,)]
    demo = not targets
    if demo:
        targets = [ServedModel(None, ctx_size)]
    tasks = [replace(task, max_tokens=max_tokens_coding) if task is CODING else task for task in TASKS]
    n = repeats or (DEMO_REPEATS if demo else REPEATS)
    if time_limit is None:
        time_limit = DEMO_SECONDS if demo else math.inf
    host = {**machine(), "date": datetime.now().astimezone().isoformat(timespec="seconds")}
    console = Console(stderr=True, highlight=False)
    with _Watch(console, len(targets) * (1 + n * len(tasks))) as watch:
        results = measure(targets, tasks, n, watch, time_limit)
    files = write_report(results, host, ["stride", *_without_secrets(sys.argv[1:])], out)
    for name in ("report.html", "report.md", "report.json"):
        print(files[name])
    if results.interrupted:
        console.print("interrupted: the report holds the runs that were over")
        raise typer.Exit(130)
    failed = [target for target in results.targets if not target.measured]
    if failed:
        reasons = "; ".join(f"{target.label}: {target.error or 'no run could be counted'}" for target in failed)
        raise StrideError(f"could not be measured: {reasons}")


class _Watch:
    """A progress bar on a terminal; a line for each run everywhere."""

    def __init__(self, console: Console, total: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=total)

    def __enter__(self) -> _Watch:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def status(self, text: str) -> None:
        self._bar.update(self._task, description=text)

    def finished(self, run: Run) -> None:
        from stride.bench.figures import rate, seconds

        self._bar.advance(self._task)
        what = "warm-up" if run.repeat == 0 else f"{run.task} {run.repeat}"
        if run.fault is not None:
            line = f"failed: {run.fault}"
        else:
            line = f"{rate(run.decode_rate)} tok/s, {run.completion_tokens} tokens in {seconds(run.reply.times.end)}"
            line += f", {run.grade.score}" if run.grade else ""
        self._console.print(f"{run.target}, {what}: {line}", markup=False, soft_wrap=True)


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

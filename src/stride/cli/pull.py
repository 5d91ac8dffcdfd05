"""Download a model from Hugging Face: resumed after any interruption, verified by SHA-256, pinned to one commit.

REPO is org/name, or org/name:QUANTISATION (as in ubergarm/Step-3.5-Flash-GGUF:IQ4_XS). HF_ENDPOINT names another hub,
HF_TOKEN or `hf auth login` gives access to private and gated repositories.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer


def command(
    repo: Annotated[str, typer.Argument(metavar="REPO", help="org/name or org/name:QUANTISATION.")],
    include: Annotated[
        list[str] | None,
        typer.Option("--include", metavar="PATTERN", help="Only files that match, as in 'IQ4_XS/*'; may be repeated."),
    ] = None,
    revision: Annotated[str, typer.Option("--revision", metavar="REV", help="Branch, tag or commit.")] = "main",
    local_dir: Annotated[
        Path | None,
        typer.Option("--local-dir", metavar="DIR", help="Folder to download to. Default: Hugging Face's cache."),
    ] = None,
) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from stride.hub import local
    from stride.hub.repo import free_space, layout, look_up, pull
    from stride.hub.variants import gib, variants

    name, tag = local.split_name(repo)
    listing = look_up(name, revision)
    files = listing.select(include or (), tag)
    target = layout(listing, local_dir)
    missing, free = free_space(target, files)

    print(f"{name} at commit {listing.commit[:12]}:", file=sys.stderr)
    for file in files:
        print(f"  {file.path}  {gib(file.size)}", file=sys.stderr)
    print(
        f"{gib(sum(file.size for file in files))} in {len(files)} files; {gib(missing)} to download, {gib(free)} free",
        file=sys.stderr,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
    console = Console(stderr=True)
    bars = Progress(
        *columns, TransferSpeedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal
    )
    with bars:
        tasks = {file.path: bars.add_task(file.path, total=file.size) for file in files}
        paths = pull(
            target,
            files,
            progress=lambda path, have: bars.update(tasks[path], completed=have),
            notify=lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True),
        )

    by_name = dict(zip((file.path for file in files), paths, strict=True))
    for model in variants((file.path, file.size) for file in files):
        print(f"stride serve -m {shlex.quote(str(by_name[model.paths[0]]))}")

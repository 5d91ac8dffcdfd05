"""The command line: one file per command, each imported only when it is needed."""

from __future__ import annotations

import importlib
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from stride import __version__
from stride.errors import StrideError

COMMANDS = {
    "run": "One completion to stdout, timings to stderr.",
    "chat": "Talk with a model in the terminal.",
    "serve": "Serve a model over HTTP, as llama-server and OpenAI do.",
    "bench": "The deep dive: speed, coding, tools and memory, written up as a report.",
    "speed": "Prompt and generation speed, measured as llama-bench does.",
    "perplexity": "Perplexity of a text file under a model.",
    "inspect": "What is in a model file, what it needs, and whether it fits here.",
    "plan": "Before downloading: what a model needs, whether it fits, how fast it will be.",
    "experts": "How a model routes, and which cache of its experts finds most.",
    "pull": "Download a model from Hugging Face.",
    "pack": "Keep a model as the kernels want it, so that it starts at once.",
}


class LazyGroup(TyperGroup):
    """Lists all commands without importing them; imports ``stride.cli.NAME`` when NAME is called."""

    _listing = False

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self._listing = True  # only names and one line of each are asked for from here on
        super().format_help(ctx, formatter)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        app = typer.Typer(add_completion=False)
        if self._listing:
            app.command(cmd_name, help=COMMANDS[cmd_name])(lambda: None)
            return typer.main.get_command(app)
        module = importlib.import_module(f"stride.cli.{cmd_name}")
        if hasattr(module, "app"):  # a command with commands of its own
            return typer.main.get_group(module.app)
        app.command(cmd_name, cls=getattr(module, "COMMAND_CLASS", None), help=module.__doc__)(module.command)
        return typer.main.get_command(app)


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    help="Run Step 3.5 Flash and its smaller neighbours on the machine you own; serve them; measure them.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"stride {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main(args: list[str] | None = None) -> Any:
    """Entry point of ``stride``. Errors that Stride raises on purpose are one line on stderr, exit status 1."""
    try:
        return app(args)
    except StrideError as error:
        print(f"stride: {error}", file=sys.stderr)
        sys.exit(1)

"""Takes llama-server's own flags out of a command line, so that the rest can be parsed as usual."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from typing import Any

from typer.core import TyperCommand

from stride.cli.llama_flags import FOREIGN, Foreign
from stride.errors import StrideError


class LlamaServerCommand(TyperCommand):
    """A command that also takes llama-server's flags: those without effect say so once, on stderr."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = {name: not getattr(p, "is_flag", False) for p in self.params for name in (*p.opts, *p.secondary_opts)}
        rest, notes = split(args, {**own, "--help": False, "-h": False})
        for note in notes:
            print(f"stride: {note}", file=sys.stderr)
        return super().parse_args(ctx, rest)


def split(
    args: Iterable[str], own: dict[str, bool], foreign: Iterable[Foreign] = FOREIGN
) -> tuple[list[str], list[str]]:
    """The arguments without foreign flags, and one note for each of those.

    Args:
        own: the command's own flags, and whether a value follows.

    Raises:
        StrideError: a flag that nobody knows, with the nearest that somebody does; or one that cannot be honoured.
    """
    rows = {name: row for row in foreign for name in row.names}
    rest: list[str] = []
    notes: dict[str, str] = {}
    waiting = list(args)
    while waiting:
        arg = waiting.pop(0)
        name, equals, value = arg.partition("=")
        if name in own:
            rest.append(arg)
            if own[name] and not equals:
                rest += _take(waiting, 1)
        elif name in rows:
            row = rows[name]
            wanted = row.value == "one" or (row.value == "optional" and waiting[:1] != [] and waiting[0][:1] != "-")
            values = [value] if equals else _take(waiting, int(wanted))
            if not row.harmless:
                raise StrideError(f"{name}: llama-server knows it, stride does not: {row.reason}")
            notes[name] = f"{' '.join([name, *values])}: no effect here: {row.reason}"
        elif arg.startswith("-") and arg != "-":
            near = difflib.get_close_matches(name, [*own, *rows], n=1, cutoff=0.5)
            raise StrideError(f"there is no option {name}" + (f"; did you mean {near[0]}?" if near else ""))
        else:
            rest.append(arg)
    return rest, list(notes.values())


def _take(waiting: list[str], n: int) -> list[str]:
    taken = waiting[:n]
    del waiting[:n]
    return taken

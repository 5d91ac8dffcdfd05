"""llama-server's flags on our command lines."""

from __future__ import annotations

import pytest

from stride.cli.foreign import split
from stride.cli.llama_flags import FOREIGN
from stride.errors import StrideError

OWN = {"-m": True, "--model": True, "-c": True, "--ctx-size": True, "--insecure": False, "--port": True}


def test_the_posts_command_line():
    args = ["-m", "model.gguf", "--port", "8090", "-ngl", "99", "-c", "8192", "--no-warmup"]
    rest, notes = split(args, OWN)
    assert rest == ["-m", "model.gguf", "--port", "8090", "-c", "8192"]
    assert [note.split(":")[0] for note in notes] == ["-ngl 99", "--no-warmup"]


@pytest.mark.parametrize(
    ("args", "rest", "flags"),
    [
        ("-ngl 99 -ngl 50", "", ["-ngl 50"]),
        ("--n-gpu-layers=99 -c 5", "-c 5", ["--n-gpu-layers 99"]),
        ("-fa -c 5", "-c 5", ["-fa"]),
        ("-fa on -c 5", "-c 5", ["-fa on"]),
        ("-c 5 -fa", "-c 5", ["-fa"]),
        ("-c -1 --insecure", "-c -1 --insecure", []),
        ("-m -ngl", "-m -ngl", []),
        ("--model=-x", "--model=-x", []),
        ("extra", "extra", []),
    ],
)
def test_values_stay_with_their_flags(args, rest, flags):
    left, notes = split(args.split(), OWN)
    assert left == rest.split()
    assert [note.split(":")[0] for note in notes] == flags


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--ctx-sise", "there is no option --ctx-sise; did you mean --ctx-size?"),
        ("--n-gpu-layer", "did you mean --n-gpu-layers?"),
        ("-nglx", "did you mean -ngl?"),
        ("--zzzzzz", "there is no option --zzzzzz$"),
        ("--lora", "--lora: llama-server knows it, stride does not"),
    ],
)
def test_flags_that_are_errors(flag, message):
    with pytest.raises(StrideError, match=message.replace("?", r"\?")):
        split([flag, "1"], OWN)


def test_no_flag_stands_twice_in_the_table():
    names = [name for row in FOREIGN for name in row.names]
    assert len(names) == len(set(names))
    assert all(row.reason for row in FOREIGN)


def test_no_foreign_flag_hides_one_of_serves_own():
    import typer

    from stride.cli import serve

    app = typer.Typer(add_completion=False)
    app.command(cls=serve.COMMAND_CLASS)(serve.command)
    own = {name for parameter in typer.main.get_command(app).params for name in parameter.opts}
    assert own.isdisjoint(name for row in FOREIGN for name in row.names)

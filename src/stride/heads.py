"""The heads of models, wherever they lie: on this machine, or on the hub, of which a few bytes are fetched."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from stride.errors import ModelFileError, StrideError
from stride.gguf import GGUFFile, open_gguf, open_sources
from stride.hub import Variant, local, resolve, variants

FIRST_PART = 1 << 20
"""Bytes asked of a file first: its vocabulary alone takes more."""
OTHER_PARTS = 64 << 10
"""Of the other parts of a split model, which list tensors and nothing else."""
N_WORKERS = 4


@dataclass(frozen=True, slots=True)
class Head:
    """One model. ``problem`` says why there is no ``file`` to look at; ``name`` is by which people call it."""

    name: str
    n_bytes: int
    file: GGUFFile | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Heads:
    """Models of one place. ``disk`` is where their weights lie, or will; ``n_fetched`` bytes came over the network."""

    source: str
    disk: Path
    models: tuple[Head, ...]
    n_fetched: int = 0


@contextmanager
def open_heads(model: str, revision: str = "main") -> Iterator[Heads]:
    """A file, a folder that holds a model, or a repository (``org/name``, all its models; ``org/name:TAG``, one).

    Raises:
        StrideError: there is no such thing, no network, no access, no GGUF model in it, a server that sends whole files
            only, or no model of which the head could be read.
    """
    path = Path(model).expanduser()
    if path.exists() or path.is_symlink() or not local.is_name(model):
        with open_gguf(resolve(model)) as file:
            largest = max(file.paths, key=lambda part: part.stat().st_size)
            yield Heads(str(path), largest, (Head(file.paths[0].name, file.n_bytes, file),))
        return
    yield _on_hub(*local.split_name(model), revision)


def _on_hub(name: str, tag: str | None, revision: str) -> Heads:
    from stride.hub.remote import HubFile
    from stride.hub.repo import connect, look_up

    repo = look_up(name, revision)
    by_path = {file.path: file for file in repo.files}
    found = [one for one in variants((f.path, f.size) for f in repo.files) if tag is None or one.matches(tag)]
    if not found:
        raise StrideError(f"{name} holds no GGUF model" + (f" named {tag!r}" if tag else ""))
    with closing(connect()) as source, ThreadPoolExecutor(N_WORKERS) as pool:

        def files(one: Variant) -> list[HubFile]:
            return [
                HubFile(name, by_path[path], source, OTHER_PARTS if i else FIRST_PART)
                for i, path in enumerate(one.paths)
            ]

        opened = [files(one) for one in found]

        def head(i: int) -> Head:
            one = found[i]
            try:
                return Head(_name(one, found), one.n_bytes, open_sources(opened[i]))
            except ModelFileError as error:
                return Head(_name(one, found), one.n_bytes, None, str(error))

        models = tuple(pool.map(head, range(len(found))))
    if all(one.file is None for one in models):
        raise StrideError(models[0].problem)
    n_fetched = sum(file.n_fetched for parts in opened for file in parts)
    return Heads(f"{name} at commit {repo.commit[:12]}", local.cache_folder(), models, n_fetched)


def _name(one: Variant, among: list[Variant]) -> str:
    """The quantisation, or the file's name where several models have the same."""
    return one.tag if sum(other.tag == one.tag for other in among) == 1 else one.stem

"""Where pulled models lie: Hugging Face's own cache folder, so that other tools' downloads are found too."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from stride.errors import StrideError
from stride.hub.variants import choose, variants

_NAME = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)(?::(?P<tag>[\w.-]+))?")


def split_name(name: str) -> tuple[str, str | None]:
    """``org/name`` or ``org/name:TAG`` as repository and tag.

    Raises:
        StrideError: it is neither.
    """
    match = _NAME.fullmatch(name)
    if not match:
        raise StrideError(f"{name!r} is no repository: expected org/name or org/name:QUANTISATION")
    return match["repo"], match["tag"]


def is_name(text: str) -> bool:
    """Whether `split_name` takes it."""
    return _NAME.fullmatch(text) is not None


def cache_folder() -> Path:
    """Hugging Face's cache, found as its own library finds it (HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME)."""
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(os.path.expandvars(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub"))).expanduser()


def repo_folder(repo: str) -> Path:
    """The cache's folder of one model repository, with its ``blobs``, ``refs`` and ``snapshots``."""
    return cache_folder() / f"models--{repo.replace('/', '--')}"


def resolve(model: str) -> Path:
    """A model's path: an existing path is itself; ``org/name[:TAG]`` is looked up among pulled repositories.

    Raises:
        StrideError: there is no such file, and no such pulled repository; says what to pull.
    """
    path = Path(model).expanduser()
    if path.exists() or path.is_symlink():  # opening a broken link says what is wrong with it
        return path
    if not _NAME.fullmatch(model):
        raise StrideError(f"there is no {model}")
    repo, tag = split_name(model)
    for snapshot in _snapshots(repo):
        files = ((p.relative_to(snapshot).as_posix(), p.stat().st_size) for p in snapshot.rglob("*.gguf") if p.exists())
        found = variants(files)
        if any(tag is None or variant.matches(tag) for variant in found):
            return snapshot / choose(found, repo, tag).paths[0]
    raise StrideError(
        f"there is no file {model}, and no such pulled model in {cache_folder()}; to download it: stride pull {model} "
        "(a model pulled with --local-dir is named by its path)"
    )


def _snapshots(repo: str) -> Iterator[Path]:
    """Snapshots of a repository: what ``main`` was when last pulled, then the others, newest first."""
    folder = repo_folder(repo)
    main = folder / "refs" / "main"
    current = folder / "snapshots" / main.read_text().strip() if main.is_file() else None
    if current is not None and current.is_dir():
        yield current
    others = [path for path in folder.glob("snapshots/*") if path != current]
    yield from sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)

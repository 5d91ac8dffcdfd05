"""A repository on the hub: its files at one commit, and pulling some of them."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Protocol

from filelock import FileLock, Timeout
from huggingface_hub import HfApi, constants, get_token, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.errors import HTTPError as HubHTTPError  # type: ignore[attr-defined]  # base of its network errors
from huggingface_hub.hf_api import RepoFile

from stride import __version__
from stride.errors import StrideError
from stride.hub import local
from stride.hub.download import NO_ACCESS, Place, Progress, RemoteFile, Source, download
from stride.hub.variants import choose, gib, variants

N_WORKERS = 4
LOCK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Repo:
    """A repository at one commit; ``revision`` is the name by which the commit was asked for."""

    name: str
    revision: str
    commit: str
    files: tuple[RemoteFile, ...]

    def select(self, patterns: Sequence[str], tag: str | None) -> tuple[RemoteFile, ...]:
        """Files that match a pattern (as in ``IQ4_XS/*``); without patterns the one model there is, or ``tag`` names.

        Raises:
            StrideError: nothing matches, or there are several models; lists them.
        """
        found = variants((file.path, file.size) for file in self.files)
        if patterns:
            chosen = {f.path for f in self.files if any(fnmatchcase(f.path, p) for p in patterns)}
            if not chosen:
                listing = "".join(f"\n  {v.stem}* {gib(v.n_bytes)}" for v in found)
                raise StrideError(f"{self.name} has no file that matches {', '.join(patterns)}{listing}")
        else:
            chosen = set(choose(found, self.name, tag).paths)
        return tuple(file for file in self.files if file.path in chosen)


def look_up(name: str, revision: str = "main") -> Repo:
    """List a repository; its revision is resolved to a commit first, and everything comes from that commit.

    Raises:
        StrideError: there is no such repository or revision, no access, no network, or a file name that leads outside.
    """
    api = HfApi(library_name="stride", library_version=__version__)
    try:
        commit = api.model_info(name, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT).sha
        if commit is None or not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise StrideError(f"the hub names no commit for {name} at {revision}, but {commit!r}")
        entries = list(api.list_repo_tree(name, revision=commit, recursive=True))
    except HFValidationError as error:
        raise StrideError(f"{name!r} is no repository: {error}") from error
    except RevisionNotFoundError as error:
        raise StrideError(f"{name} has no revision {revision!r}") from error
    except GatedRepoError as error:
        raise StrideError(f"{constants.ENDPOINT}/{name} is closed: {NO_ACCESS}") from error
    except RepositoryNotFoundError as error:
        raise StrideError(
            f"there is no {name} on {constants.ENDPOINT}, or it is private (`hf auth login` or HF_TOKEN gives access)"
        ) from error
    except (HubHTTPError, OSError) as error:
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        raise StrideError(f"{constants.ENDPOINT} does not answer for {name}: {first_line}") from error
    files = [
        RemoteFile(
            path=safe_path(entry.path),
            size=entry.lfs.size if entry.lfs else entry.size,
            digest=_digest(entry),
            url=hf_hub_url(name, entry.path, revision=commit, endpoint=constants.ENDPOINT),
        )
        for entry in entries
        if isinstance(entry, RepoFile)
    ]
    return Repo(name, revision, commit, tuple(files))


class Layout(Protocol):
    """Where the files of a pull go."""

    def place(self, file: RemoteFile) -> Place: ...

    def lock(self, file: RemoteFile) -> Path:
        """The lock that huggingface_hub takes for the same file, so that both wait for each other."""

    def publish(self, file: RemoteFile) -> Path:
        """Give a file that is in its place the name by which it is used."""


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """Hugging Face's cache: ``blobs/DIGEST``, and ``snapshots/COMMIT/NAME`` linking to them."""

    repo: Repo

    def place(self, file: RemoteFile) -> Place:
        blob = local.repo_folder(self.repo.name) / "blobs" / file.digest
        return Place(blob, blob.with_name(f"{file.digest}.incomplete"))

    def lock(self, file: RemoteFile) -> Path:
        return local.cache_folder() / ".locks" / local.repo_folder(self.repo.name).name / f"{file.digest}.lock"

    def publish(self, file: RemoteFile) -> Path:
        folder = local.repo_folder(self.repo.name)
        if self.repo.revision != self.repo.commit:
            ref = folder / "refs" / self.repo.revision
            ref.parent.mkdir(parents=True, exist_ok=True)
            ref.write_text(self.repo.commit)
        link = folder / "snapshots" / self.repo.commit / file.path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(self.place(file).final, link.parent))
        return link


@dataclass(frozen=True, slots=True)
class FolderLayout:
    """A folder of the user's: each file under its own name, book-keeping in ``.cache/huggingface`` beside."""

    folder: Path

    def place(self, file: RemoteFile) -> Place:
        return Place(self.folder / file.path, self._beside(f"{file.path}.{file.digest[:16]}.incomplete"))

    def lock(self, file: RemoteFile) -> Path:
        return self._beside(f"{file.path}.lock")

    def publish(self, file: RemoteFile) -> Path:
        return self.place(file).final

    def _beside(self, name: str) -> Path:
        return self.folder / ".cache" / "huggingface" / "download" / name


def layout(repo: Repo, local_dir: Path | None) -> Layout:
    """Hugging Face's cache, or a folder."""
    return CacheLayout(repo) if local_dir is None else FolderLayout(local_dir.expanduser().absolute())


def free_space(layout: Layout, files: Sequence[RemoteFile]) -> tuple[int, int]:
    """Bytes that a pull will still add, and bytes that the disk has free.

    Raises:
        StrideError: the disk is too small.
    """
    places = [(file, layout.place(file)) for file in files]
    missing = sum(file.size - max(_size(p.partial), _size(p.final) == file.size and file.size) for file, p in places)
    folder = next(parent for parent in places[0][1].final.parents if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise StrideError(f"the download needs {gib(missing)}, but the disk of {folder} has {gib(free)} free")
    return missing, free


def connect() -> Source:
    """The hub, with the user's credentials where there are some."""
    token = get_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return Source(constants.ENDPOINT, headers, timeout=float(constants.HF_HUB_DOWNLOAD_TIMEOUT))


def pull(layout: Layout, files: Sequence[RemoteFile], progress: Progress, notify: Callable[[str], None]) -> list[Path]:
    """Download files, some side by side; gives their paths in order. Safe to repeat and to run twice at once.

    ``progress`` and ``notify`` (a line for the user) are called from several threads.

    Raises:
        StrideError: a download failed; the others are stopped where they are.
    """
    source = connect()
    stopped = threading.Event()

    def go_on(path: str) -> None:
        if stopped.is_set():
            raise StrideError(f"{path}: stopped")

    def report(path: str, have: int) -> None:
        go_on(path)
        progress(path, have)

    @contextmanager
    def alone(file: RemoteFile, lock: FileLock) -> Iterator[None]:
        """Wait until nobody else downloads a file, in this process or another."""
        try:
            lock.acquire(timeout=0)
        except Timeout:
            notify(f"{file.path} is being downloaded by somebody else; waiting")
            while not lock.is_locked:
                go_on(file.path)
                with suppress(Timeout):
                    lock.acquire(timeout=LOCK_SECONDS)
        try:
            yield
        finally:
            lock.release()

    def one(file: RemoteFile) -> Path:
        place, lock = layout.place(file), layout.lock(file)
        try:
            for folder in (place.final.parent, place.partial.parent, lock.parent):
                folder.mkdir(parents=True, exist_ok=True)
            with alone(file, FileLock(lock)):
                download(file, place, source, report)
            return layout.publish(file)
        except OSError as error:
            raise StrideError(f"{file.path} cannot be kept: {error}") from error

    with closing(source), ThreadPoolExecutor(N_WORKERS) as pool:
        futures = [pool.submit(one, file) for file in files]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def safe_path(path: str) -> str:
    """A file name from the hub, refused where it would lead out of the folder that it is put in."""
    windows = PureWindowsPath(path)
    if not path.isprintable() or ".." in windows.parts or windows.anchor or PurePosixPath(path).is_absolute():
        raise StrideError(f"the repository has a file named {path!r}, which leads outside of its folder; refused")
    return path


def _digest(entry: RepoFile) -> str:
    """What the hub says a file's content is. Becomes part of file names, so nothing but hexadecimal will do."""
    digest = entry.lfs.sha256 if entry.lfs else entry.blob_id
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", digest):
        raise StrideError(f"the hub gives {entry.path} the digest {digest!r}, which is none; refused")
    return digest

"""The prefix cache across restarts: a file for each node of its trees.

Files are named by what they hold (a digest of scope and tokens), each is written whole or not at all. They lie in a
folder of their own for all that makes keys and values what they are: model, backend, their type. What is damaged is
taken away; what has no room in memory stays for a process that has more. All folders together hold so many bytes at
most: the files that were longest not written or loaded go first. Prompts lie there as token ids: others may not look.

A file: 16 bytes of magic, the BLAKE2b digest (32 bytes) of what follows: a line of JSON, and the pages' bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, BinaryIO

import numpy as np
import psutil

from stride.engine.prefix import Node, PrefixCache
from stride.engine.runner import Runner
from stride.ops.api import PAGE_TOKENS, ByteArray

MAGIC = b"stride prefix 1\n"
SUFFIX = ".prefix"
_FOLDER = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"[0-9a-f]{64}" + re.escape(SUFFIX))
DISK_BYTES = 16 << 30
"""Bytes of all files in the folder, of every identity, at most."""
SAVE_EVERY = 4
"""Steps, between which a node is written although there is work."""
CLOSE_SECONDS = 20.0
"""How long a process that ends may still write."""
_PARTIAL = re.compile(r"\.(\d+)\.partial")
_LONGEST_HEADER = 64 << 10
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of its node. ``scope`` is set where the parent is a root; ``pages``: which groups have one."""

    parent: bytes
    scope: bytes | None
    tokens: bytes
    pages: tuple[bool, ...]


class PrefixStore:
    """Keeps the nodes of a prefix cache in files. Used by the engine's thread only; a disk that fails ends it, no more.

    Args:
        folder: where; made if it is not there. Files of other ``identity`` are left alone, while there is room.
        identity: names the model, backend and type of the cache: whatever must be equal for pages to be of use.
    """

    def __init__(self, folder: Path, identity: str, prefixes: PrefixCache, runner: Runner) -> None:
        self._all = folder
        self._n_bytes = 0  # in the folder, as far as this process knows
        self._n_steps = 0
        self._folder = folder / hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
        self._prefixes = prefixes
        self._runner = runner
        self._page_bytes = runner.page_bytes
        self._unsaved: dict[Node, None] = {}
        self._failed = False

    # --- writing ---

    def added(self, node: Node) -> None:
        """A node has come to hold one page more: it is to be written."""
        if not self._failed:
            self._unsaved[node] = None

    def removed(self, node: Node) -> None:
        """A node is no longer in its tree: its file goes too."""
        self._unsaved.pop(node, None)
        try:
            self._path(node.digest).unlink(missing_ok=True)
        except OSError as error:
            self._fail(error)

    def evicted(self, node: Node) -> None:
        """A node is no longer in its tree: its file stays."""
        self._unsaved.pop(node, None)

    def stepped(self) -> None:
        """The engine has computed a step and has more to do: of every few, one is followed by writing a node."""
        self._n_steps += 1
        if self._n_steps % SAVE_EVERY == 0:
            self.save_one()

    def save_one(self) -> bool:
        """Write a node that has not been written; False if there is none."""
        node = next(iter(self._unsaved), None)
        if node is None:
            return False
        del self._unsaved[node]
        try:
            self._write(node)
        except OSError as error:
            self._fail(error)
        return True

    def save_all(self) -> None:
        """Write what has not been written, as far as `CLOSE_SECONDS` go."""
        end = perf_counter() + CLOSE_SECONDS
        while self.save_one():
            if perf_counter() > end:
                _log.warning("%d nodes of the prefix cache were not written: no time", len(self._unsaved))
                return

    def _write(self, node: Node) -> None:
        parent = node.parent
        assert parent is not None, "a root holds nothing"
        header = {
            "parent": parent.digest.hex(),
            "scope": parent.tokens.hex() if parent.parent is None else None,
            "tokens": node.tokens.hex(),
            "pages": [page >= 0 for page in node.pages],
        }
        parts = [json.dumps(header).encode() + b"\n"]
        parts += [self._runner.read_page(i, page).tobytes() for i, page in enumerate(node.pages) if page >= 0]
        partial = self._folder / f".{os.getpid()}.partial"
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(MAGIC + _digest(parts))
            file.writelines(parts)
            n_bytes = file.tell()
        os.replace(partial, self._path(node.digest))
        self._n_bytes += n_bytes
        if self._n_bytes > DISK_BYTES:
            self._make_room()

    def _make_room(self) -> None:
        """Take away files where there are too many bytes, until a tenth of the room is free; and folders left empty."""
        stats = {path: stat for path in self._all.glob(f"*/*{SUFFIX}") if (stat := _stat(path))}
        self._n_bytes = sum(stat.st_size for stat in stats.values())
        if self._n_bytes > DISK_BYTES:
            for path in _longest_unused({path: stat.st_mtime_ns for path, stat in stats.items()}):
                path.unlink(missing_ok=True)
                self._n_bytes -= stats[path].st_size
                if self._n_bytes <= DISK_BYTES * 9 // 10:
                    break
        for folder in self._all.iterdir():
            if _FOLDER.fullmatch(folder.name) and folder != self._folder and not any(folder.iterdir()):
                folder.rmdir()

    def _remove_partial(self) -> None:
        """Take away what processes that are no more were writing when they ended."""
        for path in self._all.glob("*/.*.partial"):
            if (match := _PARTIAL.fullmatch(path.name)) and not psutil.pid_exists(int(match[1])):
                path.unlink(missing_ok=True)

    def _fail(self, error: OSError) -> None:
        if not self._failed:
            _log.warning("the prefix cache is no longer kept in %s: %s", self._folder, error)
        self._failed = True
        self._unsaved.clear()

    def _path(self, digest: bytes) -> Path:
        return self._folder / (digest.hex() + SUFFIX)

    # --- reading ---

    def load(self) -> None:
        """Read what is there, the latest first, as long as pages are free; then keep up with the cache."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._remove_partial()
            self._make_room()
            found = [entry for entry in os.scandir(self._folder) if _NAME.fullmatch(entry.name)]
            found.sort(key=lambda entry: -entry.stat().st_mtime_ns)
        except OSError as error:
            self._fail(error)
            return
        headers: dict[bytes, Header] = {}
        damaged: set[bytes] = set()
        for entry in found:
            digest = bytes.fromhex(entry.name.removesuffix(SUFFIX))
            try:
                with open(entry.path, "rb") as file:
                    headers[digest] = self._read_header(file)
            except (OSError, ValueError):
                damaged.add(digest)
        loaded: dict[bytes, Node | None] = {}
        for digest in headers:
            self._load_with_ancestors(digest, headers, loaded, damaged)
        for entry in reversed(found):
            if loaded.get(bytes.fromhex(entry.name.removesuffix(SUFFIX))) is not None:
                os.utime(entry.path)  # it is of use: other identities' files go first
        for digest in damaged:
            self._path(digest).unlink(missing_ok=True)
        if damaged:
            _log.warning(
                "%d of %d files of the prefix cache in %s were damaged, and are gone",
                len(damaged),
                len(found),
                self._folder,
            )
        n_left = len(found) - len(damaged) - sum(node is not None for node in loaded.values())
        if n_left:
            _log.info("%d of %d files of the prefix cache in %s had no room", n_left, len(found), self._folder)
        self._prefixes.reverse()
        self._prefixes.watcher = self

    def _load_with_ancestors(
        self, digest: bytes, headers: dict[bytes, Header], loaded: dict[bytes, Node | None], damaged: set[bytes]
    ) -> None:
        chain: dict[bytes, Header] = {}
        while digest in headers and digest not in loaded and digest not in chain:
            chain[digest] = headers[digest]
            digest = headers[digest].parent
        parent = loaded.get(digest)
        for digest, header in reversed(chain.items()):
            if header.scope is not None:
                parent = self._prefixes.root(header.scope)
            elif header.parent in damaged or header.parent not in headers:
                damaged.add(digest)  # nothing leads to it
            parent = None if parent is None else self._load(digest, header, parent, damaged)
            loaded[digest] = parent

    def _load(self, digest: bytes, header: Header, parent: Node, damaged: set[bytes]) -> Node | None:
        """The node of a file, if the file is whole (else it is noted as damaged) and there is room."""
        try:
            with open(self._path(digest), "rb") as file:
                pages = self._read(file, header)
        except (OSError, ValueError):
            damaged.add(digest)
            return None
        node = self._prefixes.insert(parent, header.tokens, header.pages)
        if node is None:
            return None
        if node.digest != digest:  # a file under another's name
            self._prefixes.remove(node)
            damaged.add(digest)
            return None
        for index, data in enumerate(pages):
            if data is not None and node.pages[index] >= 0:
                self._runner.write_page(index, node.pages[index], data)
        return node

    def _read(self, file: BinaryIO, header: Header) -> list[ByteArray | None]:
        """The pages of a file. Raises ValueError if anything is not as it was written."""
        file.seek(len(MAGIC))
        digest, content = file.read(32), file.read()
        if digest != _digest([content]):
            raise ValueError("the digest is another")
        data = np.frombuffer(content, np.uint8, offset=content.index(b"\n") + 1)
        sizes = [n if has else 0 for n, has in zip(self._page_bytes, header.pages, strict=True)]
        if len(data) != sum(sizes):
            raise ValueError("the pages are of another size")
        parts = np.split(data, np.cumsum(sizes)[:-1])
        return [part if has else None for part, has in zip(parts, header.pages, strict=True)]

    def _read_header(self, file: BinaryIO) -> Header:
        """Raises ValueError for anything but a file of ours."""
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError("the file begins otherwise")
        file.seek(len(MAGIC) + 32)
        try:
            value: Any = json.loads(file.readline(_LONGEST_HEADER))
            scope = None if value["scope"] is None else bytes.fromhex(value["scope"])
            tokens = bytes.fromhex(value["tokens"])
            header = Header(bytes.fromhex(value["parent"]), scope, tokens, tuple(value["pages"]))
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError("the header is none") from error
        n_tokens, partial = divmod(len(tokens), 4)
        if partial or not 1 <= n_tokens <= PAGE_TOKENS or not self._fits(header.pages):
            raise ValueError("the header is none")
        return header

    def _fits(self, pages: Sequence[object]) -> bool:
        return len(pages) == len(self._page_bytes) and all(type(has) is bool for has in pages) and any(pages)


def _digest(parts: Sequence[bytes]) -> bytes:
    digest = hashlib.blake2b(digest_size=32)
    for part in parts:
        digest.update(part)
    return digest.digest()


def _longest_unused(times: Mapping[Path, int]) -> list[Path]:
    """Files by the last use of them and of what goes on from them, the oldest first, each behind those."""
    parents = {path: _parent(path) for path in times}
    latest = dict(times)
    depths = dict.fromkeys(times, 0)
    for path in sorted(times, key=lambda one: -times[one]):
        parent, depth = parents[path], 1
        while parent in latest and (latest[parent] < latest[path] or depths[parent] < depth):
            latest[parent], depths[parent] = max(latest[parent], latest[path]), max(depths[parent], depth)
            parent, depth = parents[parent], depth + 1
            if depth > len(times):  # a ring, which nobody wrote in earnest
                break
    return sorted(times, key=lambda one: (latest[one], depths[one]))


def _parent(path: Path) -> Path | None:
    """The file that one of any identity goes on from."""
    try:
        with open(path, "rb") as file:
            file.seek(len(MAGIC) + 32)
            return path.with_name(json.loads(file.readline(_LONGEST_HEADER))["parent"] + SUFFIX)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _stat(path: Path) -> os.stat_result | None:
    """None where another process has taken the file away."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None

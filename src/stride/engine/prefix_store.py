"""The prefix cache across restarts: a file for each node of its trees.

Files are named by what they hold (a digest of scope and tokens), each is written whole or not at all, and goes with its
node. They lie in a folder of their own for all that makes keys and values what they are: model, backend, their type.
What is damaged or does not fit is passed over and taken away. Prompts lie there as token ids: others may not look.

A file: 16 bytes of magic, the BLAKE2b digest (32 bytes) of what follows: a line of JSON, and the pages' bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from stride.engine.prefix import Node, PrefixCache
from stride.engine.runner import Runner
from stride.ops.api import PAGE_TOKENS, ByteArray

MAGIC = b"stride prefix 1\n"
SUFFIX = ".prefix"
_NAME = re.compile(r"[0-9a-f]{64}" + re.escape(SUFFIX))
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
        folder: where; made if it is not there. Files of other ``identity`` are left alone.
        identity: names the model, backend and type of the cache: whatever must be equal for pages to be of use.
    """

    def __init__(self, folder: Path, identity: str, prefixes: PrefixCache, runner: Runner) -> None:
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
        """Write all that has not been written."""
        while self.save_one():
            pass

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
        os.replace(partial, self._path(node.digest))

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
            found = [entry for entry in os.scandir(self._folder) if _NAME.fullmatch(entry.name)]
            found.sort(key=lambda entry: -entry.stat().st_mtime_ns)
        except OSError as error:
            self._fail(error)
            return
        headers: dict[bytes, Header] = {}
        for entry in found:
            try:
                with open(entry.path, "rb") as file:
                    headers[bytes.fromhex(entry.name.removesuffix(SUFFIX))] = self._read_header(file)
            except (OSError, ValueError):
                continue
        loaded: dict[bytes, Node | None] = {}
        for digest in headers:
            self._load_with_ancestors(digest, headers, loaded)
        for entry in found:
            if loaded.get(bytes.fromhex(entry.name.removesuffix(SUFFIX))) is None:
                Path(entry.path).unlink(missing_ok=True)
        n_loaded = sum(node is not None for node in loaded.values())
        if n_loaded < len(found):
            _log.warning(
                "%d of %d files of the prefix cache in %s were damaged or had no room, and are gone",
                len(found) - n_loaded,
                len(found),
                self._folder,
            )
        self._prefixes.reverse()
        self._prefixes.watcher = self

    def _load_with_ancestors(
        self, digest: bytes, headers: dict[bytes, Header], loaded: dict[bytes, Node | None]
    ) -> None:
        chain: dict[bytes, Header] = {}
        while digest in headers and digest not in loaded and digest not in chain:
            chain[digest] = headers[digest]
            digest = headers[digest].parent
        parent = loaded.get(digest)
        for digest, header in reversed(chain.items()):
            if header.scope is not None:
                parent = self._prefixes.root(header.scope)
            parent = None if parent is None else self._load(digest, header, parent)
            loaded[digest] = parent

    def _load(self, digest: bytes, header: Header, parent: Node) -> Node | None:
        """The node of a file, if the file is whole and there is room."""
        try:
            with open(self._path(digest), "rb") as file:
                pages = self._read(file, header)
        except (OSError, ValueError):
            return None
        node = self._prefixes.insert(parent, header.tokens, header.pages)
        if node is None:
            return None
        if node.digest != digest:  # a file under another's name
            self._prefixes.remove(node)
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

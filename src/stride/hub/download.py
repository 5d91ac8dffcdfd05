"""One file over HTTP, resumed and verified: its name appears only after its digest matched.

huggingface_hub's own download starts again from zero in a new process and checks sizes, not digests, of plain HTTP
transfers; so it lists, signs in and locks here, and the bytes are this file's.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import httpx

from stride.errors import StrideError
from stride.hub.variants import gib

CHUNK = 1 << 20
SEGMENT = 16 << 30
"""Bytes asked for at once: content networks refuse to send more than 50 GB in one reply."""
RETRIES = 5
"""Attempts in a row that bring nothing before a download gives up."""
MAX_REDIRECTS = 5
NO_ACCESS = "give the consent it asks for on the repository's page, then `hf auth login` or set HF_TOKEN"

Progress = Callable[[str, int], None]
"""Called with (path, bytes that are here)."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of one commit. ``digest`` in hex: SHA-256 (64 digits, LFS files) or git's blob SHA-1 (40 digits)."""

    path: str
    size: int
    digest: str
    url: str

    def hasher(self) -> hashlib._Hash:
        return hashlib.sha256() if len(self.digest) == 64 else hashlib.sha1(b"blob %d\0" % self.size)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file goes: its final name, and the name it bears until it is whole and verified. One file system."""

    final: Path
    partial: Path


class Source:
    """HTTP with the hub's credentials, which are sent to ``endpoint`` and to nobody else."""

    def __init__(self, endpoint: str, headers: Mapping[str, str], timeout: float, retry_wait: float = 1.0) -> None:
        self.endpoint = httpx.URL(endpoint)
        self.retry_wait = retry_wait
        self._headers = dict(headers)
        self._client = httpx.Client(timeout=timeout)

    def close(self) -> None:
        self._client.close()

    @contextmanager
    def stream(self, url: str, start: int, stop: int) -> Iterator[httpx.Response]:
        """A reply with bytes start to stop - 1, redirects followed.

        Raises:
            StrideError: a redirect to where it must not lead.
            httpx.HTTPError: the network failed, or the server refused.
        """
        target = httpx.URL(url)
        for _ in range(MAX_REDIRECTS + 1):
            headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
            if _origin(target) == _origin(self.endpoint):
                headers |= self._headers
            with self._client.stream("GET", target, headers=headers) as response:
                if not response.has_redirect_location:
                    yield response.raise_for_status()
                    return
                target = response.url.join(response.headers["location"])
                self._check_redirect(target)
        raise StrideError(f"{url} redirects more than {MAX_REDIRECTS} times")

    def _check_redirect(self, target: httpx.URL) -> None:
        if target.scheme != "https" and target.scheme != self.endpoint.scheme:
            raise StrideError(f"the hub redirects to {target.scheme}://{target.host}, which is not encrypted; refused")
        if target.host == self.endpoint.host:
            return
        try:
            found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpx.ConnectError(f"{target.host}: {error.strerror}") from error
        for *_, address in found:
            if not ipaddress.ip_address(address[0]).is_global:
                raise StrideError(f"the hub redirects to {target.host}, a private address ({address[0]}); refused")


def download(file: RemoteFile, place: Place, source: Source, progress: Progress) -> None:
    """Make ``place.final`` the file, from what is there, what is half there, and the hub. Hold a lock while calling.

    Raises:
        StrideError: no network, a refusal, no space, or bytes that are wrong twice. What came is kept for a retry,
            unless it is wrong.
    """
    try:
        if place.final.is_file() and _digest(file, place.final, progress) == file.digest:
            return
        for _ in range(2):
            if _fill(file, place.partial, source, progress) == file.digest:
                os.replace(place.partial, place.final)
                return
            place.partial.unlink()
    except OSError as error:
        free = _free_bytes(place.partial.parent)
        raise StrideError(
            f"{file.path} cannot be written: {error.strerror} ({place.partial}; {gib(free)} free on that disk). "
            "What has been downloaded is kept: run the same command again to continue"
        ) from error
    raise StrideError(
        f"{file.path} came damaged twice: its digest is not {file.digest}, as the hub says. Nothing of it was kept"
    )


def _fill(file: RemoteFile, partial: Path, source: Source, progress: Progress) -> str:
    """Complete a partial file and give its digest; the empty string where more came than there should be."""
    failures = 0
    partial.touch()
    with partial.open("r+b") as out:
        hasher, have = _take_in(file, out, progress)
        while have < file.size:
            before = have
            try:
                with source.stream(file.url, have, min(have + SEGMENT, file.size)) as response:
                    if have and not _continues(response, have):
                        out.seek(0)
                        out.truncate()
                        hasher, have = file.hasher(), 0
                    for chunk in response.iter_raw(CHUNK):
                        out.write(chunk)
                        hasher.update(chunk)
                        have += len(chunk)
                        progress(file.path, have)
                        if have > file.size:
                            return ""
                problem: str = "the connection closed early"
            except httpx.HTTPStatusError as error:
                status = error.response.status_code
                if status < 500 and status not in (408, 429):
                    hint = f": {NO_ACCESS}" if status in (401, 403) else ""
                    raise StrideError(f"{file.path}: the hub answers {status}{hint}") from error
                problem = f"the hub answers {status}"
            except httpx.TransportError as error:
                problem = str(error) or type(error).__name__
            failures = 0 if have > before else failures + 1
            if failures > RETRIES:
                raise StrideError(
                    f"{file.path}: {problem}, {failures} times in a row at byte {have} of {file.size}. "
                    "What has been downloaded is kept: run the same command again to continue"
                )
            if failures:
                time.sleep(source.retry_wait * 2 ** (failures - 1))
        out.flush()
        os.fsync(out.fileno())
        return hasher.hexdigest()


def _take_in(file: RemoteFile, out: BinaryIO, progress: Progress) -> tuple[hashlib._Hash, int]:
    """Hash what an earlier attempt left, and stand at its end. More than the whole file is thrown away."""
    hasher, have, there = file.hasher(), 0, os.fstat(out.fileno()).st_size
    if there > file.size:
        out.truncate(0)
        there = 0
    while have < there:
        chunk = out.read(min(CHUNK, there - have))
        hasher.update(chunk)
        have += len(chunk)
        progress(file.path, have)
    return hasher, have


def _continues(response: httpx.Response, start: int) -> bool:
    """Whether a reply starts at the byte asked for; servers may ignore Range and send all."""
    return response.status_code == 206 and response.headers.get("content-range", "").startswith(f"bytes {start}-")


def _digest(file: RemoteFile, path: Path, progress: Progress) -> str:
    with path.open("rb") as found:
        if os.fstat(found.fileno()).st_size != file.size:
            return ""
        return _take_in(file, found, progress)[0].hexdigest()


def _free_bytes(folder: Path) -> int:
    info = os.statvfs(folder)
    return info.f_bavail * info.f_frsize


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port

"""A file on the hub, read in pieces by range requests: so that a model's head can be looked at before it is pulled."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt

from stride.errors import ModelFileError, StrideError
from stride.hub.download import NO_ACCESS, RemoteFile, Source
from stride.hub.variants import gib

RETRIES = 2
"""Attempts after the first one that fails."""
STEP = 2 << 20
"""By how much the part of a file that has been read grows."""


class HubFile:
    """A file to read from, as `stride.gguf`'s reader wants it.

    Args:
        repo: the repository's name.
        file: one of its files.
        source: whom to ask.
        first_read: bytes that are asked for to begin with.

    Attributes:
        path: names the file in errors.
        n_fetched: bytes that came so far.
    """

    def __init__(self, repo: str, file: RemoteFile, source: Source, first_read: int) -> None:
        self.path = Path(repo, file.path)
        self.size = file.size
        self.n_fetched = 0
        self._file = file
        self._source = source
        self._first_read = first_read

    def close(self) -> None:
        """Nothing is open between two reads."""

    def ahead(self, have: int, end: int) -> int:
        return max(end, have + STEP if have else self._first_read)

    def read(self, offset: int, n_bytes: int, tensor: str | None = None) -> npt.NDArray[np.uint8]:
        """Fetch some bytes: uint8 [n_bytes].

        Raises:
            StrideError: no network, a refusal, or a server that sends whole files only.
            ModelFileError: the file is not as long as the hub says.
        """
        for failures in range(RETRIES + 1):
            if failures:
                time.sleep(self._source.retry_wait * 2 ** (failures - 1))
            try:
                data = self._fetch(offset, n_bytes)
            except httpx.HTTPStatusError as error:
                status = error.response.status_code
                if status < 500 and status not in (408, 429):
                    hint = f": {NO_ACCESS}" if status in (401, 403) else ""
                    raise StrideError(f"{self.path}: the hub answers {status}{hint}") from error
                problem = f"the hub answers {status}"
            except httpx.TransportError as error:
                problem = str(error) or type(error).__name__
            else:
                if len(data) == n_bytes:
                    return np.frombuffer(data, np.uint8)
                problem = "the connection closed early"
        raise StrideError(f"{self.path}: {problem}, {RETRIES + 1} times in a row at byte {offset}")

    view = read

    def _fetch(self, offset: int, n_bytes: int) -> bytes:
        with self._source.stream(self._file.url, offset, offset + n_bytes) as response:
            if response.status_code != 206:
                raise StrideError(
                    f"{self.path}: {response.url.host} sends whole files only, no parts of them (it ignores Range), so "
                    f"that looking at the head would be to download {gib(self.size)}: refused. Pull it, and plan "
                    "from the file"
                )
            where, _, whole = response.headers.get("content-range", "").partition("/")
            if not where.startswith(f"bytes {offset}-"):
                raise StrideError(f"{self.path}: asked for byte {offset}, the hub sends {where!r}")
            if whole not in (str(self.size), "*"):
                raise ModelFileError(f"the hub lists {self.size} bytes, but the file has {whole}", path=self.path)
            data = bytearray()
            for chunk in response.iter_raw():
                data += chunk
                self.n_fetched += len(chunk)
                if len(data) > n_bytes:
                    raise StrideError(f"{self.path}: the hub sends more than the {n_bytes} bytes that were asked for")
            return bytes(data)

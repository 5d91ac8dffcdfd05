"""A name for the content of a model's files that takes milliseconds: for what is kept beside them and must fit them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from stride.errors import ModelFileError

SAMPLES = 64
SAMPLE_BYTES = 16 << 10


def fingerprint(paths: Sequence[Path]) -> str:
    """A digest of each file's size, time, beginning and samples all over it: another after any change but a forged one.

    Raises:
        ModelFileError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with open(path, "rb") as file:
                status = os.fstat(file.fileno())
                digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
                for i in range(SAMPLES):
                    file.seek(status.st_size * i // SAMPLES)
                    digest.update(file.read(SAMPLE_BYTES))
        except OSError as error:
            raise ModelFileError(f"cannot be read: {error}", path=path) from error
    return digest.hexdigest()

"""The packages that a generated web application may use: fetched once, then there without a network."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from stride.errors import StrideError

PACKAGES = (
    *("fastapi==0.165.0", "uvicorn==0.54.0", "starlette==1.10.0", "pydantic==2.14.4", "sqlalchemy==2.1.9"),
    *("sqlmodel==0.0.50", "aiosqlite==0.22.1", "greenlet==3.5.6", "databases==0.9.0", "peewee==4.5.3"),
    *("python-multipart==0.0.34", "email-validator==2.4.0", "python-dotenv==1.2.4", "pydantic-settings==2.16.3"),
    *("fastapi-pagination==0.16.1", "h11==0.16.0", "ruff==0.17.6"),
)
"""What is installed, so that a verdict today is a verdict tomorrow."""


class PackagesError(StrideError):
    """The packages cannot be had here; says why and what to do."""


def packages() -> Path:
    """The folder they are in, installed if this is the first time.

    ``STRIDE_BENCH_WHEELS`` names a folder of wheels to install from where there is no network.

    Raises:
        PackagesError: they cannot be installed.
    """
    folder = _cache() / f"packages-{_identity()}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    wheels = os.environ.get("STRIDE_BENCH_WHEELS")
    source = ["--no-index", "--find-links", wheels] if wheels else []
    new = Path(tempfile.mkdtemp(prefix="new-", dir=folder.parent))
    new.chmod(0o755)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-warn-conflicts"]
    command += ["--only-binary=:all:", *source, "--target", os.fspath(new), *PACKAGES]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if "ERROR" in line] or ["pip failed"]
            raise PackagesError(
                f"the packages that generated code may use cannot be installed ({said[-1].strip()}): the network is "
                "needed once, or STRIDE_BENCH_WHEELS with a folder of their wheels"
            )
        try:
            new.rename(folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PackagesError(f"the packages that generated code may use cannot be installed: {error}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return folder


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "stride", "bench").expanduser()


def _identity() -> str:
    wanted = "\n".join((sys.version, *PACKAGES))
    return hashlib.sha256(wanted.encode()).hexdigest()[:16]

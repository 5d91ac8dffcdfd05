"""Starts an answer's application in a sandbox, on a Unix socket, and uses it from outside."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import httpx

from stride.bench.graders import Check
from stride.bench.graders.behaviour import FAULTS, WEIGHTS, check, complete, still_there, use
from stride.bench.graders.project import Project
from stride.bench.sandbox import FilesError, Limits, NotServingError, Running, Sandbox, workspace
from stride.bench.sandbox.launch import PYTHON

SOCKET = "app.sock"
CLOSE = {"Connection": "close"}
START_SECONDS = 15.0
LIMITS = Limits(seconds=60.0)
FAULT = re.compile(
    r"^(?:.*\b(?:\w*Deprecat\w*|MovedIn20Warning|RemovedIn\w*|RemovedIn20Warning): .*|\w*(?:Error|Exception)\b.*"
    r"|[\w.]+\.\w*(?:Error|Exception): .*)$",
    re.M,
)
"""Lines of a log that tell of a deprecated call, or of an error."""
RESTART, LOG = "Survives a restart", "No errors or deprecations in its log"
LINT = ("check", "--isolated", "--no-cache", "--output-format", "concise", "--select", "E9,F63,F7,F82", ".")


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where answers are run: a sandbox, and the packages that they may use."""

    sandbox: Sandbox
    packages: Path

    def run(self, project: Project) -> Sequence[Check]:
        """Every check of a project that is used, `behaviour.WEIGHTS`, and what a linter says of it.

        Raises:
            SandboxError: the sandbox failed, which is not the code's fault.
        """
        try:
            with workspace(project.files) as folder:
                lint = self._lint(folder)
                return [*self._use(project, folder), lint]
        except FilesError as error:
            return [*complete({}, str(error)), _lint_check(False, str(error))]

    def _use(self, project: Project, folder: Path) -> Sequence[Check]:
        app = project.app
        if app is None:
            return complete({}, "; ".join(project.syntax_errors) or "no FastAPI application is made in the answer")
        checks: dict[str, Check] = {}
        log = ""
        try:
            with self._served(project, folder) as (http, address, running):
                try:
                    checks, kept = use(http, address)
                    checks["Starts"] = check("Starts", lambda: f"{app.module}:{app.name}")
                finally:
                    log = running.output
            if kept is not None:
                with self._served(project, folder) as (http, address, running):
                    checks[RESTART] = check(RESTART, partial(still_there, http, address, kept))
                    log += running.output
        except (NotServingError, *FAULTS) as error:
            why = _last_words(error, log)
            if "Starts" not in checks:
                return complete({}, why)
            return complete({**checks, LOG: _log_check(log)}, why)
        return complete({**checks, LOG: _log_check(log)}, "nothing could be created")

    @contextmanager
    def _served(self, project: Project, folder: Path) -> Iterator[tuple[httpx.Client, str, Running]]:
        """The application while it runs: a client of it, and its socket.

        Raises:
            NotServingError: it does not listen; with the last words of its log, or the limit that it broke.
        """
        app = project.app
        assert app is not None
        paths = [folder, folder.joinpath(*PurePosixPath(app.file).parts[:-1]), self.packages]
        command = [os.fspath(PYTHON), "-m", "uvicorn", f"{app.module}:{app.name}", "--uds", SOCKET]
        command += ["--no-access-log", *(["--factory"] if app.factory else [])]
        environment = {"PYTHONPATH": os.pathsep.join(map(os.fspath, paths)), "PYTHONWARNINGS": "default"}
        with self.sandbox.start(command, folder, LIMITS, [self.packages], environment) as running:
            try:
                address = running.address(SOCKET, START_SECONDS)
            except NotServingError as error:
                raise NotServingError(_last_words(error, running.output)) from error
            # A connection for each request: what one of them broke is not the next one's fault.
            transport = httpx.HTTPTransport(uds=address)
            with httpx.Client(
                transport=transport, base_url="http://app", timeout=10, follow_redirects=True, headers=CLOSE
            ) as http:
                try:
                    yield http, address, running
                except httpx.HTTPError as error:
                    ended = running.ended
                    if ended is not None and ended.reason:
                        raise NotServingError(f"it was ended: {ended.reason}") from error
                    raise
        (folder / SOCKET).unlink(missing_ok=True)

    def _lint(self, folder: Path) -> Check:
        ended = self.sandbox.run(
            [os.fspath(self.packages / "bin" / "ruff"), *LINT],
            folder,
            LIMITS,
            [self.packages],
            {"RAYON_NUM_THREADS": "2"},
        )
        said = " / ".join(ended.output.split("\n")[:3])
        return _lint_check(ended.status == 0, "ruff finds none" if ended.status == 0 else said)


def _lint_check(passed: bool, evidence: str) -> Check:
    return Check("No undefined names", passed, evidence, 0.5)


def _log_check(log: str) -> Check:
    found = list(dict.fromkeys(match[0].strip() for match in FAULT.finditer(log)))
    return Check(LOG, not found, " / ".join(found[:4]) or "none", WEIGHTS[LOG])


def _last_words(error: Exception, log: str) -> str:
    """Why there was nothing to use, with the error that the log ends in, if it ends in one."""
    lines = [line.strip() for line in log.splitlines()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exit)\b", line)]
    return f"{error}: {errors[-1]}" if errors and errors[-1] not in str(error) else str(error)

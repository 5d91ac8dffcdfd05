"""A measurement's folder: the manifest, and every raw output as soon as there is one.

``manifest.json`` says what is measured, on what and how, enough to do it again. ``runs.jsonl`` is a journal: one line
for each target that was reached and each run that was over, so that what was interrupted can go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pydantic
from pydantic import TypeAdapter

from stride.bench.plan import Plan
from stride.bench.results import Results, Run, TargetResult
from stride.bench.suite.play import CaseResult, regrade
from stride.bench.targets import TargetSpec
from stride.bench.tasks import Graders
from stride.errors import StrideError

FORMAT = 2
MANIFEST, JOURNAL = "manifest.json", "runs.jsonl"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is measured: ``command`` is what was typed, keys left out; ``machine`` has the ``date``.

    ``servers``: of each target that was reached, by its label, what answered there: versions, flags, hashes.
    """

    command: Sequence[str]
    machine: dict[str, Any]
    targets: Sequence[TargetSpec]
    plan: Plan
    format: int = FORMAT
    servers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A line of the journal: the target of that index as it is known now (without what it did), a run, a case, or how
    the measurement ended."""

    index: int
    target: TargetResult | None = None
    run: Run | None = None
    case: CaseResult | None = None
    time_is_up: bool | None = None


_MANIFEST = TypeAdapter(Manifest)
_ENTRY = TypeAdapter(_Entry)


@dataclass(slots=True)
class Store:
    """The folder of one measurement, new or opened again."""

    folder: Path
    manifest: Manifest
    results: Results = field(init=False)

    def __post_init__(self) -> None:
        self.results = Results(
            [TargetResult(target.label) for target in self.manifest.targets], self.manifest.plan, True
        )

    @classmethod
    def create(cls, folder: Path, manifest: Manifest) -> Store:
        """A new measurement; what the folder held of an earlier one is overwritten."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / JOURNAL).write_text("", "utf-8")
        store = cls(folder, manifest)
        store._write_manifest()
        return store

    @classmethod
    def open(cls, folder: Path) -> Store:
        """An earlier measurement with all that it has.

        Raises:
            StrideError: there is none, or it is damaged; names the file.
        """
        path = folder / MANIFEST
        try:
            store = cls(folder, _MANIFEST.validate_json(path.read_bytes()))
        except FileNotFoundError:
            raise StrideError(f"{folder} holds no measurement: there is no {MANIFEST} in it") from None
        except (OSError, pydantic.ValidationError) as error:
            raise StrideError(f"{path} cannot be read: {_first_line(error)}") from error
        store._read_journal()
        return store

    def connected(self, target: TargetResult) -> None:
        """Write down what is known of a target."""
        self._write(_Entry(self._index(target), target=_bare(target)))
        if target.url:
            self.manifest = replace(self.manifest, servers={**self.manifest.servers, target.label: _facts(target)})
            self._write_manifest()

    def finished(self, run: Run) -> None:
        """Write down a run."""
        [index] = [i for i, target in enumerate(self.results.targets) if target.label == run.target]
        self._write(_Entry(index, run=run))

    def played(self, target: TargetResult, case: CaseResult) -> None:
        """Write down a conversation of the tool suite."""
        self._write(_Entry(self._index(target), case=case))

    def over(self) -> None:
        """Write down how the measurement ended."""
        self._write(_Entry(0, time_is_up=self.results.time_is_up))

    def regrade(self, graders: Graders) -> None:
        """Grade every stored answer again, and write the journal anew."""
        for target in self.results.targets:
            target.runs = [self._graded(run, graders) for run in target.runs]
            target.cases = [regrade(case) for case in target.cases]
        entries: list[_Entry] = []
        for index, target in enumerate(self.results.targets):
            entries.append(_Entry(index, target=_bare(target)))
            entries += [_Entry(index, run=run) for run in target.runs]
            entries += [_Entry(index, case=case) for case in target.cases]
        entries.append(_Entry(0, time_is_up=self.results.time_is_up))
        whole = self.folder / f"{JOURNAL}.new"
        whole.write_bytes(b"".join(_ENTRY.dump_json(entry) + b"\n" for entry in entries))
        whole.replace(self.folder / JOURNAL)

    def _graded(self, run: Run, graders: Graders) -> Run:
        tasks = {task.name: task for task in self.manifest.plan.tasks}
        judged = run.counted and run.task in tasks
        return replace(run, grade=tasks[run.task].grade(run.reply.answer, graders) if judged else None)

    def _index(self, wanted: TargetResult) -> int:
        [index] = [i for i, target in enumerate(self.results.targets) if target is wanted]
        return index

    def _write_manifest(self) -> None:
        whole = self.folder / f"{MANIFEST}.new"
        whole.write_bytes(_MANIFEST.dump_json(self.manifest, indent=1))
        whole.replace(self.folder / MANIFEST)

    def _write(self, entry: _Entry) -> None:
        with (self.folder / JOURNAL).open("ab") as journal:
            journal.write(_ENTRY.dump_json(entry) + b"\n")

    def _read_journal(self) -> None:
        path = self.folder / JOURNAL
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError as error:
            raise StrideError(f"{path} cannot be read: {error}") from error
        whole, rest = lines[:-1], lines[-1]
        for number, line in enumerate(whole, 1):
            try:
                entry = _ENTRY.validate_json(line)
                target = self.results.targets[entry.index]
            except (pydantic.ValidationError, IndexError) as error:
                raise StrideError(f"{path}, line {number}: {_first_line(error)}") from error
            if entry.run is not None:
                target.runs.append(entry.run)
            if entry.time_is_up is not None:
                self.results.time_is_up = entry.time_is_up
            if entry.case is not None:
                target.add_case(entry.case)
            if entry.target is not None:
                self.results.targets[entry.index] = replace(entry.target, runs=target.runs, cases=target.cases)
        if rest:  # the program was ended in the middle of a line: that run is made again
            with path.open("rb+") as journal:
                journal.truncate(path.stat().st_size - len(rest))


def _facts(target: TargetResult) -> Mapping[str, Any]:
    """What tells one server from another that was asked the same."""
    return {
        "engine": target.engine,
        "build": target.props.get("build_info"),
        "command": list(target.typed),
        "n_ctx": target.n_ctx,
        "model": target.model,
        "model_hash": target.file.fingerprint if target.file else None,
        "template_hash": target.template_hash,
    }


def _bare(target: TargetResult) -> TargetResult:
    """What is known of a target, without what it did."""
    return replace(target, runs=[], cases=[])


def _first_line(error: Exception) -> str:
    if isinstance(error, pydantic.ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)

"""The report's sections, in the order of the post: one file for each group. Every figure comes from the results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from stride.bench import findings
from stride.bench.blocks import Block, Bullets, Section, Text
from stride.bench.results import Results
from stride.bench.sections.comparison import comparison
from stride.bench.sections.context import context
from stride.bench.sections.memory import memory
from stride.bench.sections.reference import quick_reference
from stride.bench.sections.setup import Machine, setup, summary
from stride.bench.sections.suite import tool_suite
from stride.bench.sections.tests import overview, post_test


def sections(results: Results, machine: Machine, command: Sequence[str], folder: Path) -> list[Section]:
    """The whole report of a measurement in ``folder``."""
    tests = enumerate(findings.post_tasks(results), 1)
    return [
        Section("TL;DR", list(summary(results))),
        Section("Hardware and setup", list(setup(results, machine, command))),
        Section("Benchmark results", list(overview(results))),
        *(Section(f"{number}. {task.title}", list(post_test(task, results)), level=3) for number, task in tests),
        *context(results),
        *tool_suite(results),
        Section("Comparison", list(comparison(results))),
        Section("Memory usage", list(memory(results))),
        Section("What works well", [_bullets(findings.works(results), "Nothing that the data could show.")]),
        Section("Limitations", [_bullets(findings.limitations(results, machine), "None that the data shows.")]),
        Section("Verdict", [_bullets(findings.verdict(results), "No generation speed was measured.")]),
        Section("Quick reference", list(quick_reference(results, command, folder))),
    ]


def _bullets(items: Iterator[str], otherwise: str) -> Block:
    found = list(items)
    return Bullets(found) if found else Text(otherwise)

"""The report: one offline page, the same in Markdown, all data in JSON; every figure from the data."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt

from stride.bench.client import Answer, Reply, Times
from stride.bench.graders import Check, Grade
from stride.bench.graders.coding import CodingGrader
from stride.bench.machine import machine
from stride.bench.memory import Memory
from stride.bench.plan import Plan
from stride.bench.report import write_report
from stride.bench.results import Results, Run, TargetResult
from stride.bench.servers import ModelFile
from stride.bench.tasks import CODING, POST_TASKS, SPEED, TOOL_CALLS, Task, grade_tools
from stride.types import ToolCall

GRADERS = {"coding": CodingGrader(), "tools": grade_tools}
HOSTILE = "</code></pre><script>alert(1)</script> ```\n# not | a heading\n![x](http://evil.example/x.png)"
MACHINE = {**machine(), "cpu": "Test CPU", "date": "2026-02-19T12:00:00+00:00", "load_average": [0.1, 0.1, 0.1]}
COMMAND = ["stride", "bench", "-m", "model with space.gguf"]


def run(
    task: Task, repeat: int, *, seconds: float = 4.0, answer: Answer | None = None, fault: str | None = None
) -> Run:
    answer = answer or Answer("Words.", "Thought.", (), "stop")
    times = Times(0.1, 0.2, 0.5, 0.2 + seconds, 0.25 + seconds)
    usage = {"prompt_tokens": 30, "completion_tokens": 201}
    timings = {"prompt_per_second": 250.0, "predicted_per_second": 201 / seconds}
    reply = Reply(answer, times, usage, timings, (0.2, 0.2 + seconds), fault)
    grade = task.grade(answer, GRADERS)
    return Run("tiny", task.name, repeat, repeat, "abcd1234", "2026-02-19T12:00:00+00:00", reply, grade, fault)


def target(label: str = "tiny", *, seconds: float = 4.0, answer: Answer | None = None) -> TargetResult:
    runs = [run(SPEED, 0)]
    runs += [run(task, repeat, seconds=seconds, answer=answer) for repeat in (1, 2, 3) for task in POST_TASKS]
    memory = Memory(
        42, "server", 90 << 20, 110 << 20, 105 << 20, 100 << 20, 180.0, 8 << 30, ((0.0, 90 << 20), (1.0, 110 << 20))
    )
    file = ModelFile(("/m/tiny.gguf",), 100 << 20, "Tiny", "", "ab" * 32)
    return TargetResult(
        label, "http://127.0.0.1:1", "tiny", ["python", "-m", "stride", "serve", "--port", "0"], 100 << 20, 1.5,
        {"kv_bytes": 4 << 20}, {}, file, memory, runs,
    )  # fmt: skip


def write(folder: Path, *targets: TargetResult, interrupted: bool = False) -> tuple[str, str, dict]:
    results = Results(list(targets), Plan("test", POST_TASKS, 3, 3), True, interrupted)
    files = write_report(results, MACHINE, COMMAND, folder)
    texts = {name: path.read_text("utf-8") for name, path in files.items()}
    return texts["report.html"], texts["report.md"], json.loads(texts["report.json"])


class Page(HTMLParser):
    """Tags with attributes, visible text, and whether tags nest."""

    VOID = frozenset({"meta", "br", "link", "img", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def headings(markdown: str) -> Sequence[str]:
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    return [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]


def test_the_page_loads_nothing_and_is_well_formed(tmp_path):
    html, _, _ = write(tmp_path, target())
    page = Page(html)
    assert page.open == []
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
    assert "url(" not in html
    assert "@import" not in html


def test_the_page_is_accessible(tmp_path):
    page = Page(write(tmp_path, target())[0])
    assert page.count("caption") == page.count("table") > 5
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    assert sum(attributes.get("role") == "img" for _, attributes in page.tags) == page.count("figure") == 3
    assert all(a.get("aria-label") for _, a in page.tags if a.get("role") == "img")
    assert ("html", {"lang": "en"}) in page.tags
    ids = [attributes["id"] for tag, attributes in page.tags if tag in ("h2", "h3")]
    assert len(ids) == len(set(ids)) == 12


def test_markdown_and_page_hold_the_posts_sections(tmp_path):
    html, markdown, _ = write(tmp_path, target())
    wanted = ["TL;DR", "Hardware and setup", "Benchmark results", "1. Raw speed", "2. Coding", "3. Tool calls"]
    wanted += ["Comparison", "Memory usage", "What works well", "Limitations", "Verdict", "Quick reference"]
    assert headings(markdown)[1:] == wanted
    for title in wanted:
        assert f">{title}</h" in html


def test_figures_are_those_of_the_data(tmp_path):
    _, markdown, data = write(tmp_path, target())
    assert "| **Generation speed, client (tok/s)** | 50.0 | 50.0 | 0.0% |" in markdown
    assert "| Generation speed, server (tok/s) | 50.2 | 50.2 | 0.0% |" in markdown
    assert "| Prompt processing, client's estimate (tok/s) | 150.0 |" in markdown
    assert "| First token of the answer | 500 ms |" in markdown
    assert "2,000 tokens take 40.00 s" in markdown
    assert "| **Total footprint** | **105 MiB** |" in markdown
    assert "**Memory as planned.** tiny: 105 MiB against 104 MiB" in markdown
    figures = data["targets"][0]["runs"][1]["figures"]
    assert figures["decode_rate"] == pytest.approx(50.0)
    assert figures["counted"]
    assert data["targets"][0]["runs"][1]["reply"]["answer"]["content"] == "Words."
    assert not data["targets"][0]["runs"][0]["figures"]["counted"]


def test_the_posts_rows_are_labelled_as_the_posts(tmp_path):
    _, markdown, _ = write(tmp_path, target())
    before, after = markdown.split("Published in the post, measured there and not here")
    assert "deepseek-r1" in after
    assert "deepseek-r1" not in before
    assert "M3 Ultra" not in before


def test_what_a_model_says_stays_text(tmp_path):
    hostile = Answer(HOSTILE, HOSTILE, (ToolCall("1", HOSTILE, HOSTILE),), "stop")
    spoiled = target(HOSTILE, answer=hostile)
    spoiled.runs.append(run(SPEED, 4, fault=HOSTILE))
    html, markdown, _ = write(tmp_path, spoiled)
    page = Page(html)
    assert page.open == []
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert HOSTILE.splitlines()[0] in "".join(page.words)
    assert "not | a heading" not in headings(markdown)
    for line in markdown.splitlines():
        if line.startswith("| ") and not line.startswith("| ---"):
            assert line.endswith(" |")


def test_failed_runs_are_shown_with_their_reason(tmp_path):
    spoiled = target()
    spoiled.runs.append(run(SPEED, 4, fault="HTTP 500: out of memory"))
    html, markdown, _ = write(tmp_path, spoiled)
    assert "| 4 | HTTP 500: out of memory |" in markdown
    assert "**Failed runs.** tiny: 1 of 11: HTTP 500: out of memory" in markdown
    assert "out of memory" in html


def test_a_target_that_could_not_be_measured_has_its_row(tmp_path):
    lost = TargetResult("lost", error="the server ended with status 1: no memory")
    _, markdown, _ = write(tmp_path, target(), lost)
    assert "**lost** could not be measured: the server ended with status 1: no memory" in markdown
    assert re.search(r"^\| \*\*lost\*\* \| — .*no memory \|$", markdown, re.M)
    alone, _, _ = write(tmp_path, lost)
    assert "could not be measured" in alone


def test_targets_are_compared(tmp_path):
    _, markdown, _ = write(tmp_path, target("slow"), target("fast", seconds=2.0))
    assert "| fast | 2.00× | 2.00× |" in markdown
    assert "fast is 2.00× as fast as slow" in markdown


def test_stand_in_weights_are_said_plainly(tmp_path):
    demo = target("demo")
    demo.file = ModelFile(("/d.gguf",), 1 << 20, "Stride demo", "Made with seeded, untrained weights.", "00")
    html, markdown, _ = write(tmp_path, demo)
    assert "**demo is a stand-in: its answers mean nothing, its speed and memory are real.**" in markdown
    assert "answers mean nothing" in html
    assert "answers mean nothing" not in write(tmp_path, target())[1]


def test_a_partial_report_says_so(tmp_path):
    started = target()
    started.runs = started.runs[:2]
    _, markdown, _ = write(tmp_path, started, interrupted=True)
    assert "this report is partial" in markdown
    assert "**Interrupted.**" in markdown
    nothing, _, _ = write(tmp_path, TargetResult("early"), interrupted=True)
    assert "no run was finished" in nothing


def test_charts_are_files_too(tmp_path):
    _, markdown, _ = write(tmp_path, target())
    for name in re.findall(r"\]\((\w+\.svg)\)", markdown):
        svg = ElementTree.fromstring((tmp_path / name).read_text("utf-8"))
        assert svg.tag.endswith("svg")
        assert "prefers-color-scheme:dark" in (tmp_path / name).read_text("utf-8")
    assert len(list(tmp_path.glob("*.svg"))) == 3


def test_code_that_was_not_run_is_said_so(tmp_path):
    grade = Grade("fail", "0.0 of 5", (Check("Not run", False, "no sandbox here", 0.0),), 0.0)
    runs = [replace(run(CODING, 1), grade=grade)]
    _, markdown, _ = write(tmp_path, replace(target(), runs=[*target().runs, *runs]))
    assert "The code was not run" in markdown
    assert {CODING.title, TOOL_CALLS.title} <= {heading[3:] for heading in headings(markdown)}

"""The report: one offline page, the same in Markdown, all data in JSON; every figure from the data."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
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
from stride.bench.suite.play import CaseResult, find
from stride.bench.suite.play import grade as grade_case
from stride.bench.tasks import CODING, POST_TASKS, SPEED, TOOL_CALLS, WARM, Task, deep, grade_tools
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
    arrivals = tuple(0.2 + seconds * piece / 200 for piece in range(201))
    reply = Reply(answer, times, usage, timings, arrivals, fault)
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
        "llama-server", "timings of each answer", {"kv_bytes": 4 << 20}, {}, file, memory, runs,
    )  # fmt: skip


def write(
    folder: Path, *targets: TargetResult, interrupted: bool = False, tasks: tuple[Task, ...] = POST_TASKS
) -> tuple[str, str, dict]:
    results = Results(list(targets), Plan("test", tasks, 3, 3), True, interrupted)
    files = write_report(results, MACHINE, COMMAND, folder)
    texts = {name: path.read_text("utf-8") for name, path in files.items() if path.suffix != ".png"}
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


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text("utf-8").splitlines()))


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
    assert sum(attributes.get("role") == "img" for _, attributes in page.tags) == page.count("figure") == 6
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
    assert "| tiny | 50.0 | 50.2 | -0.5% | 150.0 | 250.0 | timings of each answer |" in markdown
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
    assert "| fast | Generation | 50.0 | 100.0 | 2.00× | 2.00× | better |" in markdown
    assert "| fast | Memory | 105 MiB | 105 MiB | 1.00× |" in markdown
    assert "| **Generation speed, client (tok/s)** | 50.0 (50.0) | 100.0 (100.0) |" in markdown
    assert "fast is 2.00× as fast as slow (95% interval 2.00×)." in markdown


def test_a_difference_that_may_be_none_is_called_none(tmp_path):
    def uneven(label: str, *seconds: float) -> TargetResult:
        made = target(label)
        made.runs = [run(SPEED, repeat, seconds=found) for repeat, found in enumerate(seconds, 1)]
        return made

    _, markdown, _ = write(tmp_path, uneven("one", 4.0, 4.4, 5.0), uneven("two", 4.1, 4.5, 5.1))
    assert re.search(r"one is 1.02× as fast as two \(95% interval 0.\d+× to 1.\d+×\): no difference shown\.", markdown)


def test_prompt_speeds_of_two_clocks_are_not_compared(tmp_path):
    silent = target("silent")
    silent.runs = [replace(run, reply=replace(run.reply, timings=None)) for run in silent.runs]
    _, markdown, _ = write(tmp_path, target("telling"), silent)
    assert "| silent | First token |" in markdown
    assert "| silent | Prompt processing |" not in markdown


@pytest.mark.parametrize("told", [True, False])
def test_answers_in_bursts_have_the_servers_speed_or_none(tmp_path, told):
    bursting = target()
    for at, found in enumerate(bursting.runs):
        reply = replace(found.reply, arrivals=(0.2, 2.2, 4.2), timings=found.reply.timings if told else None)
        bursting.runs[at] = replace(found, reply=reply)
    _, markdown, data = write(tmp_path, bursting)
    figures = data["targets"][0]["runs"][1]["figures"]
    assert figures["decode_rate"] is None
    if told:
        assert "**50.2 tok/s** generation (server's figure)" in markdown
        assert "| **50.2** (server's figure) |" in markdown
        assert "3 of 3 answers of the speed test; the speeds are the server's own." in markdown
        assert "| tiny | not measurable | 50.2 | — |" in markdown
    else:
        assert "**tiny**: generation speed not measurable, " in markdown
        assert "3 of 3 answers of the speed test; their generation speed is not measurable." in markdown


def test_what_was_not_asked_for_is_not_spoken_of(tmp_path):
    fast = target()
    fast.runs = [found for found in fast.runs if found.task == SPEED.name]
    _, markdown, _ = write(tmp_path, fast, tasks=(SPEED,))
    summary = markdown[markdown.index("## TL;DR") : markdown.index("## Hardware")]
    verdict = markdown[markdown.index("## Verdict") : markdown.index("## Quick reference")]
    assert "coding" not in (summary + verdict).lower()
    assert "tool calls" not in (summary + verdict).lower()


def test_what_is_folded_is_printed(tmp_path):
    html, _, _ = write(tmp_path, target())
    printed = html[html.index("@media print") :]
    assert "details::details-content { content-visibility: visible;" in printed
    assert "details:not([open])" not in printed


def test_stand_in_weights_are_said_plainly(tmp_path):
    demo = target("demo")
    demo.file = ModelFile(("/d.gguf",), 1 << 20, "Stride demo", "Made with seeded, untrained weights.", "00")
    html, markdown, _ = write(tmp_path, demo)
    said = "**demo is a stand-in: its answers say nothing of other models, its speed and memory are its own.**"
    assert said in markdown
    assert "answers say nothing of other models" in html
    assert "answers say nothing of other models" not in write(tmp_path, target())[1]


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
    for name in re.findall(r"\]\(([\w-]+\.svg)\)", markdown):
        svg = ElementTree.fromstring((tmp_path / name).read_text("utf-8"))
        assert svg.tag.endswith("svg")
        assert "prefers-color-scheme:dark" in (tmp_path / name).read_text("utf-8")
    assert len(list(tmp_path.glob("*.svg"))) == 6
    for svg_path in tmp_path.glob("*.svg"):
        drawn = svg_path.with_suffix(".png").read_bytes()
        assert drawn.startswith(b"\x89PNG")
        assert int.from_bytes(drawn[16:20]) > 500, "twice the size of the SVG"


def test_code_that_was_not_run_is_said_so(tmp_path):
    checks = (Check("parses", True, "main.py"), Check("Not run", False, "no sandbox here", 0.0))
    _, markdown, _ = write(tmp_path, graded(Grade("fail", "0.0 of 5", checks, 0.0)))
    assert "The code was not executed: no sandbox here." in markdown
    assert "**Code not executed.** tiny: no sandbox here." in markdown
    assert {CODING.title, TOOL_CALLS.title} <= {heading[3:] for heading in headings(markdown)}


def graded(grade: Grade) -> TargetResult:
    judged = target()
    judged.runs = [replace(run, grade=grade) if run.task == CODING.name else run for run in judged.runs]
    return judged


def test_points_are_shown_as_stars_and_checks_with_their_weights(tmp_path):
    checks = (
        Check("starts", True, "GET / gave 200", 3.0),
        Check("pinned", False, "no requirements.txt", 0.5),
        Check("Sandbox", True, "a box: no network", 0.0),
    )
    _, markdown, _ = write(tmp_path, graded(Grade("partial", "1 of 2", checks, 4.3)))
    assert "**Judgement, tiny:** ★★★★½ 4.3 of 5, 1 of 2 checks. The code was run (sandbox: a box)." in markdown
    assert "| Check | Weight | Passed | Evidence, last run |" in markdown
    assert "| starts | 3 | 3 of 3 | GET / gave 200 |" in markdown
    assert "| pinned | 0.5 | 0 of 3 | no requirements.txt |" in markdown
    assert "not executed" not in markdown


def deeper() -> TargetResult:
    """A target that was also measured deep and warm."""
    found = target()
    for repeat in (1, 2, 3):
        for task, n_prompt, n_cached in ((deep(1024), 1100, 0), (WARM, 600, 590)):
            made = run(task, repeat, seconds=8.0)
            usage = {**(made.reply.usage or {}), "prompt_tokens": n_prompt, "recounted": True}
            usage["prompt_tokens_details"] = {"cached_tokens": n_cached}
            made = replace(made, reply=replace(made.reply, usage=usage), cold_first_token=2.0)
            found.runs.append(made)
    return found


def test_depth_and_cache_have_sections_without_a_number(tmp_path):
    _, markdown, _ = write(tmp_path, deeper(), tasks=(*POST_TASKS, WARM, deep(1024)))
    titles = headings(markdown)
    assert titles[titles.index("3. Tool calls") + 1 :][:3] == [
        "Speed against context depth",
        "Prompt cache",
        "Comparison",
    ]
    assert "| tiny | 30 | 50.0 (50.0) | 250.0 (250.0) | 200 ms (200 ms) |" in markdown
    assert "| tiny | 1,100 | 25.0 (25.0) |" in markdown
    assert "| tiny | 600 | 590 | 2.00 s | 200 ms | 0.10× | 0.10× |" in markdown
    assert "| Processor | Test CPU |" in markdown
    assert "250–250" not in markdown
    assert "250.0 tok/s prompt processing (server's figure)" in markdown, "the post's tests alone"


def test_recounted_tokens_are_said(tmp_path):
    _, markdown, _ = write(tmp_path, deeper(), tasks=(*POST_TASKS, WARM, deep(1024)))
    assert "the server sent no usage with 6 of 16 answers" in markdown
    assert "tokens counted in a second request" in markdown


def conversation(kind: str, *answers: Answer) -> CaseResult:
    replies = [Reply(answer, Times(), None, None) for answer in answers]
    return grade_case(find(kind, 1), replies)


def test_the_suite_tells_malformed_from_abstained_and_shows_what_failed(tmp_path):
    words, cut = Answer("No tool for me.", "", (), "stop"), Answer("", "", (), "length")
    first, second = target("first"), target("second")
    first.cases = [conversation("single", words), conversation("choice", cut)]
    second.cases = [conversation("single", words)]
    html, markdown, _ = write(tmp_path, first)
    assert "| One call | 0 of 1 | 0% to 79% | 0 | 0 | 1 | 0 |" in markdown
    assert "| The right one of four tools | 0 of 1 | 0% to 79% | 0 | 1 | 0 | 0 |" in markdown
    assert "| All kinds | 0 of 2 | 0% to 66% | 0 | 1 | 1 | 0 |" in markdown
    assert f"[user] {find('single', 1).prompt}\n\n[answer] No tool for me." in markdown
    assert "no call; it answered in words: No tool for me." in html
    assert "**Malformed tool calls.** first: in 1 of 2 conversations." in markdown
    rows = table(tmp_path / "suite.csv")
    assert [(row["kind"], row["malformed"], row["abstained"]) for row in rows] == [
        ("single", "False", "True"),
        ("choice", "True", "False"),
    ]
    _, markdown, _ = write(tmp_path, first, second)
    assert "| second | 1 | 0 | 0 | 1.000 | no difference shown |" in markdown
    assert "| The right one of four tools | 0 of 1 (0% to 79%) | — |" in markdown


def test_a_conversation_that_a_server_failed_is_a_limitation(tmp_path):
    failing = target()
    failing.cases = [grade_case(find("single", 1), [Reply(Answer(), Times(), None, None, error="HTTP 500: oh")])]
    _, markdown, _ = write(tmp_path, failing)
    assert "**Failed conversations.** tiny: 1 of 1 of the tool suite ended early, the first: HTTP 500: oh" in markdown
    assert "Every run counts" not in markdown


def test_gaps_between_pieces_are_shown(tmp_path):
    uneven = target()
    arrivals = tuple(np.cumsum([0.2, *[0.01] * 96, 1.0, 1.0]).tolist())
    uneven.runs = [replace(run, reply=replace(run.reply, arrivals=arrivals)) for run in uneven.runs]
    _, markdown, _ = write(tmp_path, uneven)
    assert "| tiny | 294 | 10 ms | 10 ms | 1.00 s | 1.00 s |" in markdown


def test_every_run_is_a_row(tmp_path):
    spoiled = target("=evil()")
    write(tmp_path, spoiled)
    rows = table(tmp_path / "runs.csv")
    assert len(rows) == len(spoiled.runs)
    assert rows[1]["target"] == "tiny"
    assert float(rows[1]["decode_rate"]) == pytest.approx(50.0)
    assert float(rows[1]["first_token_seconds"]) == pytest.approx(0.2)
    assert (tmp_path / "suite.csv").read_text("utf-8") == ""


def test_a_cell_never_starts_a_formula(tmp_path):
    spoiled = target()
    spoiled.runs.append(run(SPEED, 4, fault="=HYPERLINK(1)"))
    write(tmp_path, spoiled)
    rows = table(tmp_path / "runs.csv")
    assert rows[-1]["fault"] == "'=HYPERLINK(1)"


def test_what_no_page_may_hold_is_shown_as_a_picture_of_it(tmp_path):
    html, markdown, data = write(tmp_path, target(answer=Answer("a\0b\x1bc\x85d\ud800e", "", (), "stop")))
    for text in (html, markdown):
        assert "a␀b␛c\N{REPLACEMENT CHARACTER}d" in text
    assert data["targets"][0]["runs"][1]["reply"]["answer"]["content"] == "a\0b\x1bc\x85d\ud800e"


def test_long_answers_are_cut_and_stay_whole_in_the_data(tmp_path):
    long = "x" * 30_000
    html, _, data = write(tmp_path, target(answer=Answer(long, "", (), "stop")))
    assert "… (10,000 more characters)" in html
    assert data["targets"][0]["runs"][1]["reply"]["answer"]["content"] == long


def test_headings_go_down_one_by_one(tmp_path):
    page = Page(write(tmp_path, deeper(), tasks=(*POST_TASKS, WARM, deep(1024)))[0])
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))


def test_the_report_says_how_to_go_on(tmp_path):
    _, markdown, _ = write(tmp_path / "a b", target())
    folder = shlex.quote(str(tmp_path / "a b"))
    assert f"stride bench replay {folder} --out again" in markdown
    assert f"stride bench regrade {folder}" in markdown
    assert f"stride bench compare {folder} again" in markdown


def test_the_share_of_tokens_guessed_right_is_told(tmp_path: Path) -> None:
    guessing = target("guessing")
    guessing.runs[:] = [
        replace(one, reply=replace(one.reply, timings={"draft_n": 8, "draft_n_accepted": 6})) for one in guessing.runs
    ]
    _, markdown, _ = write(tmp_path, guessing, target("plain"))
    rows = [line.split("|")[2:4] for line in markdown.splitlines() if line.startswith("| Tokens guessed ahead")]
    assert ["75.", "—"] in [[cell.strip()[:3] for cell in row] for row in rows]

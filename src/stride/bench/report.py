"""The report's files: report.html, report.md, report.json, runs.csv, suite.csv, one SVG and one PNG of each chart."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup

from stride.bench import charts, post, rows
from stride.bench import figures as fig
from stride.bench.blocks import Block, Figure, Folded, Section, fence, plain
from stride.bench.results import Results, Run
from stride.bench.sections import sections
from stride.bench.tasks import Task

FORMAT = 1
FEW = 3
"""Targets that the title names."""
CONTROLS = {c: 0x2400 + c for c in range(32) if chr(c) not in "\t\n"} | {0x7F: 0x2421}
CONTROLS |= dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
"""What a page may not hold, and the picture that stands for it: models write such things."""


def write_report(results: Results, machine: Mapping[str, Any], command: Sequence[str], folder: Path) -> dict[str, Path]:
    """Write everything into ``folder``, and give the path of each file by its name.

    ``machine`` is `machine.machine()` with the ``date``; ``command`` is what was typed, keys left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = sections(results, machine, command, folder)
    title = _title(results, machine)
    texts = {
        "report.html": to_html(title, written),
        "report.md": to_markdown(title, written),
        "report.json": json.dumps(as_data(results, machine, command), indent=1, ensure_ascii=False, default=str),
        "runs.csv": rows.runs_csv(results),
        "suite.csv": rows.suite_csv(results),
        **{f"{figure.name}.svg": charts.standalone(figure.svg) for figure in _figures(written)},
    }
    files = {name: text.encode("utf-8", "backslashreplace") for name, text in texts.items()}
    files |= {f"{figure.name}.png": charts.png(figure.svg) for figure in _figures(written)}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in files}


def to_html(title: str, written: Sequence[Section]) -> str:
    """One page with nothing to load: styles and charts are inside."""
    inline = MarkdownIt("commonmark", {"html": False})
    environment = _environment(autoescape=True)
    environment.filters["inline"] = lambda text: Markup(inline.renderInline(text))
    environment.filters["words"] = lambda text: Markup(inline.renderInline(text)).striptags()
    environment.filters["svg"] = Markup
    template = environment.get_template("report.html")
    page = template.render(title=title, sections=written, chart_style=Markup(charts.style()))
    return page.translate(CONTROLS)


def to_markdown(title: str, written: Sequence[Section]) -> str:
    """The same in Markdown; charts are the SVG files beside it."""
    environment = _environment(autoescape=False)
    environment.filters["fence"] = fence
    environment.filters["plain"] = plain
    return environment.get_template("report.md").render(title=title, sections=written).translate(CONTROLS)


def as_data(results: Results, machine: Mapping[str, Any], command: Sequence[str]) -> dict[str, Any]:
    """All raw data, raw answers included, with the figures derived from each run."""
    return {
        "format": FORMAT,
        "machine": dict(machine),
        "command": list(command),
        **_plain(results),
        "post": {"machine": post.MACHINE, "comparison": post.COMPARISON, "tests": post.TESTS},
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Task):
        return {"name": value.name, "prompt": value.prompt, "max_tokens": value.max_tokens, "tools": value.tools}
    if is_dataclass(value) and not isinstance(value, type):
        data = {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        if isinstance(value, Run):
            data["figures"] = {name: getattr(value, name) for name in rows.RUN_FIGURES}
        return data
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _title(results: Results, machine: Mapping[str, Any]) -> str:
    names = [target.label for target in results.targets]
    what = fig.join(names) if len(names) <= FEW else f"{len(names)} targets"
    return f"Running {what} on {machine['cpu']}: a benchmark"


def _figures(written: Sequence[Section]) -> Iterator[Figure]:
    def within(blocks: Sequence[Block]) -> Iterator[Figure]:
        for block in blocks:
            if isinstance(block, Figure):
                yield block
            elif isinstance(block, Folded):
                yield from within(block.blocks)

    for section in written:
        yield from within(section.blocks)


def _environment(*, autoescape: bool) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("stride.bench"),
        autoescape=autoescape,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.tests["kind"] = lambda block, name: type(block).__name__ == name
    return environment

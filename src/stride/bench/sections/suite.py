"""The tool suite: passes by kind, what the others were, and conversations that failed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile

from stride.bench import charts, findings
from stride.bench import figures as fig
from stride.bench.blocks import Block, Figure, Folded, Listing, Section, Table, Text, clipped, plain
from stride.bench.charts import Mark
from stride.bench.client import Answer
from stride.bench.results import Results, TargetResult
from stride.bench.statistics import CONFIDENCE
from stride.bench.suite.case import Message, conversation
from stride.bench.suite.play import CaseResult, find
from stride.bench.suite.tally import Tally, compare, tally, total

LONGEST_MESSAGE, LONGEST_EVIDENCE = 4_000, 300
"""Characters that are shown."""
HEADER = ("Kind", "Passed", f"{CONFIDENCE:.0%} interval", "Partial", "Malformed", "Abstained", "Faults")
SMALL = 0.05
"""A p-value from which on a difference is called one."""


def tool_suite(results: Results) -> Iterator[Section]:
    """The section, if the suite was played."""
    played = [target for target in results.targets if target.cases]
    if played:
        yield Section("Tool suite", list(_blocks(played)), level=3)


def _blocks(played: Sequence[TargetResult]) -> Iterator[Block]:
    n = max(len({case.seed for case in target.cases}) for target in played)
    yield Text(
        f"Conversations of {len({case.kind for target in played for case in target.cases})} kinds with tools, "
        f"{n} {'seed' if n == 1 else 'seeds'} each. A call that could not be read is malformed; a conversation without "
        f"the calls that it wants failed by abstaining or by other calls. Intervals are Wilson's at {CONFIDENCE:.0%}."
    )
    tallies = {target.label: tally(target.cases) for target in played}
    marks = [
        Mark(label, row.title, row.passed / row.n, row.low, row.high) for label, rows in tallies.items() for row in rows
    ]
    words = "; ".join(f"{target.label}: {row.passed} of {row.n}" for target in played if (row := total(target.cases)))
    yield Figure(
        "suite",
        charts.intervals(marks, "passed, share of conversations", as_shares=True),
        f"Passes by kind; the table below has them all. Together: {words}.",
        f"Tool suite: share that passed, with Wilson's interval at {CONFIDENCE:.0%}.",
    )
    tables = [Table(f"Tool suite: {plain(target.label)}", HEADER, list(_rows(target))) for target in played]
    if len(played) > 1:
        yield _side_by_side(played)
        yield from (Folded(table.caption, [table]) for table in tables)
    else:
        yield from tables
    yield from _differences(played)
    for target in played:
        yield from _failures(target)


def _tallies(target: TargetResult) -> list[Tally]:
    """Of each kind, and of all together."""
    whole = total(target.cases)
    return [*tally(target.cases), *([whole] if whole else [])]


def _rows(target: TargetResult) -> Iterator[tuple[str, ...]]:
    for row in _tallies(target):
        cases = [case for case in target.cases if row.kind in (case.kind, "all")]
        counts = (row.partial, row.malformed, sum(map(findings.abstained, cases)), row.faults)
        yield row.title, fig.of(row.passed, row.n), _interval(row), *map(str, counts)


def _side_by_side(played: Sequence[TargetResult]) -> Table:
    """Passes of each kind, a column for each target."""
    columns = [{row.kind: row for row in _tallies(target)} for target in played]
    titles = {row.kind: row.title for column in columns for row in column.values() if row.kind != "all"}
    rows = [
        (title, *(_passed(column.get(kind)) for column in columns))
        for kind, title in {**titles, "all": "All kinds"}.items()
    ]
    caption = f"Tool suite: conversations that passed, with Wilson’s interval at {CONFIDENCE:.0%}"
    return Table(caption, ("Kind", *(plain(target.label) for target in played)), rows)


def _passed(row: Tally | None) -> str:
    return fig.NONE if row is None else f"{fig.of(row.passed, row.n)} ({_interval(row)})"


def _interval(row: Tally) -> str:
    return f"{100 * row.low:.0f}% to {100 * row.high:.0f}%"


def _differences(played: Sequence[TargetResult]) -> Iterator[Block]:
    """Every other target against the first, case by case."""
    first, *others = played
    rows = []
    for other in others:
        found = compare(first.cases, other.cases)
        if found.n:
            said = "differs" if found.p_value < SMALL else "no difference shown"
            counts = (found.n, found.only_first, found.only_second)
            rows.append((plain(other.label), *map(str, counts), f"{found.p_value:.3f}", said))
    if rows:
        header = ("Target", "Same cases", f"Only {plain(first.label)} passed", "Only this one passed", "p", "Verdict")
        yield Table(f"Tool suite against {plain(first.label)}: McNemar's exact test", header, rows)


def _failures(target: TargetResult) -> Iterator[Block]:
    """The first conversation of each kind that did not pass."""
    first: dict[str, CaseResult] = {}
    for case in target.cases:
        if not case.passed:
            first.setdefault(case.kind, case)
    blocks = [
        Folded(f"{title}, seed {first[kind].seed}: {plain(first[kind].grade.score)}", list(_failure(first[kind])))
        for kind, title in ((row.kind, row.title) for row in tally(target.cases))
        if kind in first
    ]
    if blocks:
        yield Text(f"**What did not pass, {plain(target.label)}:** the first conversation of each kind.")
        yield from blocks


def _failure(result: CaseResult) -> Iterator[Block]:
    if result.fault:
        yield Text(f"Not played to its end: {plain(result.fault)}")
    rows = [
        (plain(check.name), "yes" if check.passed else "no", plain(clipped(check.evidence, LONGEST_EVIDENCE)))
        for check in result.grade.checks
    ]
    yield Table(f"What was checked: {result.kind}, seed {result.seed}", ("Check", "Passed", "Evidence"), rows)
    yield Listing("Conversation", "\n\n".join(_transcript(result)), open=True)


def _transcript(result: CaseResult) -> Iterator[str]:
    """What was said, turn by turn; what was asked only where today's suite still asks it."""
    case = find(result.kind, result.seed)
    known = case.fingerprint == result.fingerprint
    answers: list[Answer] = []
    for reply in result.replies:
        if known:
            asked = conversation(case, answers)
            new = list(takewhile(lambda message: message["role"] != "assistant", reversed(asked)))
            yield from (_said(message) for message in reversed(new))
        if reply.error is not None:
            yield f"[failed] {reply.error}"
            return
        answers.append(reply.answer)
        yield from _answered(reply.answer)


def _said(message: Message) -> str:
    return f"[{message['role']}] {clipped(str(message['content']), LONGEST_MESSAGE)}"


def _answered(answer: Answer) -> Iterator[str]:
    if answer.reasoning:
        yield f"[thought] {clipped(answer.reasoning, LONGEST_MESSAGE)}"
    if answer.content or not answer.tool_calls:
        yield f"[answer] {clipped(answer.content, LONGEST_MESSAGE) or '(empty)'}"
    for call in answer.tool_calls:
        yield f"[call] {clipped(f'{call.name}({call.arguments})', LONGEST_MESSAGE)}"

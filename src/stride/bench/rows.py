"""What was measured as flat rows, for spreadsheets: one of each run, one of each conversation of the tool suite."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from stride.bench.findings import abstained
from stride.bench.results import Results
from stride.bench.suite.tally import is_malformed

RUN_FIGURES = (
    *("counted", "prompt_tokens", "completion_tokens", "cached_tokens", "recounted"),
    *("generation_rate", "decode_rate", "prompt_rate", "server_decode_rate", "server_prompt_rate"),
)
"""Properties of `Run`: tokens, and tokens per second."""
TIMES = ("first_byte", "first_token", "first_answer", "last_token", "end")
"""Of `Times`, in seconds from the request."""


def runs_csv(results: Results) -> str:
    """A row for each request, the warm-up (repeat 0) too."""
    return _csv(
        {
            **{name: getattr(run, name) for name in ("target", "task", "repeat", "seed", "nonce", "started")},
            **{name: getattr(run, name) for name in RUN_FIGURES},
            **{f"{name}_seconds": getattr(run.reply.times, name) for name in TIMES},
            "cold_first_token_seconds": run.cold_first_token,
            "finish_reason": run.reply.answer.finish_reason,
            "outcome": run.grade.outcome if run.grade else None,
            "score": run.grade.score if run.grade else None,
            "points": run.grade.points if run.grade else None,
            "fault": run.fault,
        }
        for target in results.targets
        for run in target.runs
    )


def suite_csv(results: Results) -> str:
    """A row for each conversation."""
    return _csv(_suite_rows(results))


def _suite_rows(results: Results) -> Iterator[Mapping[str, Any]]:
    for target in results.targets:
        for case in target.cases:
            failed = [check for check in case.grade.checks if not check.passed]
            yield {
                "target": target.label,
                "kind": case.kind,
                "seed": case.seed,
                "fingerprint": case.fingerprint,
                "outcome": case.grade.outcome,
                "score": case.grade.score,
                "malformed": is_malformed(case),
                "abstained": abstained(case),
                "turns": len(case.replies),
                "failed_checks": "; ".join(f"{check.name}: {check.evidence}" for check in failed),
                "fault": case.fault,
            }


def _csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """RFC 4180, with the columns of the first row; empty without rows. What a model wrote never starts a formula."""
    found = [{name: _harmless(value) for name, value in row.items()} for row in rows]
    text = io.StringIO()
    if found:
        writer = csv.DictWriter(text, list(found[0]))
        writer.writeheader()
        writer.writerows(found)
    return text.getvalue()


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value

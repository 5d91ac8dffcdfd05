"""Runs against a real server: what counts, where numbers come from, and what makes a run invalid."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stride.bench.measure import measure
from stride.bench.targets import Url
from stride.bench.tasks import CODING, SPEED, TASKS, TOOL_CALLS

PAUSE = 0.05


class Quiet:
    def __init__(self, stop_after: int | None = None) -> None:
        self.lines: list[str] = []
        self.runs: list[object] = []
        self.stop_after = stop_after

    def status(self, text: str) -> None:
        self.lines.append(text)

    def finished(self, run: object) -> None:
        self.runs.append(run)
        if len(self.runs) == self.stop_after:
            raise KeyboardInterrupt


@pytest.fixture
def speak(stand, wire):
    """An answer of 41 tokens in 3 chunks over two pauses, counted only in usage."""

    def answer(body):
        return [
            wire.delta(role="assistant", content=None),
            wire.delta(content="a b c"),
            PAUSE,
            wire.delta(content="d e f"),
            PAUSE,
            wire.delta("stop", content="g"),
            wire.usage(30, 41, timings={"prompt_per_second": 300.0, "predicted_per_second": 400.0}),
            wire.DONE,
        ]

    stand.answer = answer
    return stand


def one(results):
    (target,) = results.targets
    return target


def test_rates_come_from_usage_not_chunks(speak):
    target = one(measure([Url(speak.url)], [SPEED], 2, Quiet()))
    warm_up, *runs = target.runs
    assert warm_up.repeat == 0
    assert not warm_up.counted
    for run in runs:
        assert (run.prompt_tokens, run.completion_tokens) == (30, 41)
        times = run.reply.times
        assert times.last_token - times.first_token > PAUSE
        assert run.decode_rate == pytest.approx(40 / (times.last_token - times.first_token))
        assert (run.server_prompt_rate, run.server_decode_rate) == (300.0, 400.0)
        assert run.prompt_rate == pytest.approx(30 / run.reply.times.first_token)
    assert target.values("speed", "completion_tokens") == [41, 41]


def test_requests_are_cold_and_hold_the_posts_prompt(speak):
    measure([Url(speak.url)], TASKS, 2, Quiet())
    nonces = set()
    for body in speak.requests:
        system, user = body["messages"]
        nonces.add(system["content"])
        assert user["content"] in {task.prompt for task in TASKS}
        assert body["cache_prompt"] is False
        assert body["stream_options"] == {"include_usage": True}
        assert body["model"] == "tiny"
    assert len(nonces) == len(speak.requests) == 1 + 2 * 3
    assert [body["max_tokens"] for body in speak.requests] == [32, *([200, 2000, 512] * 2)]
    assert [tool["function"]["name"] for tool in speak.requests[3]["tools"]] == ["get_weather", "calculate"]


def test_targets_take_turns(speak):
    results = measure([Url(speak.url, "a"), Url(speak.url, "b")], [SPEED, TOOL_CALLS], 2, watch := Quiet())
    assert [body["model"] for body in speak.requests] == ["a", "b"] * 5
    assert results.interleaved
    assert [run.repeat for run in watch.runs] == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2]


def test_equal_labels_are_told_apart(speak):
    results = measure([Url(speak.url), Url(speak.url)], [SPEED], 1, Quiet())
    first, second = (target.label for target in results.targets)
    assert second == f"{first} (2)"
    assert first.startswith("tiny at 127.0.0.1:")


def test_a_cached_prompt_makes_a_run_invalid(stand, wire):
    stand.answer = lambda body: [wire.delta("stop", content="x"), wire.usage(30, 5, cached=20), wire.DONE]
    target = one(measure([Url(stand.url)], [SPEED], 1, Quiet()))
    assert target.runs[-1].fault == "contaminated: 20 prompt tokens came from a cache"
    assert not target.measured


def test_without_counts_there_is_no_rate(stand, wire):
    stand.answer = lambda body: [wire.delta("stop", content="x"), wire.DONE]
    target = one(measure([Url(stand.url)], [SPEED], 1, Quiet()))
    assert "no token counts" in target.runs[-1].fault
    assert target.runs[-1].decode_rate is None


def test_an_answer_in_one_piece_has_no_rate(stand, wire):
    stand.answer = lambda body: [
        0.02,
        wire.delta(content="all of it"),
        wire.delta("stop"),
        wire.usage(3, 50),
        wire.DONE,
    ]
    run = one(measure([Url(stand.url)], [SPEED], 1, Quiet())).runs[-1]
    assert run.counted
    assert run.completion_tokens == 50
    assert run.decode_rate is None


def test_failures_stay_in_the_results(stand, wire):
    good = [wire.delta("stop", content="x"), wire.usage(3, 5), wire.DONE]
    stand.answer = lambda body: 500 if len(stand.requests) == 3 else good
    target = one(measure([Url(stand.url)], [SPEED], 3, Quiet()))
    assert [run.fault for run in target.runs] == [None, None, "HTTP 500: as the test wants", None]
    assert len(target.counted("speed")) == 2


def test_grades_are_kept(speak):
    target = one(measure([Url(speak.url)], [CODING], 1, Quiet()))
    assert target.runs[-1].grade.outcome == "fail"
    assert target.runs[0].grade is None


def test_a_dead_address_is_an_error_of_its_target_only(speak):
    dead, alive = measure([Url("http://127.0.0.1:9"), Url(speak.url)], [SPEED], 1, Quiet()).targets
    assert "does not answer" in (dead.error or "")
    assert alive.measured


def test_ctrl_c_keeps_what_there_is(speak):
    results = measure([Url(speak.url)], [replace(SPEED, max_tokens=5)], 5, Quiet(stop_after=3))
    assert results.interrupted
    assert len(one(results).runs) == 3


def test_memory_of_a_server_on_this_machine_is_found(speak):
    target = one(measure([Url(speak.url)], [SPEED], 1, Quiet()))
    assert target.memory is not None
    assert target.memory.peak_rss >= target.memory.ready_rss > 1 << 20
    assert target.size_bytes == 12345678


def test_no_repeat_begins_that_would_end_too_late(speak):
    results = measure([Url(speak.url)], [SPEED], 5, Quiet(), time_limit=0.0)
    assert results.time_is_up
    assert len(one(results).counted("speed")) == 1
    assert not measure([Url(speak.url)], [SPEED], 2, Quiet(), time_limit=60.0).time_is_up

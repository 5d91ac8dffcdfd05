"""Runs against a real server: what counts, where numbers come from, and what makes a run invalid."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from stride.bench import measure as measuring
from stride.bench.graders import Grade
from stride.bench.plan import Plan
from stride.bench.results import Results, TargetResult
from stride.bench.targets import Url
from stride.bench.tasks import CODING, POST_TASKS, SPEED, TOOL_CALLS, WARM, deep, grade_tools

PAUSE = 0.05
GRADERS = {"coding": lambda answer: Grade("fail", "0", ()), "tools": grade_tools}


class Quiet:
    def __init__(self, stop_after: int | None = None) -> None:
        self.lines: list[str] = []
        self.runs: list[object] = []
        self.cases: list[object] = []
        self.at_most: float | None = None
        self.about: float | None = None
        self.stop_after = stop_after

    def status(self, text: str) -> None:
        self.lines.append(text)

    def connected(self, target: object) -> None:
        pass

    def estimated(self, seconds: float, at_most: bool) -> None:
        if at_most:
            self.at_most = seconds
        else:
            self.about = seconds

    def played(self, target: object, case: object) -> None:
        self.cases.append(case)

    def finished(self, run: object) -> None:
        self.runs.append(run)
        if len(self.runs) == self.stop_after:
            raise KeyboardInterrupt


def measure(targets, tasks, repeats, watch, seconds=None, most_repeats=0, suite_seeds=0):
    plan = Plan("test", tuple(tasks), repeats, max(repeats, most_repeats), suite_seeds, seconds)
    results = Results([TargetResult(target.label) for target in targets], plan, interleaved=True)
    measuring.measure(targets, results, watch, GRADERS)
    return results


@pytest.fixture
def speak(stand, wire):
    """An answer of 41 tokens in 38 chunks, counted only in usage."""

    def answer(body):
        if not body["stream"]:
            message = {"role": "assistant", "content": "a b c" + "d e" * 36 + "g"}
            return [json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()]
        return [
            wire.delta(role="assistant", content=None),
            wire.delta(content="a b c"),
            PAUSE,
            *[wire.delta(content="d e")] * 36,
            PAUSE,
            wire.delta("stop", content="g"),
            wire.usage(30, 41, timings={"prompt_per_second": 300.0, "predicted_per_second": 500.0}),
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
        assert (run.server_prompt_rate, run.server_decode_rate) == (300.0, 500.0)
        assert run.prompt_rate == pytest.approx(30 / run.reply.times.first_token)
    assert target.values("speed", "completion_tokens") == [41, 41]


def test_requests_are_cold_and_hold_the_posts_prompt(speak):
    measure([Url(speak.url)], POST_TASKS, 2, Quiet())
    nonces = set()
    for body in speak.requests:
        system, user = body["messages"]
        nonces.add(system["content"])
        assert user["content"] in {task.prompt for task in POST_TASKS}
        assert body["cache_prompt"] is False
        assert body["stream_options"] == {"include_usage": True}
        assert body["model"] == "tiny"
    assert len(nonces) == len(speak.requests) == 1 + 2 * 3
    assert [body["max_tokens"] for body in speak.requests] == [32, *([200, 2000, 512] * 2)]
    assert [tool["function"]["name"] for tool in speak.requests[3]["tools"]] == ["get_weather", "calculate"]


def test_targets_take_turns(speak):
    results = measure([Url(speak.url, "a"), Url(speak.url, "b")], [SPEED, TOOL_CALLS], 2, watch := Quiet())
    assert [body["model"] for body in speak.requests] == ["a", "b"] * 3 + ["b", "a"] * 2
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


@pytest.mark.parametrize("timings", [None, {"predicted_n": 41, "predicted_ms": 500.0}])
def test_of_an_answer_in_bursts_only_the_server_knows_the_speed(stand, wire, timings):
    """Of 41 tokens in three bursts, those of the first were made before it came."""
    bursts = [wire.delta(content="a b c"), PAUSE, wire.delta(content="d e f"), PAUSE, wire.delta("stop", content="g")]
    stand.answer = lambda body: [*bursts, wire.usage(30, 41, timings=timings), wire.DONE]
    run = one(measure([Url(stand.url)], [SPEED], 1, Quiet())).runs[-1]
    assert run.counted
    assert (run.decode_rate, run.generation_rate) == (None, timings and 80.0)


def test_bursts_after_the_first_token_do_no_harm(stand, wire):
    """As of a server that holds back what follows a broken character."""
    held_back = [wire.delta(content="b")] * 38
    stand.answer = lambda body: [wire.delta(content="a"), PAUSE, *held_back, wire.delta("stop"), wire.usage(30, 40)]
    run = one(measure([Url(stand.url)], [SPEED], 1, Quiet())).runs[-1]
    times = run.reply.times
    assert run.generation_rate == pytest.approx(39 / (times.last_token - times.first_token))


def test_nobody_sees_tokens_pass_faster_than_they_are_made(stand, wire):
    """As where a whole answer is cut into pieces at its end."""
    pieces = [wire.delta(content="a")] * 39
    told = {"predicted_n": 41, "predicted_ms": 4000.0}
    stand.answer = lambda body: [*pieces, PAUSE / 10, wire.delta("stop", content="b"), wire.usage(30, 41, timings=told)]
    run = one(measure([Url(stand.url)], [SPEED], 1, Quiet())).runs[-1]
    assert (run.decode_rate, run.generation_rate) == (None, 10.0)


def test_a_servers_speed_is_meant_as_the_clients(stand, wire):
    """The first token belongs to the prompt, whatever the server makes of it."""
    told = {"predicted_n": 21, "predicted_ms": 500.0, "predicted_per_second": 42.0}
    stand.answer = lambda body: [wire.delta("stop", content="x"), wire.usage(30, 21, timings=told), wire.DONE]
    assert one(measure([Url(stand.url)], [SPEED], 1, Quiet())).runs[-1].server_decode_rate == 40.0


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
    results = measure([Url(speak.url)], [SPEED], 5, Quiet(), seconds=0.0)
    assert results.time_is_up
    assert len(one(results).counted("speed")) == 1
    assert not measure([Url(speak.url)], [SPEED], 2, Quiet(), seconds=60.0).time_is_up


def test_a_deep_prompt_is_as_long_as_it_says_in_the_models_own_tokens(stand, wire):
    """The server counts three tokens a word, which the warm-up tells."""

    def answer(body):
        n = 3 * sum(len(message["content"].split()) for message in body["messages"])
        return [wire.delta(content="x"), wire.delta("stop", content="y"), wire.usage(n, 2), wire.DONE]

    stand.answer = answer
    target = one(measure([Url(stand.url)], [deep(3000)], 2, Quiet()))
    assert [run.prompt_tokens for run in target.runs[1:]] == pytest.approx([3000, 3000], rel=0.05)


def test_what_is_deeper_than_the_context_is_left_out(speak):
    speak.props.update(default_generation_settings={"n_ctx": 4096})
    target = one(measure([Url(speak.url)], [SPEED, deep(1024), deep(4096)], 1, Quiet()))
    assert [run.task for run in target.runs] == ["warm-up", "speed", "depth-1024"]


def test_a_warm_prompt_is_sent_twice_and_may_be_cached(stand, wire):
    def answer(body):
        again = body in stand.requests[:-1]
        return [wire.delta("stop", content="x"), wire.usage(30, 5, cached=29 if again else 0), wire.DONE]

    stand.answer = answer
    target = one(measure([Url(stand.url)], [WARM], 2, Quiet()))
    assert [body["cache_prompt"] for body in stand.requests] == [False, True, True, True, True]
    assert [(run.cached_tokens, run.fault) for run in target.runs[1:]] == [(29, None), (29, None)]


def test_a_wide_interval_is_narrowed_by_more_repeats(stand, wire):
    pauses = iter([0.0, 0.01, 0.1, *[0.05] * 20])

    def answer(body):
        return [wire.delta(content="x"), next(pauses), wire.delta("stop", content="y"), wire.usage(9, 2), wire.DONE]

    stand.answer = answer
    target = one(measure([Url(stand.url)], [SPEED], 2, Quiet(), most_repeats=6))
    assert 3 <= len(target.counted("speed")) <= 6


def test_a_steady_speed_is_not_measured_more_often_than_asked_for(stand, wire):
    stand.answer = lambda body: [wire.delta("stop", content="all at once"), wire.usage(9, 9), wire.DONE]
    target = one(measure([Url(stand.url)], [SPEED], 2, Quiet(), most_repeats=6))
    assert len(target.counted("speed")) == 2


def test_the_warm_up_says_how_long_it_will_take(speak):
    watch = Quiet()
    measure([Url(speak.url)], [SPEED], 3, watch)
    assert watch.at_most > 0.7 * 3 * 200 * 2 * PAUSE / 40
    assert watch.about > 0.7 * 2 * 2 * PAUSE


def test_the_tool_suite_takes_its_time_too(speak):
    alone, both = Quiet(), Quiet()
    measure([Url(speak.url)], [SPEED], 1, alone)
    measure([Url(speak.url)], [SPEED], 1, both, suite_seeds=1)
    turns = Plan("test", (), 1, 1, suite_seeds=1).n_requests - 1
    assert turns > 14
    assert both.at_most - alone.at_most > 0.7 * turns * 2048 * 2 * PAUSE / 40
    assert both.about is None


def test_a_time_limit_bounds_what_is_expected(speak):
    watch = Quiet()
    measure([Url(speak.url)], [SPEED], 50, watch, seconds=0.9)
    assert watch.at_most <= 0.9
    assert watch.about < 0.9


def test_what_is_there_is_not_measured_again(speak):
    first = measure([Url(speak.url)], [SPEED, TOOL_CALLS], 2, Quiet(stop_after=3))
    measuring.measure([Url(speak.url)], first, Quiet(), GRADERS)
    assert not first.interrupted
    done = [(run.task, run.repeat) for run in one(first).runs]
    assert done == [
        ("warm-up", 0), ("speed", 1), ("tools", 1), ("warm-up", 0), ("speed", 2), ("tools", 2),
    ]  # fmt: skip


def test_the_tool_suite_is_played_once_a_repeat_and_not_again(speak):
    first = measure([Url(speak.url)], [SPEED], 2, Quiet(), suite_seeds=1)
    assert sorted({case.seed for case in one(first).cases}) == [1]
    assert len({case.kind for case in one(first).cases}) == len(one(first).cases) == 14
    watch = Quiet()
    measuring.measure([Url(speak.url)], first, watch, GRADERS)
    assert watch.cases == []


def test_what_failed_is_tried_again(speak):
    answer = speak.answer
    speak.answer = lambda body: 500 if len(speak.requests) in (2, 3) else answer(body)
    results = measure([Url(speak.url)], [SPEED], 1, Quiet(), suite_seeds=1)
    assert [run.fault for run in one(results).runs] == [None, "HTTP 500: as the test wants"]
    assert one(results).cases[0].fault == "HTTP 500: as the test wants"
    watch = Quiet()
    measuring.measure([Url(speak.url)], results, watch, GRADERS)
    assert [run.fault for run in one(results).runs] == [None, "HTTP 500: as the test wants", None, None]
    assert len(watch.cases) == 1
    assert [case.fault for case in one(results).cases] == [None] * 14
    assert watch.about is None

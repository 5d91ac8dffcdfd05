"""The engine as a whole, over a model whose output shows every token it reads from its paged cache."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stride.engine import Engine, EngineConfig, Failed, Token
from stride.errors import ContextOverflowError, GenerationError, OverloadedError, RequestError
from stride.types import SamplingParams, TokenSet

# Of conftest.py: the classes Client and FakeModel, a FakeModel, and what starts an engine over it.
NewClient = NewModel = Model = Start = Any


def prompts(seed: int, lengths: list[int]) -> list[list[int]]:
    chooser = random.Random(seed)
    return [[chooser.randrange(97) for _ in range(n)] for n in lengths]


# --- what is told of prompts ---


def log_softmax(logits: np.ndarray) -> np.ndarray:
    exact = logits.astype(np.float64)
    return exact - exact.max() - np.log(np.exp(exact - exact.max()).sum())


@pytest.mark.parametrize("max_tokens", [0, 3])
@pytest.mark.parametrize("chunk", [1, 31, 64, 512])
def test_a_prompt_is_told_token_by_token(
    monkeypatch: pytest.MonkeyPatch, start: Start, new_client: NewClient, model: Model, chunk: int, max_tokens: int
) -> None:
    monkeypatch.setattr("stride.engine.loop.LOGITS_BYTES", 4 * model.n_vocab * 40)
    engine = start(chunk=chunk, cache_bytes=1 << 20)
    known, other, single = prompts(chunk, [150, 200, 1])
    engine.submit((before := new_client(known)).request)
    before.wait()
    model.batches.clear()
    params = SamplingParams(temperature=0, max_tokens=max_tokens, logprobs=2)
    clients = [new_client(known, params=params, prompt_logprobs=True, group="g") for _ in range(2)]
    clients += [new_client(single, params=params, prompt_logprobs=True), new_client(other)]
    for client in clients:
        engine.submit(client.request)
    for client in clients:
        assert client.wait().tokens == model.greedy(client.request.prompt_ids, client.request.params.max_tokens)
        assert client.reason == "length"
    assert clients[3].prompt is None
    assert clients[2].prompt.logprobs == ()
    assert clients[0].prompt == clients[1].prompt
    assert [client.end.usage.cached_tokens for client in clients[:3]] == [0, 0, 0], "all is computed"
    assert max(len(batch.outputs) for batch in model.batches) <= 40 + len(clients), "and a part at a time kept"
    told = clients[0].prompt.logprobs
    assert len(told) == len(known) - 1
    for i, entry in enumerate(told, 1):
        expected = log_softmax(model.expected_logits(known[:i]))
        assert entry.logprob == pytest.approx(expected[known[i]], abs=1e-5)
        assert [token for token, _ in entry.top] == np.argsort(-expected, kind="stable")[:2].tolist()
    again = new_client(known, params=params)
    engine.submit(again.request)
    assert again.wait().end.usage.cached_tokens == len(known) - 1, "others share as before"


def test_a_prompt_is_not_told_without_log_probabilities(start: Start, new_client: NewClient) -> None:
    with pytest.raises(RequestError, match="log probabilities of the prompt"):
        start().submit(new_client([1, 2], prompt_logprobs=True).request)


# --- what comes out ---


@pytest.mark.parametrize("chunk", [1, 3, 31, 32, 33, 64, 512])
def test_chunks_do_not_change_the_output(start: Start, new_client: NewClient, model: Model, chunk: int) -> None:
    engine = start(chunk=chunk)
    clients = [new_client(prompt, max_tokens=30) for prompt in prompts(chunk, [1, 150, 33, 64, 200])]
    for client in clients:
        engine.submit(client.request)
    for client in clients:
        assert client.wait().tokens == model.greedy(client.request.prompt_ids, 30)
        assert client.reason == "length"


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 140), st.integers(0, 40)), min_size=2, max_size=7),
    arrivals=st.lists(st.integers(0, 25), min_size=7, max_size=7),
    cancellations=st.dictionaries(st.integers(0, 6), st.integers(0, 40), max_size=3),
    n_parallel=st.integers(1, 4),
    chunk=st.integers(1, 70),
    seed=st.integers(0, 99),
)
def test_batched_equals_alone_whoever_comes_and_goes(
    new_client: NewClient,
    new_model: NewModel,
    at_drawn_steps: Callable[..., None],
    lengths: list[tuple[int, int]],
    arrivals: list[int],
    cancellations: dict[int, int],
    n_parallel: int,
    chunk: int,
    seed: int,
) -> None:
    """Requests are submitted and cancelled at drawn steps, on the engine's thread, while the step runs."""
    model, n_ctx = new_model(), 160
    engine = Engine(model, EngineConfig(n_ctx=n_ctx, n_parallel=n_parallel, chunk=chunk))
    clients = [
        new_client(prompt, max_tokens=n)
        for prompt, (_, n) in zip(prompts(seed, [n for n, _ in lengths]), lengths, strict=True)
    ]
    at_drawn_steps(engine, model, clients, arrivals, cancellations, n_steps=25)
    for i, client in enumerate(clients):
        client.wait()
        n_tokens = min(client.request.params.max_tokens, n_ctx - len(client.request.prompt_ids))
        alone = model.greedy(client.request.prompt_ids, n_tokens)
        if isinstance(client.end, Failed):
            assert i in cancellations
            assert client.tokens == alone[: len(client.tokens)]
        else:
            assert client.tokens == alone
    assert set(engine.metrics.busy_pages) == {0}
    engine.close()


def test_draws_depend_on_the_seed_and_not_on_the_batch(start: Start, new_client: NewClient) -> None:
    def run(n_parallel: int) -> list[list[int]]:
        engine = start(n_parallel=n_parallel)
        clients = [
            new_client(prompt, params=SamplingParams(temperature=1.5, seed=seed, max_tokens=20, top_k=0, min_p=0))
            for seed, prompt in enumerate(prompts(1, [40, 40, 5, 90]))
        ]
        for client in clients:
            engine.submit(client.request)
        return [client.wait().tokens for client in clients]

    assert run(1) == run(2) == run(4)


def test_the_end_of_sequence_ends_the_output_and_is_counted_but_not_delivered(
    start: Start, new_client: NewClient, model: Model
) -> None:
    greedy = model.greedy([1, 2, 3], 5)
    client = new_client([1, 2, 3], eos_ids=frozenset({greedy[3]}))
    assert greedy.index(greedy[3]) == 3
    start().submit(client.request)
    assert client.wait().tokens == greedy[:3]
    assert client.reason == "stop"
    assert (client.end.usage.prompt_tokens, client.end.usage.completion_tokens) == (3, 4)
    assert (client.end.timings.prompt_n, client.end.timings.predicted_n) == (3, 4)
    assert client.end.timings.prompt_ms > 0
    assert client.end.timings.predicted_ms > 0


def test_ignore_eos_rules_the_end_of_sequence_out(start: Start, new_client: NewClient, model: Model) -> None:
    eos = frozenset(model.greedy([1, 2, 3], 5))
    client = new_client([1, 2, 3], params=SamplingParams(temperature=0, max_tokens=20, ignore_eos=True), eos_ids=eos)
    start().submit(client.request)
    assert len(client.wait().tokens) == 20
    assert not eos & set(client.tokens)


def test_a_stop_callback_ends_the_output_with_its_token(start: Start, new_client: NewClient, model: Model) -> None:
    asked: list[int] = []

    def stop(token: Token) -> bool:
        asked.append(token.token_id)
        return len(asked) == 4

    client = new_client([5, 6], stop=stop)
    start().submit(client.request)
    assert client.wait().tokens == asked == model.greedy([5, 6], 4)
    assert client.reason == "stop"


def test_a_mask_is_obeyed_and_told(start: Start, new_client: NewClient, model: Model) -> None:
    class Mask:
        accepted: list[int] = []  # noqa: RUF012

        def allowed(self) -> TokenSet:
            return TokenSet.of(np.arange(model.n_vocab) % 7 == len(self.accepted) % 7)

        def accept(self, token_id: int) -> None:
            self.accepted.append(token_id)

    client = new_client([5, 6], mask=Mask(), max_tokens=10)
    start().submit(client.request)
    assert client.wait().tokens == Mask.accepted
    assert [token % 7 for token in client.tokens] == [i % 7 for i in range(10)]


def test_where_only_an_end_is_allowed_the_output_ends(start: Start, new_client: NewClient, model: Model) -> None:
    class Mask:
        n = 0

        def allowed(self) -> TokenSet:
            return TokenSet(np.array([3] if self.n == 2 else [3, 4]))

        def accept(self, token_id: int) -> None:
            self.n += 1

    params = SamplingParams(temperature=0, max_tokens=10, ignore_eos=True)
    client = new_client([5, 6], params=params, mask=Mask(), eos_ids=frozenset({3}))
    start().submit(client.request)
    assert client.wait().tokens == [4, 4]
    assert client.reason == "stop"


def test_penalties_see_what_was_generated(start: Start, new_client: NewClient) -> None:
    params = SamplingParams(temperature=0, max_tokens=60, presence_penalty=1000, repeat_last_n=-1)
    client = new_client([5, 6], params=params)
    start().submit(client.request)
    assert len({5, 6, *client.wait().tokens}) == 62


def test_a_request_without_logits_shifts_nobody_elses(start: Start, new_client: NewClient, model: Model) -> None:
    both_submitted = threading.Event()
    model.before_forward = lambda batch: both_submitted.wait(20)
    engine = start()
    first, silent, last = new_client([1]), new_client([2, 3], max_tokens=0), new_client([4, 5])
    for client in (first, silent, last):  # the last two begin in the same step
        engine.submit(client.request)
    both_submitted.set()
    assert last.wait().tokens == model.greedy([4, 5], 8)
    assert silent.wait().reason == "length"


@pytest.mark.parametrize(("max_tokens", "n_generated"), [(0, 0), (1, 1), (None, 56), (1000, 56)])
def test_length_ends_the_output(start: Start, new_client: NewClient, max_tokens: int | None, n_generated: int) -> None:
    client = new_client(list(range(97)) * 2 + [1] * 6, params=SamplingParams(temperature=0, max_tokens=max_tokens))
    start(n_ctx=256).submit(client.request)
    assert len(client.wait().tokens) == n_generated
    assert client.reason == "length"
    assert client.end.usage.completion_tokens == n_generated
    assert client.end.timings.prompt_ms > 0


# --- what is refused ---


@pytest.mark.parametrize(
    ("prompt", "options", "field"),
    [
        ([], {}, "prompt"),
        ([1, 97], {}, "prompt"),
        ([1, -1], {}, "prompt"),
        ([1, 2**70], {}, "prompt"),
        ([1.5], {}, "prompt"),
        ([[1]], {}, "prompt"),
        ([[1], [2, 3]], {}, "prompt"),
        ([1], {"logit_bias": {97: 1.0}}, "logit_bias"),
    ],
)
def test_a_bad_request_is_refused_at_once(
    start: Start, new_client: NewClient, prompt: list[Any], options: dict[str, Any], field: str
) -> None:
    with pytest.raises(RequestError) as caught:
        start().submit(new_client(prompt, params=SamplingParams(**options)).request)
    assert caught.value.field == field


def test_a_prompt_that_leaves_no_room_is_refused_with_its_counts(start: Start, new_client: NewClient) -> None:
    engine = start(n_ctx=64)
    with pytest.raises(ContextOverflowError) as caught:
        engine.submit(new_client([1] * 64).request)
    assert (caught.value.n_prompt_tokens, caught.value.n_ctx) == (64, 64)
    client = new_client([1] * 63)
    engine.submit(client.request)
    assert len(client.wait().tokens) == 1


@pytest.mark.parametrize("name", ["n_ctx", "n_parallel", "chunk", "max_queue"])
def test_a_bad_configuration_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match=f"{name} is -1"):
        EngineConfig(**{name: -1})


def test_a_burst_beyond_the_queue_is_refused(start: Start, new_client: NewClient, model: Model) -> None:
    may_run = threading.Event()
    model.before_forward = lambda batch: may_run.wait(20)
    engine = start(n_parallel=2, max_queue=3)
    clients = [new_client([i + 1]) for i in range(6)]
    for client in clients[:5]:
        engine.submit(client.request)
    with pytest.raises(OverloadedError, match="5 requests"):
        engine.submit(clients[5].request)
    may_run.set()
    for client in clients[:5]:
        client.wait()
    engine.submit(clients[5].request)
    assert clients[5].wait().tokens == model.greedy([6], 8)


# --- the thread ---


def test_close_fails_what_is_pending_and_refuses_what_comes(start: Start, new_client: NewClient, model: Model) -> None:
    model.before_forward = lambda batch: time.sleep(0.005)
    engine = start(n_parallel=1)
    clients = [new_client([i + 1], max_tokens=200) for i in range(3)]
    for client in clients:
        engine.submit(client.request)
    engine.close()
    for client in clients:
        assert "closed" in str(client.wait().error)
    with pytest.raises(GenerationError, match="closed"):
        engine.submit(new_client([1]).request)
    with pytest.raises(GenerationError, match="closed"):
        engine.exclusively(lambda: None)
    engine.close()


def test_draining_answers_everybody_first(start: Start, new_client: NewClient, model: Model) -> None:
    engine = start(n_parallel=1)
    clients = [new_client([i + 1], max_tokens=20) for i in range(4)]
    for client in clients:
        engine.submit(client.request)
    engine.close(drain=True)
    for client in clients:
        assert client.wait().tokens == model.greedy(client.request.prompt_ids, 20)


def test_a_dead_thread_leaves_nobody_waiting(
    start: Start, new_client: NewClient, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    died: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", died.append)

    both_submitted = threading.Event()

    def die(batch: Any) -> None:
        both_submitted.wait(20)
        raise SystemExit

    model.before_forward = die
    engine = start(n_parallel=1)
    clients = [new_client([1]), new_client([2])]
    for client in clients:
        engine.submit(client.request)
    both_submitted.set()
    for client in clients:
        assert "closed" in str(client.wait().error)


def test_exclusive_work_runs_between_steps_and_passes_its_errors_on(
    start: Start, new_client: NewClient, model: Model
) -> None:
    engine = start()
    client = new_client([1, 2], max_tokens=50)
    engine.submit(client.request)
    assert engine.exclusively(lambda: threading.current_thread().name) == "stride-engine"
    with pytest.raises(ZeroDivisionError):
        engine.exclusively(lambda: 1 // 0)
    assert client.wait().tokens == model.greedy([1, 2], 50)


def test_an_idle_engine_sleeps(start: Start, new_client: NewClient) -> None:
    engine = start()
    client = new_client([1, 2])
    engine.submit(client.request)
    client.wait()
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.05


def test_metrics_count(start: Start, new_client: NewClient, model: Model) -> None:
    may_run, seen = threading.Event(), []
    engine = start(n_parallel=2, chunk=16)

    def look(batch: Any) -> None:
        may_run.wait(20)
        seen.append(engine.metrics)

    model.before_forward = look
    clients = [new_client([i] * 40, max_tokens=5) for i in range(3)]
    for client in clients:
        engine.submit(client.request)
    may_run.set()
    for client in clients:
        client.wait()
    while engine.metrics.running:
        time.sleep(0.001)
    busiest = max(seen, key=lambda metrics: metrics.queued)
    assert 1 <= busiest.queued + busiest.running <= 3
    assert all(busy > 0 for metrics in seen for busy in metrics.busy_pages)
    end = engine.metrics
    assert (end.queued, end.running, end.prompt_tokens, end.generated_tokens) == (0, 0, 120, 15)
    assert end.busy_pages == (0, 0)
    assert end.total_pages == (16, 6)

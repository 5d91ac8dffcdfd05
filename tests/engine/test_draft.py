"""Drafting: whatever is guessed, and however much of it, every request gets the tokens that it gets without."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stride.engine import Engine, EngineConfig, Request
from stride.engine.draft import IDLE_SHARE
from stride.engine.draft_length import DraftLength
from stride.types import SamplingParams, TokenSet

# Of conftest.py: the classes Client and FakeModel, a FakeModel, and what starts an engine over it.
NewClient = NewModel = Model = Start = Any


class Guesser:
    """A drafter that guesses the greedy continuation, each token of it rightly or not as ``is_right`` says."""

    n_most = 8
    reach = 0
    probe_every = 3

    def __init__(self, model: Model, is_right: Callable[[], bool]) -> None:
        self._model = model
        self._is_right = is_right

    def computed(self, row: Any, states: np.ndarray) -> None:
        assert states.shape == (0, self._model.n_embd)

    def propose(self, lengths: Mapping[Request, int]) -> None:
        for request, length in lengths.items():
            assert request.n_drafts == 0
            assert length <= request.draft_room
            assert length == 0 or request.n_prompt <= request.n_computed == request.n_tokens - 1
            for token in self._model.greedy(request.token_ids[: request.n_tokens].tolist(), length):
                request.add_draft(token if self._is_right() else (token + 1) % self._model.n_vocab)


class AnyLength(DraftLength):
    """Chooses lengths by chance, so that all of them are seen."""

    chooser = random.Random(0)

    def choose(self, room: Mapping[Request, int]) -> dict[Request, int]:
        return {request: self.chooser.randint(0, most) for request, most in room.items()}


class FullLength(DraftLength):
    """Verifies as many as there may be."""

    def choose(self, room: Mapping[Request, int]) -> dict[Request, int]:
        return dict(room)


@pytest.fixture
def full_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stride.engine.draft.DraftLength", FullLength)
    monkeypatch.setattr("stride.engine.draft.IDLE_SHARE", 1e9)  # nobody rests, however little it brings


@pytest.fixture
def drafted(new_model: NewModel) -> Iterator[Callable[..., Engine]]:
    """Starts engines whose drafts are right, and closes them."""
    engines: list[Engine] = []

    def start(model: Model, is_right: Callable[[], bool] = lambda: True, **config: Any) -> Engine:
        settings = EngineConfig(**{"n_ctx": 256, "n_parallel": 3, "chunk": 64, **config})
        engines.append(Engine(model, settings, drafter=lambda runner: Guesser(model, is_right)))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 140), st.integers(0, 40)), min_size=2, max_size=7),
    arrivals=st.lists(st.integers(0, 25), min_size=7, max_size=7),
    cancellations=st.dictionaries(st.integers(0, 6), st.integers(0, 40), max_size=3),
    n_parallel=st.integers(1, 4),
    chunk=st.integers(1, 70),
    cache_bytes=st.sampled_from([0, 1 << 18]),
    share_right=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    temperature=st.sampled_from([0.0, 0.9]),
    seed=st.integers(0, 99),
)
def test_speculative_equals_plain_whoever_comes_and_goes(
    new_client: NewClient,
    new_model: NewModel,
    at_drawn_steps: Callable[..., None],
    lengths: list[tuple[int, int]],
    arrivals: list[int],
    cancellations: dict[int, int],
    n_parallel: int,
    chunk: int,
    cache_bytes: int,
    share_right: float,
    temperature: float,
    seed: int,
) -> None:
    """Prompts that begin alike, in a cache that keeps what was computed, so that an unverified token would be seen."""
    chooser = random.Random(seed)
    AnyLength.chooser = random.Random(seed)
    shared = [chooser.randrange(97) for _ in range(140)]

    def clients() -> list[Any]:
        tails = random.Random(seed + 1)
        return [
            new_client(
                shared[: n // 2] + [tails.randrange(97) for _ in range(n - n // 2)],
                params=SamplingParams(temperature=temperature, seed=i, max_tokens=n_new, repeat_penalty=1.1),
            )
            for i, (n, n_new) in enumerate(lengths)
        ]

    config = EngineConfig(n_ctx=160, n_parallel=n_parallel, chunk=chunk, cache_bytes=cache_bytes)
    plain = Engine(new_model(), config)
    for expected in (alone := clients()):
        plain.submit(expected.request)
        expected.wait()
    plain.close()

    model = new_model()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stride.engine.draft.DraftLength", AnyLength)
        patch.setattr("stride.engine.draft.IDLE_SHARE", 1e9)
        guesser = Guesser(model, lambda: chooser.random() < share_right)
        engine = Engine(model, config, drafter=lambda runner: guesser)
    found = clients()
    at_drawn_steps(engine, model, found, arrivals, cancellations, n_steps=25)
    for i, (client, expected) in enumerate(zip(found, alone, strict=True)):
        client.wait()
        if i in cancellations:
            assert client.tokens == expected.tokens[: len(client.tokens)]
        else:
            assert (client.tokens, client.reason) == (expected.tokens, expected.reason)
            assert client.end.usage.completion_tokens == expected.end.usage.completion_tokens
    engine.close()
    assert all(group.table.max() == -1 for group in engine._cache.groups)


def test_right_drafts_make_fewer_steps_and_are_counted(
    full_length: None, drafted: Callable[..., Engine], new_client: NewClient, model: Model
) -> None:
    engine = drafted(model, draft_max=3)
    engine.submit((client := new_client([1, 2, 3], max_tokens=41)).request)
    assert client.wait().tokens == model.greedy([1, 2, 3], 41)
    assert len(model.batches) == 1 + 10  # the prompt and a token, then 4 tokens a step
    assert (client.end.timings.draft_n, client.end.timings.draft_n_accepted) == (30, 30)
    assert engine.measures.drafted == engine.measures.accepted == {0: 10, 1: 10, 2: 10}


def test_wrong_drafts_are_counted_too(
    full_length: None, drafted: Callable[..., Engine], new_client: NewClient, model: Model
) -> None:
    rights = iter([True, False, True] * 100)
    engine = drafted(model, lambda: next(rights), draft_max=3)
    engine.submit((client := new_client([1, 2, 3], max_tokens=21)).request)
    assert client.wait().tokens == model.greedy([1, 2, 3], 21)
    assert (client.end.timings.draft_n, client.end.timings.draft_n_accepted) == (28, 10)
    assert engine.measures.drafted == {0: 10, 1: 9, 2: 9}  # at the end, fewer are wanted
    assert engine.measures.accepted == {0: 10}


@pytest.mark.parametrize("max_tokens", range(9))
def test_nothing_is_drafted_beyond_what_is_wanted(
    full_length: None, drafted: Callable[..., Engine], new_client: NewClient, model: Model, max_tokens: int
) -> None:
    engine = drafted(model, draft_max=4)
    engine.submit((client := new_client([5, 6], max_tokens=max_tokens)).request)
    assert client.wait().tokens == model.greedy([5, 6], max_tokens)
    assert client.reason == "length"
    positions = [batch.positions.max() for batch in model.batches]
    assert max(positions) <= max(1, max_tokens)  # the last token is never computed


def test_the_context_ends_as_without(
    full_length: None, drafted: Callable[..., Engine], new_client: NewClient, model: Model
) -> None:
    engine = drafted(model, n_ctx=40)
    engine.submit((client := new_client([5] * 20, params=SamplingParams(temperature=0))).request)
    assert client.wait().tokens == model.greedy([5] * 20, 20)


@pytest.mark.parametrize("at", range(6))
def test_an_end_inside_a_draft_ends_there(
    full_length: None, drafted: Callable[..., Engine], new_client: NewClient, model: Model, at: int
) -> None:
    expected = model.greedy([9, 9], 8)
    end = frozenset({expected[at]})
    assert expected[at] not in expected[:at]
    engine = drafted(model, draft_max=4, cache_bytes=1 << 18)
    engine.submit((client := new_client([9, 9], max_tokens=8, eos_ids=end)).request)
    assert client.wait().tokens == expected[:at]
    assert client.reason == "stop"
    engine.submit((stopped := new_client([9, 9], max_tokens=8, stop=lambda token: token.token_id in end)).request)
    assert stopped.wait().tokens == expected[: at + 1]
    assert stopped.reason == "stop"
    engine.submit((again := new_client([9, 9, *expected[: at + 1], 4], max_tokens=8)).request)
    assert again.wait().tokens == model.greedy([9, 9, *expected[: at + 1], 4], 8)


class EvenThenOdd:
    """A mask that leaves even tokens, then odd ones, and so on."""

    def __init__(self, n_vocab: int) -> None:
        self._n_vocab = n_vocab
        self.accepted: list[int] = []

    def allowed(self) -> TokenSet:
        members = np.arange(self._n_vocab) % 2 == len(self.accepted) % 2
        return TokenSet.of(members)

    def accept(self, token_id: int) -> None:
        assert token_id in self.allowed()
        self.accepted.append(token_id)


def test_masks_hold_for_drafts(
    full_length: None, drafted: Callable[..., Engine], start: Start, new_client: NewClient, model: Model
) -> None:
    outputs = []
    for engine in (start(), drafted(model, draft_max=4)):
        mask = EvenThenOdd(model.n_vocab)
        engine.submit((client := new_client([3, 1], max_tokens=40, mask=mask)).request)
        outputs.append(client.wait().tokens)
        assert mask.accepted == client.tokens
    assert outputs[0] == outputs[1]
    assert [token % 2 for token in outputs[0]] == [0, 1] * 20


def test_log_probabilities_are_those_of_every_token(
    full_length: None, drafted: Callable[..., Engine], start: Start, new_client: NewClient, model: Model
) -> None:
    told: list[list[Any]] = []
    for engine in (start(), drafted(model, draft_max=4)):
        tokens: list[Any] = []
        params = SamplingParams(temperature=0.7, seed=3, logprobs=2, max_tokens=30)
        client = new_client([3, 1, 4], params=params, prompt_logprobs=True)
        deliver = client.request.deliver
        client.request.deliver = lambda output, tokens=tokens, deliver=deliver: (tokens.append(output), deliver(output))
        engine.submit(client.request)
        client.wait()
        told.append(tokens[:-1])
    assert told[0] == told[1]
    assert len(told[0]) == 31


def test_a_cancelled_request_hears_nothing_more_of_its_step(
    full_length: None, drafted: Callable[..., Engine], new_client: NewClient, model: Model
) -> None:
    engine = drafted(model, draft_max=6)
    heard: list[int] = []

    def stop(token: Any) -> bool:
        heard.append(token.token_id)
        if len(heard) == 3:
            engine.cancel(client.request)
        return False

    client = new_client([3, 1, 4], max_tokens=60, stop=stop)
    engine.submit(client.request)
    client.wait()
    assert "cancelled" in str(client.error)
    assert client.tokens == heard == model.greedy([3, 1, 4], 3)


def test_choices_and_texts_to_embed_beside_drafts(
    full_length: None, drafted: Callable[..., Engine], new_client: NewClient, model: Model
) -> None:
    engine = drafted(model, draft_max=4)
    choices = [new_client([7] * 50, max_tokens=20, group="g") for _ in range(3)]
    params = SamplingParams(max_tokens=0, cache_prompt=False)
    text = new_client(list(range(40)), params=params, pooling="mean")
    for client in [*choices, text]:
        engine.submit(client.request)
    for client in choices:
        assert client.wait().tokens == model.greedy([7] * 50, 20)
    np.testing.assert_allclose(text.wait().vectors[0], model.expected_states(list(range(40))).mean(0), rtol=1e-5)


@pytest.mark.parametrize("share_right", [0.0, 1.0])
def test_sampled_tokens_keep_their_distribution(
    full_length: None, drafted: Callable[..., Engine], new_client: NewClient, model: Model, share_right: float
) -> None:
    """Of 1500 answers that begin with one token, the second one, which was drafted as the likeliest, or as another."""
    first = model.greedy([4, 2], 1)
    engine = drafted(model, lambda: share_right == 1, draft_max=2, n_parallel=8, max_queue=1500)
    params = [SamplingParams(temperature=1.0, top_k=5, top_p=1, min_p=0, seed=i, max_tokens=3) for i in range(1500)]
    clients = [new_client([4, 2], params=one, mask=BeginsWith(first[0], model.n_vocab)) for one in params]
    for client in clients:
        engine.submit(client.request)
    tokens = [client.wait().tokens for client in clients]
    assert {found[0] for found in tokens} == set(first)
    logits = model.expected_logits([4, 2, *first]).astype(np.float64)
    likeliest = np.argsort(-logits)[:5]
    weights = np.exp(logits[likeliest] - logits.max())
    expected = len(tokens) * weights / weights.sum()
    counts = np.array([sum(found[1] == token for found in tokens) for token in likeliest])
    assert counts.sum() == len(tokens)
    assert ((counts - expected) ** 2 / expected).sum() < 18.5  # chi-square of 4 degrees, p = 0.001
    assert sum(engine.measures.drafted.values()) >= len(tokens)


class BeginsWith:
    """A mask that leaves one token for the first."""

    def __init__(self, token_id: int, n_vocab: int) -> None:
        self._next: TokenSet = TokenSet(np.array([token_id]))

    def allowed(self) -> TokenSet:
        return self._next

    def accept(self, token_id: int) -> None:
        self._next = TokenSet(np.empty(0, np.intp), excluded=True)


class NoLength(DraftLength):
    """Verifies nothing."""

    def choose(self, room: Mapping[Request, int]) -> dict[Request, int]:
        return dict.fromkeys(room, 0)


def test_drafting_that_brings_nothing_takes_next_to_no_time(
    monkeypatch: pytest.MonkeyPatch, new_client: NewClient, model: Model
) -> None:
    """Each guess takes as long as 200 steps are taken to: after the first it rests, and the second is its last."""
    monkeypatch.setattr("stride.engine.draft.DraftLength", NoLength)
    clock = [0.0]
    monkeypatch.setattr("stride.engine.draft.perf_counter", lambda: clock[0])
    guesses: list[int] = []

    class Slow(Guesser):
        def propose(self, lengths: Mapping[Request, int]) -> None:
            super().propose(lengths)
            if any(lengths.values()):
                guesses.append(len(model.batches))
                clock[0] += 200 * IDLE_SHARE

    config = EngineConfig(n_ctx=1024, n_parallel=3)
    engine = Engine(model, config, drafter=lambda runner: Slow(model, lambda: False))
    monkeypatch.setattr("stride.engine.loop.perf_counter", lambda: float(len(model.batches)))  # a step takes a second
    engine.submit((client := new_client([1, 2, 3], max_tokens=500)).request)
    assert client.wait().tokens == model.greedy([1, 2, 3], 500)
    assert client.end.timings.draft_n is None
    assert len(guesses) == 2
    assert guesses[1] - guesses[0] >= 200
    engine.close()


def test_a_drafter_that_fails_is_left_out(new_client: NewClient, model: Model, caplog: Any) -> None:
    class Broken(Guesser):
        def propose(self, lengths: Mapping[Request, int]) -> None:
            super().propose(lengths)
            raise RuntimeError("no more guesses")

    engine = Engine(model, EngineConfig(n_ctx=256, n_parallel=3), drafter=lambda runner: Broken(model, lambda: True))
    engine.submit((client := new_client([1, 2, 3], max_tokens=20)).request)
    assert client.wait().tokens == model.greedy([1, 2, 3], 20)
    assert client.end.timings.draft_n is None
    assert "drafting failed" in caplog.text
    engine.close()

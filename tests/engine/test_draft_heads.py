"""Drafts by a model's own heads: the same tokens as without, and heads whose caches are right."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stride import ops
from stride.engine import Engine, EngineConfig, Request
from stride.engine.draft import Drafting
from stride.engine.draft_heads import HeadDrafter
from stride.engine.draft_length import DraftLength
from stride.engine.draft_model import ModelDrafter
from stride.engine.scheduler import Row
from stride.gguf import open_gguf
from stride.models import Decoder, load_model
from stride.models.config import DRAFT_LAG
from stride.ops.api import PAGE_TOKENS, Batch
from stride.types import SamplingParams, TokenSet

GOLDEN = Path(__file__).parents[1] / "golden"
heads = partial(HeadDrafter, lag=DRAFT_LAG)


class SomeLength(DraftLength):
    """Lengths by chance, with rests as long as heads may be behind."""

    chooser = random.Random(0)
    n_rests = 0

    def choose(self, room: Mapping[Request, int]) -> dict[Request, int]:
        self.n_rests = self.n_rests - 1 if self.n_rests else (self.chooser.random() < 0.02) * DRAFT_LAG // 2
        return {request: 0 if self.n_rests else self.chooser.randint(0, most) for request, most in room.items()}


@pytest.fixture(autouse=True)
def some_length(monkeypatch: pytest.MonkeyPatch) -> None:
    SomeLength.chooser = random.Random(5)
    monkeypatch.setattr("stride.engine.draft.DraftLength", SomeLength)
    monkeypatch.setattr("stride.engine.draft.IDLE_SHARE", 1e9)  # nobody rests, however little it brings


@pytest.fixture(scope="module", params=["step35-three-drafts", "step35-one-draft"])
def model(request: pytest.FixtureRequest) -> Iterator[Decoder]:
    with open_gguf(GOLDEN / f"{request.param}.gguf") as file:
        yield load_model(file, ops.load("auto"))


def generate(
    new_client: Any, model: Any, prompts: list[list[int]], temperature: float, n: int, drafter: Any, **config: Any
) -> list[list[int]]:
    engine = Engine(model, EngineConfig(**{"n_ctx": 640, **config}), drafter=drafter)
    clients = [
        new_client(prompt, params=SamplingParams(temperature=temperature, seed=i, max_tokens=n, min_p=0.0))
        for i, prompt in enumerate(prompts)
    ]
    for client in clients:
        engine.submit(client.request)
    outputs = [client.wait().tokens for client in clients]
    assert (sum(engine.measures.drafted.values()) > 0) == (drafter is not None)
    engine.close()
    return outputs


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_speculative_equals_plain(new_client: Any, model: Decoder, temperature: float) -> None:
    chooser = random.Random(1)
    prompts = [[chooser.randrange(model.n_vocab) for _ in range(n)] for n in (1, 2, 5, 31, 70, 33, 200, 90)]
    plain = generate(new_client, model, prompts, temperature, 150, None, n_parallel=1)
    assert [len(tokens) for tokens in plain] == [150] * 8
    for n_parallel, chunk in ((1, 512), (8, 512), (3, 9)):
        found = generate(new_client, model, prompts, temperature, 150, heads, n_parallel=n_parallel, chunk=chunk)
        assert found == plain


def test_resumed_sequences_draft_too(new_client: Any, model: Decoder) -> None:
    chooser = random.Random(2)
    start = [chooser.randrange(model.n_vocab) for _ in range(150)]
    prompts = [start + [chooser.randrange(model.n_vocab) for _ in range(n)] for n in (40, 1, 90)] * 2
    plain = generate(new_client, model, prompts, 0.0, 60, None, n_parallel=1)
    assert generate(new_client, model, prompts, 0.0, 60, heads, n_parallel=2, cache_bytes=1 << 22) == plain


def test_resting_changes_nothing(monkeypatch: pytest.MonkeyPatch, caplog: Any, new_client: Any, model: Decoder) -> None:
    """Drafting rests now and then, as it does where it brings nothing."""
    chooser = random.Random(4)
    propose = Drafting.propose

    def tired(self: Any, running: Sequence[Request]) -> None:
        self._rests = chooser.random() < 0.3
        propose(self, running)

    monkeypatch.setattr(Drafting, "propose", tired)
    prompts = [[chooser.randrange(model.n_vocab) for _ in range(n)] for n in (3, 60, 90, 20, 7)]
    config = EngineConfig(n_ctx=640, n_parallel=2)
    plain = generate(new_client, model, prompts, 0.8, 80, None, n_parallel=1)
    for drafter in (heads, lambda runner: ModelDrafter(model, config)):
        assert generate(new_client, model, prompts, 0.8, 80, drafter, n_parallel=2) == plain
    assert "drafting failed" not in caplog.text


Noted = tuple[list[int], int, np.ndarray]
"""Tokens that were known, then drafts of the heads before; which head comes next, and its logits."""


class NotingRunner:
    """Keeps what draft heads gave to those that asked."""

    def __init__(self, runner: Any, noted: list[Noted]) -> None:
        self._runner = runner
        self._noted = noted
        self.draft_windows = runner.draft_windows

    def draft(self, head: int, rows: Sequence[Row], states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        made, logits = self._runner.draft(head, rows, states)
        asking = [row.request for row in rows if row.n_outputs]
        for request, of_request in zip(asking, logits, strict=True):
            assert request.n_drafts == head
            self._noted.append((request.token_ids[: request.n_tokens + head].tolist(), head, of_request))
        return made, logits


def logits_from_scratch(model: Decoder, tokens: list[int], head: int) -> np.ndarray:
    """What a head says behind some tokens, the last of which are drafts, all before it computed anew."""
    n_computed = len(tokens) - 1 - head  # the last known token is chosen, and not computed yet
    n_pages = -(-len(tokens) // PAGE_TOKENS)
    cache = model.new_cache([n_pages] * len(model.windows), "f16")

    def batch(first: int, n_outputs: int) -> Batch:
        return Batch(
            token_ids=np.array(tokens[first : first + n_computed], np.int32),
            positions=np.arange(n_computed, dtype=np.int32),
            row_starts=np.array([0, n_computed], np.int32),
            page_tables=(np.arange(n_pages, dtype=np.int32)[None, :],) * len(model.windows),
            outputs=np.arange(n_computed - n_outputs, n_computed, dtype=np.int32),
        )

    everything = batch(0, n_computed)
    states = model.residual(model.hidden(everything, cache), everything.outputs)
    for index in range(head + 1):
        states, logits = model.draft(index, states, batch(index + 1, 1), cache)
    return logits[-1]


class Following:
    """A mask that now and then leaves but the token that was guessed, so that drafts of untrained heads are right."""

    def __init__(self, share: float, n_vocab: int) -> None:
        self._share = share
        self._n_vocab = n_vocab
        self._chooser = random.Random(7)
        self.request: Any = None

    def allowed(self) -> TokenSet:
        guessed = self.request.token_ids[self.request.n_tokens :][:1]  # where guesses stand until they are replaced
        if len(guessed) and 0 <= guessed[0] < self._n_vocab and self._chooser.random() < self._share:
            return TokenSet(guessed.astype(np.intp))
        return TokenSet(np.empty(0, np.intp), excluded=True)

    def accept(self, token_id: int) -> None:
        """Nothing is remembered."""


@pytest.mark.parametrize("share_right", [0.0, 0.6, 1.0])
def test_drafts_of_a_long_answer_are_those_computed_from_scratch(
    new_client: Any, model: Decoder, share_right: float
) -> None:
    """To the bit, whatever was accepted, rejected or not drafted; prompts are longer than all heads look back."""
    chooser = random.Random(3)
    noted: list[Noted] = []
    config = EngineConfig(n_ctx=640, n_parallel=3, chunk=40)
    engine = Engine(model, config, drafter=lambda runner: heads(NotingRunner(runner, noted)))
    clients = []
    for n in (60, 3, 100):
        mask = Following(share_right, model.n_vocab)
        prompt = [chooser.randrange(model.n_vocab) for _ in range(n)]
        clients.append(new_client(prompt, max_tokens=200, mask=mask))
        mask.request = clients[-1].request
        engine.submit(clients[-1].request)
    for client in clients:
        assert len(client.wait().tokens) == 200
    engine.close()
    accepted = sum(engine.measures.accepted.values()) / sum(engine.measures.drafted.values())
    assert accepted < 0.05 if share_right == 0 else accepted > share_right / 3
    assert {head for _, head, _ in noted} == set(range(len(model.draft_heads)))
    for tokens, head, logits in noted[::7]:
        np.testing.assert_array_equal(logits, logits_from_scratch(model, tokens, head))


def test_a_prompt_runs_the_heads_over_its_end_alone(new_client: Any, model: Decoder) -> None:
    runs: list[int] = []

    class Counting(HeadDrafter):
        def _run(self, index: int, rows: Any, states: Any) -> Any:
            runs.append(sum(max(0, min(row.end, 500) - row.start) for row in rows))
            return super()._run(index, rows, states)

    generate(new_client, model, [[1] * 500], 0.0, 30, lambda runner: Counting(runner, DRAFT_LAG), n_parallel=1)
    windows = [window for window in model.draft_windows if window is not None]
    assert len(windows) == len(model.draft_windows)
    most = sum((index + 1) * window for index, window in enumerate(windows))
    assert 0 < sum(runs) <= most + 12  # at the very end, some again

"""Drafts by a model's own heads: the same tokens as without, and heads whose caches are right."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stride import ops
from stride.engine import Engine, EngineConfig, Request
from stride.engine.draft_heads import HeadDrafter
from stride.engine.draft_length import DraftLength
from stride.gguf import open_gguf
from stride.models import Decoder, load_model
from stride.models.config import DRAFT_LAG
from stride.ops.api import PAGE_TOKENS, Batch
from stride.types import SamplingParams

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
    plain = generate(new_client, model, prompts, temperature, 300, None, n_parallel=1)
    assert [len(tokens) for tokens in plain] == [300] * 8
    for n_parallel, chunk in ((1, 512), (8, 512), (3, 9)):
        found = generate(new_client, model, prompts, temperature, 300, heads, n_parallel=n_parallel, chunk=chunk)
        assert found == plain


def test_resumed_sequences_draft_too(new_client: Any, model: Decoder) -> None:
    chooser = random.Random(2)
    start = [chooser.randrange(model.n_vocab) for _ in range(150)]
    prompts = [start + [chooser.randrange(model.n_vocab) for _ in range(n)] for n in (40, 1, 90)] * 2
    plain = generate(new_client, model, prompts, 0.0, 60, None, n_parallel=1)
    assert generate(new_client, model, prompts, 0.0, 60, heads, n_parallel=2, cache_bytes=1 << 22) == plain


class Noting(HeadDrafter):
    """Keeps what it drafted: (the known tokens, the drafts)."""

    def propose(self, lengths: Mapping[Request, int]) -> None:
        super().propose(lengths)
        for request in lengths:
            drafts = request.token_ids[request.n_tokens : request.n_tokens + request.n_drafts].tolist()
            self.noted.append((request.token_ids[: request.n_tokens].tolist(), drafts))

    noted: list[tuple[list[int], list[int]]]


def drafts_from_scratch(model: Decoder, tokens: list[int], n: int) -> list[int]:
    """What the heads draft behind some tokens, all that came before computed anew."""
    n_pages = -(-(len(tokens) + n) // PAGE_TOKENS)
    cache = model.new_cache([n_pages] * len(model.windows), "f16")
    ids = np.array(tokens, np.int32)

    def batch(token_ids: np.ndarray, n_outputs: int) -> Batch:
        return Batch(
            token_ids=token_ids,
            positions=np.arange(len(token_ids), dtype=np.int32),
            row_starts=np.array([0, len(token_ids)], np.int32),
            page_tables=(np.arange(n_pages, dtype=np.int32)[None, :],) * len(model.windows),
            outputs=np.arange(len(token_ids) - n_outputs, len(token_ids), dtype=np.int32),
        )

    computed = ids[:-1]  # the last one is chosen, and not computed yet
    states = model.residual(
        model.hidden(batch(computed, len(computed)), cache), np.arange(len(computed), dtype=np.int32)
    )
    drafts: list[int] = []
    for head in range(n):
        following = np.concatenate([ids, np.array(drafts, np.int32)])[head + 1 :]
        states, logits = model.draft(head, states, batch(following, 1), cache)
        drafts.append(int(logits[-1].argmax()))
    return drafts


def test_drafts_of_a_long_answer_are_those_computed_from_scratch(new_client: Any, model: Decoder) -> None:
    """Whatever was accepted, rejected or not drafted before; prompts are longer than all the heads look back."""
    chooser = random.Random(3)
    prompts = [[chooser.randrange(model.n_vocab) for _ in range(n)] for n in (60, 3, 100)]
    noted: list[tuple[list[int], list[int]]] = []

    def noting(runner: Any) -> Noting:
        drafter = Noting(runner, lag=DRAFT_LAG)
        drafter.noted = noted
        return drafter

    generate(new_client, model, prompts, 0.0, 250, noting, n_parallel=3, chunk=40)
    with_drafts = [(tokens, drafts) for tokens, drafts in noted if drafts]
    assert {len(drafts) for _, drafts in with_drafts} == set(range(1, len(model.draft_heads) + 1))
    for tokens, drafts in with_drafts[::5]:
        assert drafts == drafts_from_scratch(model, tokens, len(drafts))


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

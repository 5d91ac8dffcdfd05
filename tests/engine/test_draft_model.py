"""Drafts by a model of the same vocabulary: here the model itself, which is always right, or another."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from stride import ops
from stride.engine import Engine, EngineConfig, Request
from stride.engine.draft_length import DraftLength
from stride.engine.draft_model import ModelDrafter
from stride.models import load_model
from stride.types import SamplingParams

GOLDEN = Path(__file__).parents[1] / "golden"


class FullLength(DraftLength):
    def choose(self, room: Mapping[Request, int]) -> dict[Request, int]:
        return dict(room)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("smaller", ["step35-clamps", "step35-iq4_xs"])
def test_speculative_equals_plain(
    monkeypatch: pytest.MonkeyPatch, new_client: Any, smaller: str, temperature: float
) -> None:
    monkeypatch.setattr("stride.engine.draft.DraftLength", FullLength)
    backend = ops.load("auto")
    model, other = (load_model(GOLDEN / f"{name}.gguf", backend) for name in ("step35-clamps", smaller))
    chooser = random.Random(1)
    prompts = [[chooser.randrange(min(model.n_vocab, other.n_vocab)) for _ in range(n)] for n in (1, 70, 33, 20, 150)]

    def generate(n_parallel: int, drafts: bool, chunk: int = 512) -> tuple[list[list[int]], Engine]:
        config = EngineConfig(n_ctx=256, n_parallel=n_parallel, chunk=chunk, draft_max=5)
        engine = Engine(model, config, drafter=(lambda runner: ModelDrafter(other, config)) if drafts else None)
        params = [SamplingParams(temperature=temperature, seed=i, max_tokens=100) for i in range(len(prompts))]
        clients = [new_client(prompt, params=one) for prompt, one in zip(prompts, params, strict=True)]
        for client in clients:
            engine.submit(client.request)
        outputs = [client.wait().tokens for client in clients]
        engine.close()
        return outputs, engine

    plain, _ = generate(1, drafts=False)
    for n_parallel, chunk in ((1, 512), (4, 512), (2, 30)):
        found, engine = generate(n_parallel, drafts=True, chunk=chunk)
        assert found == plain
        drafted, accepted = engine.measures.drafted, engine.measures.accepted
        assert sum(drafted.values()) > 100
        if smaller == "step35-clamps":  # who drafts for itself is right
            assert accepted == drafted

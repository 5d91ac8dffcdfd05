"""The engine over real decoders: who else is in the batch, and how prompts are cut, changes no token."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stride import ops
from stride.engine import Engine, EngineConfig
from stride.errors import UnsupportedError
from stride.gguf import open_gguf
from stride.models import load_model

GOLDEN = Path(__file__).parents[1] / "golden"
N_TOKENS = 24


@pytest.mark.parametrize("backend", ["numpy", "auto"])
@pytest.mark.parametrize("name", ["step35-clamps", "step35-iq4_xs", "qwen2"])
def test_batched_equals_alone(new_client: Any, name: str, backend: str) -> None:
    with open_gguf(GOLDEN / f"{name}.gguf") as file:
        model = load_model(file, ops.load(backend))
        chooser = random.Random(name)
        prompts = [[chooser.randrange(model.n_vocab) for _ in range(n)] for n in (3, 70, 33, 20)]

        def generate(n_parallel: int, chunk: int) -> list[list[int]]:
            engine = Engine(model, EngineConfig(n_ctx=128, n_parallel=n_parallel, chunk=chunk))
            clients = [new_client(prompt, max_tokens=N_TOKENS) for prompt in prompts]
            for client in clients:
                engine.submit(client.request)
            outputs = [client.wait().tokens for client in clients]
            engine.close()
            return outputs

        alone = generate(n_parallel=1, chunk=512)
        assert [len(tokens) for tokens in alone] == [N_TOKENS] * 4
        assert generate(n_parallel=4, chunk=512) == alone
        assert generate(n_parallel=3, chunk=7) == alone


class Recorder:
    """A model that keeps the logits it gave."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.given: list[np.ndarray] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def logits(self, hidden: Any, rows: Any) -> np.ndarray:
        logits: np.ndarray = self._model.logits(hidden, rows)
        self.given += list(logits)
        return logits


@pytest.fixture(scope="module", params=["step35-clamps", "step35-iq4_xs", "qwen2"])
def model(request: pytest.FixtureRequest) -> Iterator[Any]:
    with open_gguf(GOLDEN / f"{request.param}.gguf") as file:
        yield load_model(file, ops.load("auto"))


@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0"])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_was_cached_gives_the_same_bits(new_client: Any, model: Any, kind: Any, data: st.DataObject) -> None:
    """Prompts that share beginnings of any length, in steps of any size, with and without what others computed."""
    config = {"n_ctx": 256, "n_parallel": 1, "kv_type": kind}
    numbers = st.integers(0, model.n_vocab - 1)
    prompts: list[list[int]] = [data.draw(st.lists(numbers, min_size=1, max_size=150))]
    for _ in range(3):
        before = data.draw(st.sampled_from(prompts))
        kept = before[: data.draw(st.integers(0, len(before)))]
        prompts.append(kept + data.draw(st.lists(numbers, min_size=1, max_size=60)))

    def run(cache_bytes: int, chunk: int) -> list[np.ndarray]:
        recorder = Recorder(model)
        try:
            engine = Engine(recorder, EngineConfig(chunk=chunk, cache_bytes=cache_bytes, **config))
        except UnsupportedError:
            pytest.skip("no such cache for these heads")
        for prompt in prompts:
            client = new_client(prompt, max_tokens=4)
            engine.submit(client.request)
            client.wait()
        engine.close()
        return recorder.given

    alone = run(0, 512)
    shared = run(data.draw(st.sampled_from([1, 1 << 20])), data.draw(st.integers(1, 64)))
    assert len(alone) == len(shared) == 16
    for a, b in zip(alone, shared, strict=True):
        assert a.tobytes() == b.tobytes()

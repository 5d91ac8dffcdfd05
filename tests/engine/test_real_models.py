"""The engine over real decoders: who else is in the batch, and how prompts are cut, changes no token."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from stride import ops
from stride.engine import Engine, EngineConfig
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

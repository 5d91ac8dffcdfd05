"""The engine with a prefix cache: whoever comes and goes, and whatever is kept or pushed out, changes no token."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from stride.engine import Engine, EngineConfig, Failed
from stride.types import SamplingParams

# Of conftest.py: the classes Client and FakeModel, a FakeModel, and what starts an engine over it.
NewClient = NewModel = Model = Start = Any

EOS = frozenset({7})


def family(seed: int, kept: list[int], lengths: list[int]) -> list[list[int]]:
    """Prompts of which each begins like one before it."""
    chooser = random.Random(seed)
    prompts: list[list[int]] = [[]]
    for n_kept, n in zip(kept, lengths, strict=False):
        prompts.append(chooser.choice(prompts)[:n_kept] + [chooser.randrange(97) for _ in range(n)])
    return prompts[1:]


@settings(max_examples=60, deadline=None)
@given(
    kept=st.lists(st.integers(0, 150), min_size=8, max_size=8),
    lengths=st.lists(st.integers(1, 60), min_size=2, max_size=8),
    n_tokens=st.lists(st.integers(0, 40), min_size=8, max_size=8),
    arrivals=st.lists(st.integers(0, 60), min_size=8, max_size=8),
    cancellations=st.dictionaries(st.integers(0, 7), st.integers(0, 60), max_size=3),
    scopes=st.lists(st.sampled_from("ab"), min_size=8, max_size=8),
    cached=st.lists(st.booleans(), min_size=8, max_size=8),
    groups=st.lists(st.sampled_from(["one", "two", None]), min_size=8, max_size=8),
    windows=st.sampled_from([(None, 40), (None,), (40,), (64, None, 3)]),
    cache_bytes=st.sampled_from([0, 1, 5_000, 1 << 20]),
    n_parallel=st.integers(1, 4),
    chunk=st.integers(1, 70),
    seed=st.integers(0, 99),
)
def test_shared_equals_alone(
    new_client: NewClient, new_model: NewModel, at_drawn_steps: Callable[..., None], **drawn: Any
) -> None:
    """Requests are submitted and cancelled at drawn steps, on the engine's thread, while the step runs."""
    model, n_ctx = new_model(windows=drawn["windows"]), 220
    engine = Engine(
        model,
        EngineConfig(
            n_ctx=n_ctx, n_parallel=drawn["n_parallel"], chunk=drawn["chunk"], cache_bytes=drawn["cache_bytes"]
        ),
    )
    clients = [
        new_client(
            prompt,
            params=SamplingParams(temperature=0, max_tokens=n, cache_prompt=keep),
            cache_scope=scope,
            group=group,
            eos_ids=EOS,
        )
        for prompt, n, keep, scope, group in zip(
            family(drawn["seed"], drawn["kept"], drawn["lengths"]),
            drawn["n_tokens"],
            drawn["cached"],
            drawn["scopes"],
            drawn["groups"],
            strict=False,
        )
    ]
    at_drawn_steps(engine, model, clients, drawn["arrivals"], drawn["cancellations"], n_steps=60)
    for i, client in enumerate(clients):
        client.wait()
        alone = model.greedy(client.request.prompt_ids, client.request.params.max_tokens)
        alone = alone[: alone.index(7)] if 7 in alone else alone
        if isinstance(client.end, Failed):
            assert i in drawn["cancellations"]
            assert client.tokens == alone[: len(client.tokens)]
        else:
            assert client.tokens == alone
    assert set(engine.metrics.busy_pages) == {0}
    engine.close()


def test_metrics_tell_what_was_found_and_what_is_kept(start: Start, new_client: NewClient, model: Model) -> None:
    engine = start(cache_bytes=100_000)
    first, again, left_out = (
        new_client([5] * 100, params=SamplingParams(temperature=0, max_tokens=4, cache_prompt=keep))
        for keep in (True, True, False)
    )
    for client in (first, again, left_out):
        engine.submit(client.request)
        assert client.wait().tokens == model.greedy([5] * 100, 4)
    assert [client.end.usage.cached_tokens for client in (first, again, left_out)] == [0, 99, 0]
    assert [client.end.timings.prompt_n for client in (first, again, left_out)] == [100, 1, 100]
    while engine.metrics.running:
        pass
    metrics = engine.metrics
    assert (metrics.prompt_tokens, metrics.cached_tokens) == (201, 99)
    assert metrics.cached_pages[0] == 4
    assert metrics.busy_pages == (0, 0)

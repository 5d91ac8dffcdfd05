"""Prompts that are read for a vector: beside others, in pieces, refused, cancelled; and llama.cpp's vectors."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stride import ops
from stride.engine import Embedding, Engine, EngineConfig, Finished, Request
from stride.engine.pooling import Pool
from stride.errors import ContextOverflowError, GenerationError, OverloadedError, RequestError
from stride.models import load_model
from stride.types import Pooling, SamplingParams

POOLINGS: list[Pooling] = ["mean", "cls", "last"]
NO_TOKENS = SamplingParams(max_tokens=0, cache_prompt=False)
GOLDEN = Path(__file__).parents[1] / "golden"
EXACT = ["qwen2", "llama-factors", "step35-clamps", "step35-long"]
QUANTIZED = ["step35-iq4_xs", "llama-q4_k-q6_k"]


def pooled(states: np.ndarray, pooling: Pooling) -> np.ndarray:
    """What the hidden states [n, n_embd] of a whole prompt become."""
    return {"mean": states.mean(axis=0, dtype=np.float64), "cls": states[0], "last": states[-1]}[pooling]


@given(data=st.data(), pooling=st.sampled_from(POOLINGS), n=st.integers(1, 20))
def test_pieces_of_any_size_give_the_vector_of_the_whole(data: st.DataObject, pooling: Pooling, n: int) -> None:
    states = np.random.default_rng(n).standard_normal((n, 3)).astype(np.float32)
    pool, start = Pool(pooling, n), 0
    while start < n:
        end = data.draw(st.integers(start + 1, n))
        pool.add(states[end - pool.n_wanted(start, end) : end])
        start = end
    np.testing.assert_allclose(pool.vector(), pooled(states, pooling), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(
    "config", [{}, {"chunk": 7}, {"chunk": 32, "n_parallel": 1}, {"cache_bytes": 100_000}], ids=str
)
def test_a_vector_beside_other_requests_is_what_it_is_alone(
    start: Any, new_client: Any, model: Any, pooling: Pooling, config: dict[str, int]
) -> None:
    engine = start(**config)
    prompts = [list(range(1, n)) for n in (2, 33, 90, 90)]
    texts = [new_client(prompt, params=NO_TOKENS, pooling=pooling) for prompt in prompts]
    others = [new_client([5, 6, 7]), new_client(list(range(1, 80)))]
    for client in (*texts[:2], *others, *texts[2:]):
        engine.submit(client.request)
    for text, prompt in zip(texts, prompts, strict=True):
        (vector,) = text.wait().vectors
        np.testing.assert_allclose(vector, pooled(model.expected_states(prompt), pooling), rtol=1e-6, atol=1e-7)
        assert text.tokens == []
        assert isinstance(text.end, Finished)
        assert (text.end.reason, text.end.usage.prompt_tokens, text.end.usage.cached_tokens) == ("stop", len(prompt), 0)
    for other in others:
        assert other.wait().tokens == model.greedy(other.request.prompt_ids, 8)


def test_a_read_prompt_leaves_nothing_behind(start: Any, new_client: Any) -> None:
    """Neither for other keys nor for its own: what was read once would push out what is asked again."""
    engine = start(cache_bytes=100_000)
    engine.submit((text := new_client(list(range(90)), params=NO_TOKENS, pooling="last")).request)
    text.wait()
    assert engine.metrics.cached_pages == (0, 0)
    engine.submit((same := new_client(list(range(90)))).request)
    assert same.wait().end.usage.cached_tokens == 0


def test_the_whole_context_may_be_read(start: Any, new_client: Any) -> None:
    engine = start(n_ctx=64)
    engine.submit((text := new_client([1] * 64, params=NO_TOKENS, pooling="mean")).request)
    assert len(text.wait().vectors) == 1
    with pytest.raises(ContextOverflowError, match="65 tokens, but the context window has 64"):
        engine.submit(new_client([1] * 65, params=NO_TOKENS, pooling="mean").request)


@pytest.mark.parametrize("params", [SamplingParams(max_tokens=0), SamplingParams(max_tokens=1, cache_prompt=False)])
def test_parameters_that_leave_out_positions_are_refused(start: Any, new_client: Any, params: SamplingParams) -> None:
    with pytest.raises(RequestError, match="max_tokens 0 and cache_prompt False") as caught:
        start().submit(new_client([1], params=params, pooling="mean").request)
    assert caught.value.field == "pooling"


def test_a_cancelled_text_ends_within_a_step(start: Any, new_client: Any, model: Any) -> None:
    engine = start(chunk=8)
    text, other = new_client([1] * 200, params=NO_TOKENS, pooling="mean"), new_client([2] * 30)

    def cancel(batch: Any) -> None:
        if len(model.batches) == 3:
            engine.cancel(text.request)

    model.before_forward = cancel
    engine.submit(text.request)
    engine.submit(other.request)
    assert "cancelled" in str(text.wait().error)
    assert text.vectors == []
    assert text.request.n_computed < 40
    assert other.wait().tokens == model.greedy([2] * 30, 8)


def test_states_that_are_no_numbers_fail_one_text(start: Any, new_client: Any, model: Any) -> None:
    states_of = model.states

    def with_nan(hidden: Any, rows: Any) -> np.ndarray:
        states = states_of(hidden, rows)
        batch = model.batches[-1]
        states[batch.token_ids[batch.outputs[rows]] == 66] = np.nan
        return states

    model.states = with_nan
    engine = start()
    sick, well = (new_client(ids, params=NO_TOKENS, pooling="mean") for ids in ([1, 66, 2], [1, 2]))
    engine.submit(sick.request)
    engine.submit(well.request)
    assert isinstance(sick.wait().error, GenerationError)
    assert "not finite" in str(sick.error)
    assert len(well.wait().vectors) == 1


def test_a_full_queue_refuses_all_but_who_takes_over(start: Any, new_client: Any, model: Any) -> None:
    may_run = threading.Event()
    model.before_forward = lambda batch: may_run.wait(20)
    engine = start(n_parallel=1, max_queue=0)
    first, second, third = (new_client([i], params=NO_TOKENS, pooling="last") for i in (1, 2, 3))
    engine.submit(first.request)
    with pytest.raises(OverloadedError):
        engine.submit(second.request)
    engine.submit(third.request, takes_over=True)
    may_run.set()
    assert len(first.wait().vectors) == len(third.wait().vectors) == 1


def vectors_of(name: str, backend: str, pooling: Pooling, prompts: list[np.ndarray]) -> np.ndarray:
    """What an engine gives, all prompts side by side and in pieces: float32 [n, n_embd]."""
    found: dict[int, np.ndarray] = {}
    ended = threading.Semaphore(0)
    engine = Engine(
        load_model(GOLDEN / f"{name}.gguf", ops.load(backend)),
        EngineConfig(n_ctx=256, n_parallel=4, chunk=64, kv_type="f32"),
    )

    def deliver(index: int, output: Any) -> None:
        if isinstance(output, Embedding):
            found[index] = output.vector
        else:
            ended.release()

    for index, ids in enumerate(prompts):
        engine.submit(Request(ids, NO_TOKENS, partial(deliver, index), pooling=pooling))
    for _ in prompts:
        assert ended.acquire(timeout=60)
    engine.close()
    return np.array([found[index] for index in range(len(prompts))])


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("backend", ["numpy", "auto"])
@pytest.mark.parametrize("name", [*EXACT, *QUANTIZED])
def test_vectors_are_llama_cpps(name: str, backend: str, pooling: Pooling) -> None:
    """``scripts/make_embedding_golden.py`` made them."""
    with np.load(GOLDEN / "embeddings.npz") as arrays:
        prompts = [arrays["tokens"][:n] for n in arrays["lengths"]]
        expected = arrays[f"{name}.{pooling}"].astype(np.float64)
    found = vectors_of(name, backend, pooling, prompts).astype(np.float64)
    if name in EXACT:
        np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5)
    cosines = (found * expected).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() > (0.9999999 if name in EXACT else 0.998)  # llama.cpp rounds activations of quantised weights

"""A model within a budget of memory: the same answers, and what is told of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stride import LLM
from stride.errors import InsufficientMemoryError, RequestError
from stride.load import LoadOptions

pytest.importorskip("stride._cpu", reason="the C++ extension is not built")

OPTIONS = {"n_ctx": 512, "cache_ram": 0, "kv_type": "f16", "backend": "cpu"}
EXPERT_BYTES = 2 << 20
"""Less than all of the demo model's experts."""


@pytest.fixture(scope="module")
def resident() -> Iterator[LLM]:
    with LLM(**OPTIONS) as llm:
        yield llm


@pytest.fixture(scope="module")
def budget(resident: LLM) -> int:
    """Bytes in which not all experts find room."""
    return resident.plan.needed - EXPERT_BYTES


def answer(llm: LLM) -> str:
    return llm.generate("Once upon a time", max_tokens=24, temperature=0, ignore_eos=True).text


def test_a_model_within_a_budget_answers_as_it_does_in_memory(resident: LLM, budget: int) -> None:
    assert resident.streaming is None
    assert resident.expectation() is None
    with LLM(**OPTIONS, memory=budget) as llm:
        assert llm.plan.needed <= budget
        assert answer(llm) == answer(resident)
        counts = llm.streaming
        assert counts is not None
        assert counts.misses > 0
        assert counts.hits > 0
        assert counts.read_bytes > 0
        assert counts.n_slots < counts.n_experts
        expectation = llm.expectation()
        assert expectation is not None
        assert "tok/s: " in expectation
    assert llm.streaming is None


def test_sequences_share_the_experts_in_memory(resident: LLM, budget: int) -> None:
    prompts = [f"{i} and" for i in range(4)]
    options = {"max_tokens": 12, "temperature": 0, "ignore_eos": True}
    with LLM(**{**OPTIONS, "n_parallel": 4}, memory=budget + (8 << 20)) as llm:
        assert llm.streaming is not None
        streams = [llm.generate(prompt, stream=True, **options) for prompt in prompts]
        got = [stream.result().text for stream in streams]
    assert got == [resident.generate(prompt, **options).text for prompt in prompts]


def test_a_budget_below_one_tokens_needs_is_refused_with_one_that_would_do() -> None:
    with pytest.raises(InsufficientMemoryError, match=r"does not fit: .* MiB would do"):
        LLM(**OPTIONS, memory="100M")


@pytest.mark.parametrize("memory", ["much", "-1G", 0, -5, 1.5, True])
def test_what_is_no_budget_is_refused(memory: object) -> None:
    with pytest.raises(RequestError, match=r"memory|is no size"):
        LoadOptions(memory=memory)  # type: ignore[arg-type]

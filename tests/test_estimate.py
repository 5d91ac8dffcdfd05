"""Estimates from a head and a machine's rates: what limits, what fits, and that more of anything is never worse."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stride import estimate, ops
from stride.experts.policy import DEFAULT
from stride.experts.saved import Saved
from stride.gguf import open_gguf
from stride.memory import Memory, Wishes
from stride.models.config import MoeConfig, read_config
from stride.ops.machine import Machine

PLENTY = Memory(1 << 40, 1 << 40)
MACHINE = Machine(bandwidth=50e9, products=1e12, disk=1e9, disk_is_direct=True, threads=2)
WISHES = Wishes(512, 1, "f16", 0)


def read(path):
    with open_gguf(path) as file:
        return estimate.read_needs(file, read_config(file), ops.load("numpy"))


@pytest.fixture(scope="module")
def experts():
    return read("tests/golden/step35-iq4_xs.gguf")


@pytest.fixture(scope="module")
def large(experts):
    """The same as if it were a hundred gigabytes, as far as memory and work go."""
    moe = next(layer for layer in experts.config.layers if isinstance(layer.ffn, MoeConfig))
    moe = dataclasses.replace(moe, ffn=dataclasses.replace(moe.ffn, n_experts=288, top_k=8))
    config = dataclasses.replace(experts.config, layers=(*experts.config.layers[:1] * 3, *[moe] * 42))
    work = dataclasses.replace(
        experts.work,
        products=11e9,
        last_products=0.1e9,
        routed_bytes=3 << 30,
        other_bytes=6 << 30,
        expert_bytes=90 << 30,
        largest_expert=(90 << 30) // (42 * 288),
    )
    return dataclasses.replace(experts, config=config, weights=96 << 30, work=work)


def test_what_a_token_asks_for(experts):
    with open_gguf("tests/golden/step35-iq4_xs.gguf") as file:
        config, work = read_config(file), experts.work
        shape = config.experts
        routed = [t for name, t in file.tensors.items() if "_exps." in name]
        held = ops.load("numpy").held_bytes
        assert work.expert_bytes == sum(held(t) for t in routed)
        share = shape.top_k / shape.n_experts
        assert work.routed_bytes == pytest.approx(work.expert_bytes * share, rel=0.01)
        others = [
            t
            for name, t in file.tensors.items()
            if len(t.shape) == 2 and not name.startswith(("token_embd", "output.")) and "nextn" not in name
        ]
        drafts = [t for t in others if int(t.name.split(".")[1]) >= len(config.layers)]
        dense = sum(t.n_values for t in others) - sum(t.n_values for t in drafts)
        assert work.products == pytest.approx(dense + share * sum(t.n_values for t in routed))
        assert 0 < work.last_products < work.products
        assert work.head_products == config.n_vocab * config.n_embd
        assert work.largest_expert * shape.n_keys >= work.expert_bytes


def test_in_memory_bytes_over_bandwidth(large):
    made = estimate.make(large, WISHES, PLENTY, MACHINE)
    assert (made.mode, made.limit, made.hit_rate) == ("resident", "memory", 1.0)
    assert made.generation == pytest.approx(50e9 * estimate.MEMORY_SHARE / (9 << 30), rel=0.01)
    assert made.generation_full <= made.generation
    assert made.prompt == pytest.approx(1e12 * estimate.PRODUCTS_SHARE / 10.9e9, rel=0.05)


def test_streamed_missed_bytes_over_the_disk(large):
    made = estimate.make(large, WISHES, Memory(40 << 30, 64 << 30), MACHINE)
    assert (made.mode, made.limit, made.is_hit_rate_known) == ("streamed", "disk", False)
    assert made.hit_rate == pytest.approx(made.plan.streamed / (90 << 30), abs=0.02)
    assert made.generation == pytest.approx(1e9 / ((3 << 30) * (1 - made.hit_rate)), rel=0.01)
    # 512 tokens use nearly all experts, which come from the disk once
    assert made.prompt == pytest.approx(512 / ((90 << 30) / 1e9), rel=0.02)
    faster = estimate.make(
        large, WISHES, Memory(40 << 30, 64 << 30), dataclasses.replace(MACHINE, disk=1e12, products=1e11)
    )
    assert faster.limit == "memory"
    assert faster.prompt == pytest.approx(1e11 * estimate.PRODUCTS_SHARE / 10.9e9, rel=0.05)


def test_a_trace_says_what_is_found(large):
    shape = large.config.experts
    saved = Saved(shape, "cpu", 100, (1, shape.n_keys), {DEFAULT: (0.9, 1.0)}, (0.95, 1.0))
    memory = Memory(40 << 30, 64 << 30)
    known = estimate.make(large, WISHES, memory, MACHINE, saved)
    assert known.is_hit_rate_known
    assert 0.9 < known.hit_rate < 1
    assert known.generation > estimate.make(large, WISHES, memory, MACHINE).generation


def test_too_large_says_what_would_do(large):
    made = estimate.make(large, WISHES, Memory(2 << 30, 4 << 30), MACHINE)
    assert (made.mode, made.plan, made.generation) == ("too large", None, None)
    assert "2.0 GiB" in made.reason


def test_without_experts_nothing_is_streamed():
    needs = read("tests/golden/qwen2.gguf")
    assert needs.config.experts is None
    assert needs.work.expert_bytes == needs.work.routed_bytes == 0
    assert estimate.make(needs, WISHES, PLENTY, MACHINE).mode == "resident"
    assert estimate.make(needs, WISHES, Memory(1000, 1000), MACHINE).mode == "too large"


def test_without_the_extension_prompts_are_unknown(large):
    made = estimate.make(large, WISHES, PLENTY, dataclasses.replace(MACHINE, products=None))
    assert made.prompt is None
    assert made.generation is not None


@given(gib=st.integers(10, 120), more=st.integers(0, 40), bandwidth=st.floats(1e9, 1e12), disk=st.floats(1e7, 1e11))
@settings(deadline=None, max_examples=50)
def test_more_memory_and_faster_parts_are_never_worse(large, gib, more, bandwidth, disk):
    machine = Machine(bandwidth, 1e12, disk, True, 2)
    made = estimate.make(large, WISHES, Memory(gib << 30, gib << 30), machine)
    roomier = estimate.make(large, WISHES, Memory(gib + more << 30, gib + more << 30), machine)
    faster = estimate.make(large, WISHES, Memory(gib << 30, gib << 30), Machine(2 * bandwidth, 2e12, 2 * disk, True, 2))
    for better in (roomier, faster):
        assert better.generation >= made.generation * 0.999
        assert better.prompt >= made.prompt * 0.999
    assert made.generation >= made.generation_full
    assert made.plan.needed <= made.plan.available

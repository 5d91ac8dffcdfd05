"""What is needed, what there is, and the plans made of both."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stride.engine.kv import PagedCache, pages_per_sequence
from stride.errors import InsufficientMemoryError, RequestError
from stride.memory import (
    SPARE_BYTES,
    STREAM_CHUNKS,
    Experts,
    Memory,
    Plan,
    Room,
    Wishes,
    cache_bytes,
    cgroup_limits,
    machine_memory,
    page_bytes,
    parse_size,
    plan,
    split_cache,
    within,
    working_bytes,
)
from stride.models.config import DRAFT_LAG, DenseConfig, LayerConfig, ModelConfig, MoeConfig, RopeConfig

CHUNK = 64
PLENTY = Memory(1 << 50, 1 << 50)
WEIGHTS = 1 << 30


def layer(window: int | None) -> LayerConfig:
    return LayerConfig(4, 2, 16, 16, RopeConfig(16, 1e4, "halves"), DenseConfig(8), window)


CONFIG = ModelConfig("llama", "m", 100, 64, 16384, 1e-5, (layer(None), layer(64), layer(64), layer(64)))
TOKEN = 2 * (16 + 16) * 2
"""Bytes of a token's keys and values in one layer, f16."""


def memory_for(plan: Plan, more: int = 0) -> Memory:
    return Memory(plan.needed + more, 1 << 40)


# --- sizes ---


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("16G", 16 << 30), ("1.5 GiB", 3 << 29), ("900mb", 900 << 20), ("4096", 4096), ("2k", 2048), ("1T", 1 << 40)],
)
def test_sizes(text, n_bytes):
    assert parse_size(text) == n_bytes


@pytest.mark.parametrize("text", ["", "G", "-1G", "16 gigs", "1e9", "4G4", "١G"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(RequestError, match="is no size"):
        parse_size(text)


# --- needs ---


def test_bytes_of_pages_and_sequences():
    assert page_bytes(CONFIG, "f16") == (32 * TOKEN, 3 * 32 * TOKEN)
    assert page_bytes(CONFIG, "q8_0")[0] == 32 * TOKEN * 34 // 64
    assert cache_bytes(CONFIG, 320, "f16", CHUNK) == 32 * TOKEN * 10 + 3 * 32 * TOKEN * 5
    assert cache_bytes(CONFIG, 1, "f16", CHUNK) == 4 * 32 * TOKEN
    assert split_cache(CONFIG, 320, "f16", CHUNK) == (32 * TOKEN * 10, 3 * 32 * TOKEN * 5)


@given(
    window=st.one_of(st.none(), st.integers(1, 200)),
    n_ctx=st.integers(2, 500),
    chunk=st.integers(1, 100),
    steps=st.lists(st.integers(1, 100)),
)
def test_a_sequence_never_holds_more_pages_than_planned(window, n_ctx, chunk, steps):
    cache = PagedCache([window], n_slots=1, n_ctx=n_ctx, chunk=chunk)
    slot, start = cache.open(), 0
    for n_tokens in steps:
        end = min(n_ctx, start + min(n_tokens, chunk))
        cache.extend(slot, start, end)
        assert cache.n_busy_pages[0] <= pages_per_sequence(window, end, chunk)
        start = end
        if end == n_ctx:
            break


# --- plans ---


def test_all_wishes_where_memory_is_plenty():
    cache, working = 4 * cache_bytes(CONFIG, 8192, "f16", CHUNK), working_bytes(CONFIG, 4, CHUNK)
    expected = Plan(8192, 4, "f16", WEIGHTS, cache, working, PLENTY.available, 8 << 30, chunk=CHUNK)
    assert plan(CONFIG, WEIGHTS, Wishes(), CHUNK, PLENTY) == expected
    assert plan(CONFIG, WEIGHTS, Wishes(n_ctx=0), CHUNK, PLENTY).n_ctx == 16384
    assert plan(CONFIG, WEIGHTS, Wishes(n_ctx=10**9, n_parallel=9, kv_type="f32"), CHUNK, PLENTY).n_ctx == 16384


def test_first_fewer_sequences_then_smaller_values_then_less_context():
    steps = [
        plan(CONFIG, WEIGHTS, Wishes(8192, count, kind), CHUNK, PLENTY)
        for kind in ("f16", "q8_0")
        for count in (4, 3, 2, 1)
    ]
    for step in steps:
        chosen = plan(CONFIG, WEIGHTS, Wishes(), CHUNK, memory_for(step))
        # q8_0 for many may be smaller than f16 for one, which is preferred where it fits
        assert chosen.needed <= step.needed
        assert (chosen.n_ctx, chosen.kv_type) == (8192, "f16" if step.needed >= steps[3].needed else "q8_0")
    shorter = plan(CONFIG, WEIGHTS, Wishes(), CHUNK, memory_for(steps[-1], -1))
    assert (shorter.n_parallel, shorter.kv_type, shorter.n_ctx) == (1, "q8_0", 8192 - 256)


@given(
    available=st.integers(0, 4 << 30), wished=st.sampled_from([None, 0, 700, 4096]), count=st.sampled_from([None, 2])
)
def test_a_plan_fits_or_there_is_none(available, wished, count):
    try:
        made = plan(CONFIG, WEIGHTS, Wishes(wished, count), CHUNK, Memory(available, 8 << 30))
    except InsufficientMemoryError:
        assert available < WEIGHTS * 1.03 + working_bytes(CONFIG, 4, CHUNK) + (64 << 20)
        return
    assert made.needed <= available
    assert made.n_parallel in ((1, 2, 3, 4) if count is None else (2,))
    if wished:
        assert made.n_ctx == wished
    else:
        assert made.n_ctx >= 512


def test_a_refusal_says_what_would_do():
    one = plan(CONFIG, WEIGHTS, Wishes(2048, 1, "f16"), CHUNK, PLENTY)
    there = memory_for(one)
    with pytest.raises(InsufficientMemoryError, match=r"4 × 16384 tokens as f16\), .* are available; a context of"):
        plan(CONFIG, WEIGHTS, Wishes(16384, 4, "f16"), CHUNK, there)
    with pytest.raises(InsufficientMemoryError, match=r"a context of 2048 \(-c 2048\) fits"):
        plan(CONFIG, WEIGHTS, Wishes(16384, 1, "f16"), CHUNK, there)
    with pytest.raises(InsufficientMemoryError, match=r"\(-c \d+\) with --parallel 1 fits"):
        plan(CONFIG, WEIGHTS, Wishes(16384, 8, "f16"), CHUNK, there)
    with pytest.raises(InsufficientMemoryError, match="only a smaller model") as caught:
        plan(CONFIG, WEIGHTS, Wishes(), CHUNK, Memory(WEIGHTS, WEIGHTS))
    assert not caught.value.could_ever_fit


@pytest.mark.parametrize(
    ("wish", "left", "given"),
    [
        (None, 100 << 30, 8 << 30),
        (None, 3 << 30, 3 << 29),
        (0, 3 << 30, 0),
        (-1, 3 << 30, 3 << 30),
        (1 << 30, 3 << 30, 1 << 30),
        (9 << 30, 3 << 30, 3 << 30),
        (None, 0, 0),
    ],
)
def test_earlier_prompts_get_of_what_is_left(wish, left, given):
    whole = plan(CONFIG, WEIGHTS, Wishes(2048, 1, "f16"), CHUNK, PLENTY)
    made = plan(CONFIG, WEIGHTS, Wishes(2048, 1, "f16", wish), CHUNK, memory_for(whole, left))
    assert made.prefixes == given
    assert made.needed == whole.needed


def test_a_plan_reads_well():
    shown = str(Plan(4096, 2, "q8_0", 3 << 30, 1 << 28, 200 << 20, 7 << 30, 1 << 30))
    assert shown == (
        "memory: 3.5 GiB of 7.0 GiB available: weights 3.0 GiB, keys and values 256 MiB, "
        "working memory 292 MiB at most\ncontext: 4096 tokens for each of 2 at a time, keys and values as q8_0; "
        "earlier ones kept in up to 1.0 GiB more"
    )


# --- what there is ---


def write_group(folder: Path, limit: str, usage: int, stat: str, names: tuple[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(stat)


def test_limits_of_containers(tmp_path):
    new = ("memory.max", "memory.current")
    write_group(tmp_path / "a" / "b", "max", 5, "anon 1\ninactive_file 0\n", new)
    write_group(tmp_path / "a", "1000", 700, "anon 1\ninactive_file 200\n", new)
    assert list(cgroup_limits("0::/a/b\n", tmp_path)) == [Memory(500, 1000)]
    old = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    write_group(tmp_path / "memory", "2000", 3000, "total_inactive_file 100\n", old)
    assert list(cgroup_limits("5:cpu:/x\n4:memory:/gone\n", tmp_path)) == [Memory(0, 2000)]
    assert list(cgroup_limits("", tmp_path)) == []


def test_this_machine_has_memory():
    memory = machine_memory()
    assert 0 < memory.available <= memory.total


# --- while it runs ---


def test_room_counts_what_others_were_promised():
    page = page_bytes(CONFIG, "f16")[0]
    there = SPARE_BYTES + 10 * page
    first, second = (Room(CONFIG, "f16", lambda: Memory(there, there)) for _ in range(2))
    try:
        assert first((6, 0))
        assert not second((5, 0))
        assert second((4, 0))
        assert not first((7, 0))
        assert first((0, 0))
        assert second((10, 0))
        second.close()
        assert first((10, 0))
        assert not first((0, 4))  # a page of three layers
    finally:
        first.close()
        second.close()


def test_no_memory_is_asked_for_where_none_is_wanted():
    room = Room(CONFIG, "f16", lambda: pytest.fail("measuring takes time"))
    assert room((0, 0))
    room.close()


def test_working_memory_is_part_of_every_plan():
    with pytest.raises(InsufficientMemoryError):
        plan(CONFIG, 0, Wishes(), CHUNK, Memory(*2 * [working_bytes(CONFIG, 1, CHUNK)]))


def test_working_memory_grows_with_whatever_takes_it():
    wide = dataclasses.replace(CONFIG, n_embd=2 * CONFIG.n_embd)
    experts = MoeConfig(16, 4, 8, "softmax", True, 1.0, shared_width=8)
    mixed = dataclasses.replace(CONFIG, layers=(dataclasses.replace(CONFIG.layers[0], ffn=experts),))
    words = dataclasses.replace(CONFIG, n_vocab=2 * CONFIG.n_vocab)
    least = working_bytes(CONFIG, 1, CHUNK)
    assert working_bytes(CONFIG, 2, CHUNK) == least + 4 * CONFIG.n_vocab
    assert working_bytes(wide, 1, CHUNK) == least + 4 * CHUNK * 6 * CONFIG.n_embd
    assert working_bytes(mixed, 1, CHUNK) == least + 4 * CHUNK * 2 * (5 * 8 - 8)
    assert working_bytes(words, 1, CHUNK) > least + 600 * CONFIG.n_vocab
    assert working_bytes(CONFIG, 1, 2 * CHUNK) > least


# --- experts on disk ---

EXPERTS = Experts(n_bytes=8 << 30, count=1024, slot_bytes=8 << 20, least=8)
WITH_EXPERTS = WEIGHTS + EXPERTS.n_bytes


def streamed(available, wishes=Wishes()):  # noqa: B008
    return plan(CONFIG, WITH_EXPERTS, wishes, CHUNK, Memory(available, 64 << 30), EXPERTS)


def test_experts_that_fit_are_not_streamed():
    resident = plan(CONFIG, WITH_EXPERTS, Wishes(), CHUNK, PLENTY)
    assert plan(CONFIG, WITH_EXPERTS, Wishes(), CHUNK, PLENTY, EXPERTS) == resident
    assert resident.streamed == 0
    assert streamed(resident.needed).streamed == 0


def test_what_all_else_leaves_is_for_experts():
    made = streamed(4 << 30)
    assert made.weights == WEIGHTS
    assert made.streamed % EXPERTS.slot_bytes == 0
    assert made.streamed > 2 << 30
    assert made.needed + made.prefixes <= 4 << 30 < made.needed + made.prefixes + EXPERTS.slot_bytes
    assert made.chunk in STREAM_CHUNKS[0]
    assert "the others stay on disk" in str(made)
    without = streamed(4 << 30, Wishes(prefixes=0))
    assert without.prefixes == 0
    assert without.streamed > made.streamed


@given(available=st.integers(0, 16 << 30), wished=st.sampled_from([None, 0, 700]), count=st.sampled_from([None, 2]))
def test_a_streamed_plan_fits_or_says_what_would(available, wished, count):
    wishes = Wishes(wished, count)
    try:
        made = streamed(available, wishes)
    except InsufficientMemoryError as error:
        found = re.search(r"streamed from disk: ([\d.]+ [MG]iB) would do", str(error))
        assert found is not None
        would_do = parse_size(found[1])
        assert would_do > available
        assert streamed(would_do, wishes).streamed >= EXPERTS.least * EXPERTS.slot_bytes
        return
    assert made.needed <= available
    assert made.streamed == 0 or made.streamed >= EXPERTS.least * EXPERTS.slot_bytes
    assert made.streamed <= EXPERTS.count * EXPERTS.slot_bytes


def test_streaming_leaves_a_margin():
    spared = dataclasses.replace(EXPERTS, margin=1 << 30)
    made = plan(CONFIG, WITH_EXPERTS, Wishes(), CHUNK, Memory(5 << 30, 64 << 30), spared)
    assert made.streamed == streamed(4 << 30).streamed


def test_a_budget_is_as_if_there_were_no_more():
    assert within(Memory(10, 20), None) == Memory(10, 20)
    assert within(Memory(10, 20), 15) == Memory(10, 15)
    assert within(Memory(10, 20), 5) == Memory(5, 5)


# --- drafting ---


def test_draft_layers_and_what_they_lag_behind_are_counted():
    drafting = dataclasses.replace(CONFIG, draft_layers=(layer(64), layer(64)))
    assert page_bytes(drafting, "f16") == (32 * TOKEN, 5 * 32 * TOKEN)
    assert drafting.spans == (None, 64 + DRAFT_LAG)
    pages = pages_per_sequence(64 + DRAFT_LAG, 320, CHUNK)
    assert cache_bytes(drafting, 320, "f16", CHUNK) == 32 * TOKEN * 10 + 5 * 32 * TOKEN * pages
    assert split_cache(drafting, 320, "f16", CHUNK)[0] == 32 * TOKEN * 10
    assert working_bytes(CONFIG, 4, CHUNK, 3) == working_bytes(CONFIG, 4, CHUNK) + 4 * 3 * 4 * CONFIG.n_vocab
    assert working_bytes(drafting, 4, CHUNK, 3) > working_bytes(CONFIG, 4, CHUNK, 3)


def test_a_draft_model_is_part_of_the_plan_and_named_in_it():
    alone = plan(CONFIG, WEIGHTS, Wishes(n_drafts=8), CHUNK, PLENTY)
    made = plan(CONFIG, WEIGHTS, Wishes(n_drafts=8, draft_model=(CONFIG, 1 << 20)), CHUNK, PLENTY)
    assert made.needed == alone.needed + made.draft
    assert made.draft > made.n_parallel * cache_bytes(CONFIG, made.n_ctx, made.kv_type, CHUNK) + (1 << 20)
    assert "the draft model" in str(made)
    assert "the draft model" not in str(alone)
    shorter = plan(CONFIG, WEIGHTS, Wishes(n_drafts=8, draft_model=(CONFIG, 1 << 20)), CHUNK, memory_for(alone))
    assert shorter.needed <= alone.needed

"""The books of streaming: no slot has two experts, none that is needed goes, and waves fit."""

from __future__ import annotations

from typing import get_args

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stride.experts.policies import Kind
from stride.experts.policy import PolicyChoice
from stride.ops.expert_cache import WAVE_EXPERTS, ExpertCache

LAYERS, EXPERTS = 3, 50


def held(cache: ExpertCache) -> list[int]:
    return [int(slot) for table in cache.tables for slot in table if slot >= 0]


def use(cache: ExpertCache, layer: int, wanted: list[int]) -> list[int]:
    """What a step does; gives the experts that it read."""
    waves = cache.waves(layer, wanted)
    assert [expert for wave in waves for expert in wave.experts] == wanted
    pinned = cache.keys(layer, wanted)
    read = []
    cache.enter(layer, waves[0], pinned)
    for i, wave in enumerate(waves):
        for following in waves[i + 1 : i + 2]:
            cache.enter(layer, following, pinned)
        slots = [int(cache.tables[layer][expert]) for expert in wave.experts]
        assert min(slots) >= 0
        assert len(set(slots)) == len(slots)
        assert [cache.tables[layer][expert] for expert in wave.missing] == wave.slots
        assert len(wave.missing) <= WAVE_EXPERTS
        read += wave.missing
        pinned -= cache.keys(layer, wave.experts)
    return read


@given(data=st.data())
def test_every_step_finds_room_and_no_slot_has_two_experts(data: st.DataObject) -> None:
    choice = PolicyChoice(data.draw(st.sampled_from(get_args(Kind))), data.draw(st.booleans()))
    n_expected = data.draw(st.integers(0, 4))
    least = (2 * LAYERS if choice.per_layer else 2) + n_expected
    n_slots = data.draw(st.integers(least, LAYERS * EXPERTS))
    cache = ExpertCache(choice, LAYERS, EXPERTS, n_slots, n_expected)
    experts = st.lists(st.integers(0, EXPERTS - 1), min_size=1, unique=True)
    expected: dict[int, int] = {}
    for _ in range(data.draw(st.integers(1, 12))):
        layer = data.draw(st.integers(0, LAYERS - 1))
        wanted = sorted(data.draw(experts))
        before = set(np.flatnonzero(cache.tables[layer] >= 0).tolist())
        read = use(cache, layer, wanted)
        assert len(read) == len(set(read))
        assert set(wanted) - before - set(read) <= set(range(EXPERTS))
        for slot in cache.overtaken(layer):
            assert slot not in held(cache)
        new, slots = cache.expect((layer + 1) % LAYERS, data.draw(experts))
        assert len(new) == len(slots) <= n_expected
        assert not set(slots) & set(held(cache))
        if data.draw(st.booleans()):
            size = data.draw(st.integers(least, n_slots))
            away = cache.resize(size)
            assert cache.n_slots == size
            assert not set(away) & set(held(cache))
        assert len(held(cache)) == len(set(held(cache))) <= cache.n_slots - n_expected
    assert not expected


def test_what_is_used_again_is_not_read_again() -> None:
    cache = ExpertCache(PolicyChoice("lru"), LAYERS, EXPERTS, 12, 2)
    assert use(cache, 0, [1, 4, 9]) == [1, 4, 9]
    assert use(cache, 1, [1, 4, 9]) == [1, 4, 9]
    assert use(cache, 0, [1, 4, 9]) == []
    assert (cache.counts.hits, cache.counts.misses) == (3, 6)


def test_all_of_a_layer_in_few_slots_is_read_once_each() -> None:
    cache = ExpertCache(PolicyChoice("lru"), LAYERS, EXPERTS, 5, 0)
    everything = list(range(EXPERTS))
    assert use(cache, 0, everything) == everything
    kept = len(held(cache))
    assert len(use(cache, 0, everything)) <= EXPERTS - kept + 3  # two waves must fit beside what is kept


def test_expected_experts_that_come_true_are_not_read_twice() -> None:
    cache = ExpertCache(PolicyChoice("lru"), LAYERS, EXPERTS, 8, 3)
    assert cache.expect(1, [5, 6, 7, 8])[0] == [5, 6, 7]
    assert cache.expect(1, [5])[0] == []
    waves = cache.waves(1, [5, 7, 30])
    on_their_way = cache.enter(1, waves[0], cache.keys(1, [5, 7, 30]))
    assert waves[0].missing == [30]
    assert on_their_way == [int(cache.tables[1][5]), int(cache.tables[1][7])]
    assert len(cache.overtaken(1)) == 1
    assert cache.overtaken(1) == []
    assert (cache.counts.expected, cache.counts.came_true, cache.counts.misses) == (3, 2, 1)


def test_slots_that_are_given_back_are_not_used() -> None:
    cache = ExpertCache(PolicyChoice("lru"), LAYERS, EXPERTS, 20, 0)
    use(cache, 0, list(range(20)))
    away = set(cache.resize(6))
    assert len(away) == 14
    for start in range(0, 48, 4):
        use(cache, 1, list(range(start, start + 4)))
        assert not away & set(held(cache))
    assert cache.resize(20) == []
    use(cache, 2, list(range(20)))
    assert len(held(cache)) == 20

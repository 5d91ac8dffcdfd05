"""Cache policies: never more than the slots, never a pinned key, and what each lets go."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stride.errors import RequestError
from stride.experts.policies import LFU, LRU, S3Fifo
from stride.experts.policy import CHOICES, PolicyChoice, choice, request, wave_size

EVERY = (*CHOICES, PolicyChoice("random"), PolicyChoice("random", True))
N_LAYERS, N_EXPERTS = 2, 8


@pytest.mark.parametrize("kind", EVERY, ids=str)
@given(data=st.data())
@settings(deadline=None)
def test_the_books_agree_whatever_happens(kind, data):
    policy = kind.make(data.draw(st.integers(N_LAYERS, 10)), N_LAYERS, N_EXPERTS)
    held: set[int] = set()
    keys = st.integers(0, N_LAYERS * N_EXPERTS - 1)
    for _ in range(data.draw(st.integers(0, 60))):
        match data.draw(st.sampled_from(["request", "request", "request", "remove", "resize"])):
            case "request":
                layer = data.draw(st.integers(0, N_LAYERS - 1))
                size = wave_size(kind, policy.n_slots, N_LAYERS)
                experts = data.draw(st.sets(st.integers(0, N_EXPERTS - 1), max_size=size))
                asked = [layer * N_EXPERTS + expert for expert in sorted(experts)]
                missing = request(policy, asked)
                assert {key for key, _ in missing} == set(asked) - held
                for key, victim in missing:
                    assert victim not in asked
                    if victim is not None:
                        held.remove(victim)
                    held.add(key)
                assert all(key in policy for key in asked)
            case "remove" if held:
                key = data.draw(st.sampled_from(sorted(held)))
                policy.remove(key)
                held.remove(key)
            case "resize":
                n_slots = data.draw(st.integers(N_LAYERS, 12))
                gone = policy.resize(n_slots)
                assert policy.n_slots == n_slots
                assert set(gone) <= held
                assert len(gone) == len(set(gone))
                held -= set(gone)
        assert len(policy) == len(held) <= policy.n_slots
        assert {key for key in range(N_LAYERS * N_EXPERTS) if key in policy} == held
        key = data.draw(keys)
        assert policy.touch(key) == (key in held)


@pytest.mark.parametrize("kind", [c for c in EVERY if not c.per_layer], ids=str)
def test_pinned_keys_stay_and_too_few_slots_are_refused(kind):
    policy = kind.make(3, 1, 9)
    request(policy, [0, 1, 2])
    with pytest.raises(ValueError, match="pinned"):
        policy.insert(3, [0, 1, 2, 3])
    assert [key for key in range(9) if key in policy] == [0, 1, 2]
    assert policy.insert(3, [0, 2]) == 1
    with pytest.raises(ValueError, match="2 slots are fewer than 3 pinned"):
        policy.resize(2, [0, 2, 3])
    assert policy.resize(2, [0, 3]) == [2]
    with pytest.raises(ValueError, match="0 slots"):
        policy.resize(0)


def test_a_layer_lets_its_own_experts_go():
    policy = PolicyChoice("lru", per_layer=True).make(5, 2, 10)  # three slots for layer 0, two for layer 1
    request(policy, [0, 1, 2])
    request(policy, [10, 11])
    assert request(policy, [12]) == [(12, 10)]
    assert request(policy, [3]) == [(3, 0)]
    with pytest.raises(ValueError, match="1 slots are fewer than 2 layers"):
        policy.resize(1)
    with pytest.raises(ValueError, match="pinned"):
        policy.resize(3, [11, 12])
    assert (policy.n_slots, len(policy)) == (5, 5)  # refused as a whole


def test_lru_lets_go_what_was_not_used_for_longest():
    policy = LRU(3)
    request(policy, [1, 2, 3])
    request(policy, [1])
    assert request(policy, [4]) == [(4, 2)]


def test_lfu_lets_go_what_is_used_least_and_forgets_old_uses():
    policy = LFU(2)
    for _ in range(5):
        request(policy, [1])
    request(policy, [2])
    assert request(policy, [3]) == [(3, 2)]
    for _ in range(600):  # a half-life is 32 uses here
        request(policy, [3])
    request(policy, [4])
    assert 1 not in policy
    for _ in range(40_000):  # weights that grow are brought down again before they overflow
        policy.touch(3)
    assert request(policy, [5]) == [(5, 4)]


def test_lfu_counts_uses_of_what_is_not_held():
    policy = LFU(2)
    request(policy, [1])
    request(policy, [1])
    request(policy, [2])
    assert not policy.touch(3)
    assert not policy.touch(3)
    assert request(policy, [3]) == [(3, 2)]
    assert request(policy, [2]) == [(2, 1)]  # used twice, long ago, against three times


def test_s3_fifo_keeps_what_is_used_again_from_a_scan():
    policy = S3Fifo(10)
    request(policy, [0, 1])
    for _ in range(3):
        request(policy, [0, 1])
    for key in range(100, 160):  # each once
        request(policy, [key])
    assert policy.touch(0)
    assert policy.touch(1)
    lru = LRU(10)
    request(lru, [0, 1])
    for key in range(100, 160):
        request(lru, [key])
    assert not lru.touch(0)


def test_s3_fifo_takes_what_comes_back_soon_into_the_main_queue():
    policy = S3Fifo(4)
    request(policy, [1])
    for key in (2, 3, 4, 5):
        request(policy, [key])
    assert 1 not in policy
    request(policy, [1])
    for key in (6, 7, 8):
        request(policy, [key])
    assert 1 in policy


def test_policies_by_name():
    assert choice("s3-fifo", True) == PolicyChoice("s3-fifo", per_layer=True)
    assert str(choice("lru", False)) == "lru, global"
    with pytest.raises(RequestError, match="'mru'; there are lru, lfu, s3-fifo, random"):
        choice("mru", False)

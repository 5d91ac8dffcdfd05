"""Replays: equal to a policy that runs, and never better than the bound."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.experts.routings import skewed, traces

from stride.errors import StrideError
from stride.experts.policy import CHOICES, PolicyChoice, wave_size
from stride.experts.replay import LEAST_STEPS, Request, belady, curves, replay, requests, waves

EVERY = (*CHOICES, PolicyChoice("random"))


def asked_of(trace):
    """Every request counted but the first third."""
    n = trace.shape.n_experts
    keys = [tuple(sorted({record.layer * n + int(e) for e in record.ids.ravel()})) for record in trace.records]
    return [Request(k, 3 * i >= len(keys)) for i, k in enumerate(keys)]


@given(trace=traces(), data=st.data())
@settings(deadline=None)
def test_no_policy_beats_the_bound(trace, data):
    asked = asked_of(trace)
    n_slots = data.draw(st.integers(trace.shape.n_layers, trace.shape.n_keys + 1))
    bound = belady(asked, n_slots)
    for choice in EVERY:
        outcome = replay(trace, asked, choice, n_slots)
        assert outcome.uses == bound.uses
        assert outcome.hits <= bound.hits


def fewest_misses(accesses, n_slots):
    """By trying everything, for a cache that must hold what is used and counted."""
    states = {frozenset(): 0}  # what is held → misses so far
    for key, is_counted in accesses:
        reached = {}
        for held, misses in states.items():
            if key in held:
                following = [held]
            else:
                following = [held | {key}] if len(held) < n_slots else [held - {v} | {key} for v in held]
                following += [] if is_counted else [held]
            for state in following:
                cost = misses + (is_counted and key not in held)
                reached[state] = min(reached.get(state, cost), cost)
        states = reached
    return min(states.values())


@given(
    accesses=st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=10),
    n_slots=st.integers(1, 3),
)
@settings(deadline=None)
def test_the_bound_is_reached_by_some_choice(accesses, n_slots):
    outcome = belady([Request((key,), is_counted) for key, is_counted in accesses], n_slots)
    assert outcome.uses - outcome.hits == fewest_misses(accesses, n_slots)


@given(trace=traces(), data=st.data())
@settings(max_examples=50, deadline=None)
def test_a_replay_is_a_policy_that_runs(trace, data):
    """Against a cache that is driven by hand, as an engine does it: slots, and what lies in each."""
    shape, asked, choice = trace.shape, asked_of(trace), data.draw(st.sampled_from(EVERY))
    n_slots = data.draw(st.integers(shape.n_layers, shape.n_keys))
    policy = choice.make(n_slots, shape.n_layers, shape.n_experts)
    slot_of, free, hits = {}, list(range(n_slots)), 0
    for one in asked:
        for keys in waves(one.keys, wave_size(choice, n_slots, shape.n_layers)):
            missing = [key for key in keys if not policy.touch(key)]
            hits += one.is_counted * (len(keys) - len(missing))
            for key in missing:
                victim = policy.insert(key, keys)
                slot_of[key] = free.pop() if victim is None else slot_of.pop(victim)
            assert set(keys) <= slot_of.keys()
            assert len(set(slot_of.values())) == len(slot_of)
    assert replay(trace, asked, choice, n_slots).hits == hits


def test_prompts_and_the_first_steps_are_not_counted():
    trace = skewed(n_steps=40)
    prompt = skewed(n_steps=1, seed=5).records
    for record in prompt:
        object.__setattr__(record, "ids", record.ids.repeat(9, axis=0))
    trace.records[:0] = prompt
    counted = [one.is_counted for one in requests(trace)]
    assert counted == [False] * 4 * (1 + 10) + [True] * 4 * 30


def test_too_short_a_trace_is_refused():
    assert requests(skewed(n_steps=LEAST_STEPS))
    with pytest.raises(StrideError, match="15 generated steps"):
        requests(skewed(n_steps=LEAST_STEPS - 1))


def test_hit_rates_grow_with_the_slots_and_order_themselves_as_expected():
    trace, told = skewed(), []
    slots = [8, 32, 64, 128]
    found, bound = curves(trace, EVERY, slots, lambda done, n: told.append((done, n)))
    assert told[-1] == (len(told), len(told)) == (4 * 8, 4 * 8)
    for choice in EVERY:
        rates = [outcome.hit_rate for outcome in found[choice]]
        assert rates == sorted(rates)
        assert rates[-1] > 0.98
        assert all(outcome.seconds_per_use > 0 for outcome in found[choice])
    assert [outcome.hit_rate for outcome in bound] == sorted(outcome.hit_rate for outcome in bound)
    lru, lfu = found[PolicyChoice("lru")][1].hit_rate, found[PolicyChoice("lfu")][1].hit_rate
    random = found[PolicyChoice("random")][1].hit_rate
    assert bound[1].hit_rate > lfu > random  # of a power law, frequency is what counts
    assert lru > random


def test_waves_are_as_large_as_what_can_be_held():
    assert [list(keys) for keys in waves((1, 2, 3, 4, 5), 2)] == [[1, 2], [3, 4], [5]]

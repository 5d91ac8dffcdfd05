"""Whose turn it is: nobody starves, nobody overtakes within a scope, a full queue is shared."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stride.engine.fair_queue import FairQueue
from stride.engine.request import Request
from stride.types import SamplingParams

SCOPES = st.sampled_from("abc")


def new_request(scope: str) -> Request:
    return Request([1], SamplingParams(), lambda output: None, cache_scope=scope)


def scopes(queue: FairQueue) -> str:
    return "".join(request.cache_scope for request in queue)


@given(st.lists(st.tuples(st.sampled_from(["add", "take", "remove"]), SCOPES, st.integers(0, 9)), max_size=60))
def test_within_a_scope_the_order_stays_and_none_waits_for_two_of_another(steps: list[tuple[str, str, int]]) -> None:
    queue = FairQueue()
    expected: dict[str, list[Request]] = {scope: [] for scope in "abc"}
    overtaken: dict[Request, list[str]] = {}  # the turns of others since it was its scope's first
    for what, scope, which in steps:
        own = expected[scope]
        if what == "add":
            queue.append(request := new_request(scope))
            own.append(request)
        elif what == "take" and len(queue):
            request = next(iter(queue))
            queue.take(request)
            assert expected[request.cache_scope].pop(0) is request
            overtaken.pop(request, None)
            for turns in overtaken.values():
                turns.append(request.cache_scope)
        elif what == "remove" and own:
            queue.remove(request := own.pop(which % len(own)))
            overtaken.pop(request, None)
        for requests in expected.values():
            if requests:
                overtaken.setdefault(requests[0], [])
        assert all(len(turns) == len(set(turns)) for turns in overtaken.values())
        waiting = list(queue)
        assert len(queue) == len(waiting) == sum(map(len, expected.values()))
        assert all([one for one in waiting if one.cache_scope == name] == own for name, own in expected.items())


def test_scopes_take_turns() -> None:
    queue = FairQueue()
    for scope in "aaaabbc":
        queue.append(new_request(scope))
    assert scopes(queue) == "abcabaa"
    queue.take(next(iter(queue)))
    assert scopes(queue) == "bcabaa"
    queue.append(new_request("d"))
    assert scopes(queue) == "bcadbaa"


@given(st.text("abc", max_size=100), st.integers(1, 12))
def test_a_full_queue_is_shared_evenly(arrivals: str, most: int) -> None:
    queue, refused = FairQueue(), set()
    for scope in arrivals:
        if len(queue) >= most:
            before = list(queue)
            if (displaced := queue.displace(scope)) is None:
                refused.add(scope)
                continue
            assert displaced is [one for one in before if one.cache_scope == displaced.cache_scope][-1]
        queue.append(new_request(scope))
    assert len(queue) == min(most, len(arrivals))
    counts = {scope: scopes(queue).count(scope) for scope in "abc"}
    assert all(counts[scope] + 1 >= max(counts.values()) for scope in refused)

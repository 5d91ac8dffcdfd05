"""What is kept of a replay, for each model and machine."""

import json

import pytest

from stride.errors import StrideError
from stride.experts import saved
from stride.experts.policy import DEFAULT, PolicyChoice
from stride.experts.saved import Saved
from stride.experts.trace import Shape

SHAPE = Shape("step35 Step 3.5 Flash", 2, 50, 8)
LFU, LAYERED = PolicyChoice("lfu"), PolicyChoice("lru", True)
FOUND = Saved(
    SHAPE, "a cpu", 1000, (10, 50), {DEFAULT: (0.2, 0.7), LFU: (0.3015, 0.7015), LAYERED: (0.3, 0.6)}, (0.4, 0.8)
)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))


def test_what_is_saved_is_loaded_for_that_model_alone():
    path = saved.save(FOUND)
    assert saved.load(SHAPE) == FOUND
    assert saved.load(Shape("another", 2, 50, 8)) is None
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_another_machine_has_its_own(monkeypatch):
    saved.save(FOUND)
    monkeypatch.setattr("platform.node", lambda: "elsewhere")
    assert saved.load(SHAPE) is None


def test_the_best_by_slots_and_the_simpler_of_equals():
    assert FOUND.best(10) == LAYERED  # the other is 0.15 points better
    assert FOUND.best(50) == DEFAULT
    assert FOUND.best(1) == LFU  # a slot is too few for two layers
    saved.save(FOUND)
    assert saved.policy_for(SHAPE, 10) == LAYERED
    assert saved.policy_for(Shape("another", 2, 50, 8), 10) == DEFAULT


def test_hit_rates_between_what_was_measured():
    assert FOUND.hit_rate(30, DEFAULT) == pytest.approx(0.45)
    assert FOUND.hit_rate(0, DEFAULT) == 0
    assert FOUND.hit_rate(75, DEFAULT) == pytest.approx(0.85)
    assert FOUND.hit_rate(10) == pytest.approx(0.3)
    assert FOUND.hit_rate(10**6, LFU) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"slots": []},
        {"slots": [50, 10]},
        {"bound": [0.4]},
        {"bound": [0.4, 1.5]},
        {"hit_rates": [{"kind": "mru", "per_layer": False, "rates": [0, 0]}]},
        {"shape": 1},
    ],
    ids=str,
)
def test_a_damaged_file_is_named(change):
    path = saved.save(FOUND)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(StrideError, match=f"{path.name} is not what"):
        saved.load(SHAPE)


def test_a_file_that_is_no_json_is_named():
    path = saved.save(FOUND)
    path.write_text("{")
    with pytest.raises(StrideError, match=path.name):
        saved.load(SHAPE)
    path.write_bytes(b"\xff")
    with pytest.raises(StrideError, match=path.name):
        saved.load(SHAPE)

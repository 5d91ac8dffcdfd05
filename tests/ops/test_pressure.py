"""When a cache gives memory back, and when it takes it again."""

from __future__ import annotations

from stride.ops.pressure import CALM_BYTES, CALM_SECONDS, LOW_BYTES, Pressure, available_bytes, stalled_seconds

STEP = 100 << 20


class Machine:
    now, stalled, available = 0.0, 0.0, 8 << 30

    def pressure(self) -> Pressure:
        return Pressure(STEP, lambda: self.available, lambda: self.stalled, lambda: self.now)


def test_nothing_changes_where_memory_is_enough() -> None:
    machine = Machine()
    pressure = machine.pressure()
    machine.available = CALM_BYTES - 1
    for _ in range(100):
        machine.now += 0.7
        assert pressure.change() == 0


def test_too_little_memory_is_given_back_at_once_and_taken_again_after_calm() -> None:
    machine = Machine()
    pressure = machine.pressure()
    machine.now, machine.available = 2.0, LOW_BYTES - 1
    assert pressure.change() == -STEP
    assert pressure.change() == 0  # it looks once a second
    machine.now, machine.available = 4.0, 0
    assert pressure.change() == min(-STEP, -2 * LOW_BYTES)
    machine.now, machine.available = 4.0 + CALM_SECONDS, 8 << 30
    assert pressure.change() == 0
    machine.now += 1.5
    assert pressure.change() == STEP
    machine.now, machine.available = machine.now + 1.5, CALM_BYTES + 7
    assert pressure.change() == 7


def test_stalls_are_pressure_whatever_is_free() -> None:
    machine = Machine()
    pressure = machine.pressure()
    machine.now, machine.stalled = 2.0, 0.2
    assert pressure.change() == -STEP
    machine.now = 30.0
    assert pressure.change() == STEP


def test_what_the_system_says() -> None:
    assert available_bytes() > 0
    assert stalled_seconds() >= 0

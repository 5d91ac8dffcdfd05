"""The probes of the machine's limits give figures of the right order, with and without the extension."""

import sys

import pytest

from stride.errors import UnsupportedError
from stride.ops.bandwidth import read_bandwidth


def test_a_machine_reads_more_than_one_and_less_than_ten_thousand_gigabytes_per_second():
    bytes_per_second, threads = read_bandwidth()
    assert 1e9 < bytes_per_second < 1e13
    assert threads >= 1


def test_without_the_extension(monkeypatch):
    monkeypatch.setitem(sys.modules, "stride._cpu", None)
    monkeypatch.setattr("stride.ops.bandwidth.SECONDS", 0.05)
    bytes_per_second, threads = read_bandwidth()
    assert 1e9 < bytes_per_second < 1e13
    assert threads >= 1


def test_each_instruction_set_multiplies_more_than_a_hundred_million_times_a_second():
    _cpu = pytest.importorskip("stride._cpu")
    for isa in _cpu.isas():
        assert 1e8 < _cpu.integer_peak(isa, 1) < 1e13


def test_threads_and_instruction_sets_are_checked():
    _cpu = pytest.importorskip("stride._cpu")
    with pytest.raises(ValueError, match="threads"):
        _cpu.integer_peak(_cpu.isas()[0], 0)
    with pytest.raises(UnsupportedError, match="'6502'"):
        _cpu.integer_peak("6502", 1)

"""The probe of memory bandwidth gives figures of the right order, with and without the extension."""

import sys

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

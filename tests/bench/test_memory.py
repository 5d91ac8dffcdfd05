"""Memory of real processes."""

from __future__ import annotations

import socket
import subprocess
import sys
import time

import psutil

from stride.bench.memory import MemorySampler, listener

MIB = 1 << 20


def test_growth_is_seen():
    program = f"input(); block = bytearray(b'x') * {60 * MIB}; print('grown', flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin
    assert child.stdout
    try:
        with MemorySampler(psutil.Process(child.pid)) as sampler:
            child.stdin.write(b"\n")
            child.stdin.flush()
            assert child.stdout.readline() == b"grown\n"
            time.sleep(0.6)
            sampler.read_shared()
            found = sampler.result()
        assert found is not None
        assert found.peak_rss - found.ready_rss > 50 * MIB
        assert found.peak_uss is None or 50 * MIB < found.peak_uss <= found.peak_rss * 1.1
        assert len(found.series) >= 2
        assert f"PID: {child.pid}" in found.ps
    finally:
        child.communicate(b"\n")


def test_children_count():
    inner = f"b = bytearray(b'x') * {40 * MIB}; print('up', flush=True); input()"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    parent = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout
    try:
        assert parent.stdout.readline() == b"up\n"
        with MemorySampler(psutil.Process(parent.pid)) as sampler:
            found = sampler.result()
        assert found is not None
        assert found.ready_rss > psutil.Process(parent.pid).memory_info().rss + 40 * MIB
    finally:
        parent.communicate(b"\n")


def test_a_process_that_is_gone_gives_nothing():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = psutil.Process(child.pid)
    child.communicate(b"\n")
    with MemorySampler(process) as sampler:
        sampler.read_shared()
        assert sampler.result() is None


def test_the_listener_of_a_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = listener(server.getsockname()[1])
        assert found is not None
        assert found.pid == psutil.Process().pid
    assert listener(9) is None

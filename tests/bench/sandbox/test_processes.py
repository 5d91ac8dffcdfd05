import dataclasses
import os
import subprocess
import sys

import psutil

from stride.bench.sandbox import processes


def test_finding_and_ending_a_session():
    code = "import subprocess, sys; subprocess.Popen(['/bin/sleep', '60']); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        leader = processes.find(process.pid)
        assert leader is not None
        found = {each.pid: each for each in processes.session(leader)}
        (child,) = psutil.Process(process.pid).children()
        assert set(found) == {process.pid, child.pid} == {each.pid for each in processes.descendants(leader)}
        assert found[child.pid].parent == process.pid
        first = processes.child(process.pid)
        assert first is not None
        assert first.pid == child.pid
        assert (found[process.pid].threads, found[process.pid].session) == (1, process.pid)
        assert abs(found[process.pid].resident_bytes - psutil.Process(process.pid).memory_info().rss) < 1 << 20
        processes.end(leader, processes.session)
        assert processes.session(leader) == processes.descendants(leader) == []


def test_a_later_process_of_the_same_number_is_another():
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, start_new_session=True) as process:
        leader = processes.find(process.pid)
        assert leader is not None
        earlier = dataclasses.replace(leader, started=leader.started - 1)
        for members in processes.descendants, processes.session:
            assert [each.pid for each in members(leader)] == [process.pid]
            assert members(earlier) == []
        process.kill()


def test_memory_beyond_what_is_enough_is_counted_exactly():
    own = processes.find(os.getpid())
    assert own is not None
    assert processes.memory_bytes([own, own], enough=1 << 40) == 2 * own.resident_bytes
    if sys.platform == "linux":
        assert 0 < processes.memory_bytes([own], enough=0) <= 1.2 * own.resident_bytes


def test_threads_of_a_user_count_this_process():
    assert processes.threads_of_user() >= 1

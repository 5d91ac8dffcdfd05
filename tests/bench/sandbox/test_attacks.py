"""What hostile code tries, tried for real. Should a sandbox fail, each attempt is bounded in its own code."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stride.bench.sandbox import Ended, Limits, NotServingError
from stride.bench.sandbox import folder as folders

Run = Callable[..., Ended]
MIB = 1 << 20

ATTEMPTS = """
import contextlib, ctypes, fcntl, json, mmap, os, resource, signal, socket, sys, time
succeeded = []
libc = ctypes.CDLL(None, use_errno=True)
def attempt(what, action):
    try:
        result = action()
    except (OSError, ValueError):
        return
    if not (isinstance(result, int) and result < 0):
        succeeded.append(what)
"""


def attempts(code: str) -> str:
    """Lines of ``attempt(what, action)``, after which is printed what succeeded. An action that gives -1 has failed."""
    return ATTEMPTS + textwrap.dedent(code) + "\nprint(json.dumps(succeeded))"


@pytest.fixture
def attempt(run: Run) -> Callable[..., list[str]]:
    """Runs `attempts`; gives what succeeded."""

    def attempt_all(code: str, *arguments: object) -> list[str]:
        ended = run(attempts(code), *arguments)
        assert ended.status == 0, ended
        return json.loads(ended.output)

    return attempt_all


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process of this user that has something in its memory and would not mind to die."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        assert process.poll() is None
        process.kill()


# --- processes, memory, time ---


def test_fork_bomb(run):
    ended = run(
        """
        import os, select, time
        until = time.monotonic() + 5
        tickets, box = os.pipe()
        os.write(box, b"x" * 500)
        while time.monotonic() < until:
            if select.select([tickets], [], [], 0.1)[0]:
                os.read(tickets, 1)
                try: os.fork()
                except OSError: time.sleep(0.01)
        """,
        processes=40,
    )
    assert (ended.limit, ended.reason, ended.status) == ("processes", "more than 40 processes and threads", None)


def test_threads_count_as_processes(run):
    ended = run(
        """
        import threading, time
        for _ in range(100):
            threading.Thread(target=time.sleep, args=(5,), daemon=True).start()
        time.sleep(5)
        """,
        processes=40,
    )
    assert ended.limit == "processes" or "can't start new thread" in ended.output


@pytest.mark.parametrize("processes", [1, 8])
def test_memory_bomb(run, processes):
    """Alone or with others: what counts is all of them together."""
    ended = run(
        """
        import os, sys, time
        processes = int(sys.argv[1])
        for _ in range(processes - 1):
            if not os.fork(): break
        most = 2048 // processes
        held = []
        for _ in range(most):
            held.append(b"x" * (1 << 20))
        time.sleep(3)
        """,
        processes,
        memory_bytes=256 * MIB,
    )
    assert (ended.limit, ended.reason) == ("memory", "more than 256 MiB of memory")


def test_shared_memory_counts_once(run):
    ended = run(
        """
        import os, time
        held = b"x" * (150 << 20)
        children = []
        for _ in range(5):
            if not (child := os.fork()):
                time.sleep(0.5)
                os._exit(0)
            children.append(child)
        for child in children: os.waitpid(child, 0)
        """,
        memory_bytes=256 * MIB,
    )
    assert (ended.limit, ended.status) == (None, 0), ended


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's ways")
def test_memory_that_no_process_holds(attempt):
    succeeded = attempt(
        """
        attempt("memfd", lambda: os.memfd_create("hidden"))
        attempt("System V", lambda: libc.shmget(0, 1 << 20, 0o1600))
        attempt("shared mapping", lambda: mmap.mmap(-1, 4096))
        attempt("zero", lambda: os.open("/dev/zero", os.O_RDWR))
        attempt("messages", lambda: libc.msgget(0, 0o1600))
        """
    )
    assert succeeded == []


def test_loop_that_ignores_sigterm(run):
    ended = run(
        """
        import signal
        for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
            try: signal.signal(number, signal.SIG_IGN)
            except OSError: pass
        while True: pass
        """,
        seconds=0.5,
    )
    assert (ended.limit, ended.reason, ended.status) == ("time", "more than 0.5 s", None)


def test_sleeping_is_not_free(run):
    assert run("import time; time.sleep(60)", seconds=0.3).limit == "time"


@pytest.mark.parametrize("ends", [True, False])
def test_detached_child(run, ends):
    """The fixture ``command`` looks for what is left."""
    ended = run(
        """
        import os, signal, sys, time
        if not os.fork():
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            try: os.setsid()
            except OSError: pass
            try: os.setpgid(0, 0)
            except OSError: pass
            if not os.fork():
                print("away", flush=True)
                time.sleep(60)
            os._exit(0)
        os.wait()
        time.sleep(0.2 if sys.argv[1] == "True" else 60)
        """,
        ends,
        seconds=1,
    )
    assert "away" in ended.output
    assert (ended.limit, ended.status) == ((None, 0) if ends else ("time", None))


# --- network ---


@pytest.fixture
def listeners(tmp_path: Path) -> Iterator[dict[str, object]]:
    """Servers of this machine: TCP, UDP, Unix sockets with and without a path. Nobody may reach them."""
    addresses = {
        "tcp": (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
        "udp": (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
        "path": (socket.AF_UNIX, socket.SOCK_STREAM, os.fspath(tmp_path / "s")),
        "datagram": (socket.AF_UNIX, socket.SOCK_DGRAM, os.fspath(tmp_path / "d")),
        "abstract": (socket.AF_UNIX, socket.SOCK_STREAM, f"\0stride-test-{os.getpid()}"),
    }
    if sys.platform != "linux":
        del addresses["abstract"]
    with contextlib.ExitStack() as stack:
        servers = {}
        for name, (family, kind, address) in addresses.items():
            server = servers[name] = stack.enter_context(socket.socket(family, kind))
            server.bind(address)
            server.setblocking(False)
            if kind == socket.SOCK_STREAM:
                server.listen()
        found = {name: server.getsockname() for name, server in servers.items()}
        yield {name: os.fsdecode(at) if isinstance(at, bytes) else at for name, at in found.items()}
        for server in servers.values():
            with pytest.raises(BlockingIOError):
                server.recv(1) if server.type == socket.SOCK_DGRAM else server.accept()


def test_network(attempt, listeners):
    succeeded = attempt(
        """
        at = json.loads(sys.argv[1])
        def connect(family, kind, address):
            with socket.socket(family, kind) as made:
                made.settimeout(1)
                made.connect(address)
        def send(family, address):
            with socket.socket(family, socket.SOCK_DGRAM) as made:
                made.sendto(b"x", address)
        def send_from_pair(kind, address):
            made, other = socket.socketpair(socket.AF_UNIX, kind)
            made.sendmsg([b"x"], [], 0, address)
        def listen(address):
            with socket.create_server(address): pass
        stream = socket.SOCK_STREAM
        attempt("tcp", lambda: connect(socket.AF_INET, stream, tuple(at["tcp"])))
        attempt("tcp elsewhere", lambda: connect(socket.AF_INET, stream, ("192.0.2.1", 80)))
        attempt("tcp 6", lambda: connect(socket.AF_INET6, stream, ("::1", at["tcp"][1])))
        attempt("udp", lambda: send(socket.AF_INET, tuple(at["udp"])))
        attempt("listen", lambda: listen(("127.0.0.1", 0)))
        attempt("unix", lambda: connect(socket.AF_UNIX, stream, at["path"]))
        attempt("abstract", lambda: connect(socket.AF_UNIX, stream, at.get("abstract", "")))
        attempt("datagram", lambda: send(socket.AF_UNIX, at["datagram"]))
        attempt("datagram of a pair", lambda: send_from_pair(socket.SOCK_DGRAM, at["datagram"]))
        attempt("sequence of a pair", lambda: send_from_pair(socket.SOCK_SEQPACKET, at["datagram"]))
        attempt("stream of a pair", lambda: send_from_pair(stream, at["datagram"]))
        attempt("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
        if sys.platform == "linux":
            attempt("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
            attempt("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
            attempt("vsock", lambda: socket.socket(socket.AF_VSOCK, stream))
            attempt("io_uring", lambda: libc.syscall(425, 1, ctypes.create_string_buffer(120)))
        """,
        json.dumps(listeners),
    )
    assert succeeded == []


# --- files ---


def test_secrets(attempt, tmp_path, monkeypatch):
    monkeypatch.setenv("STRIDE_TEST_KEY", "sk-5f3a")
    (tmp_path / "key").write_text("sk-5f3a")
    inherited = os.open(tmp_path / "key", os.O_RDONLY)
    os.set_inheritable(inherited, True)
    try:
        succeeded = attempt(
            """
            key, grader, inherited, home = sys.argv[1:5]
            secret, known = "sk-" + "5f3a", sys.base_prefix + "/" + os.getcwd()
            attempt("environment", lambda: 0 if secret in str(dict(os.environ)) else -1)
            attempt("key", lambda: open(key).close())
            attempt("descriptor", lambda: 0 if os.read(int(inherited), 7) == secret.encode() else -1)
            attempt("folder", lambda: 0 if "key" in os.listdir(os.path.dirname(key)) else -1)
            attempt("home", lambda: 0 if set(os.listdir(home)) - set(known.split("/")) else -1)
            for name in ("/etc/passwd", "/etc/shadow", "/etc/hostname", "/var/log", "/home", "/root/.bashrc", "/sys"):
                attempt(name, lambda: os.open(name, os.O_RDONLY))
            for name in ("environ", "mem", "maps", "cmdline", "cwd/x", "root/etc/passwd", "fd", "task"):
                attempt(name, lambda: os.open(f"/proc/{grader}/{name}", os.O_RDONLY))
                attempt(name, lambda: 0 if secret in open(f"/proc/{os.getppid()}/{name}").read() else -1)
            """,
            *(tmp_path / "key", os.getpid(), inherited, Path.home()),
        )
    finally:
        os.close(inherited)
    assert succeeded == []


def test_writing_outside(sandbox, folder, command, tmp_path):
    readable = tmp_path / "readable"
    readable.mkdir()
    inside, outside = readable / "file", tmp_path / "outside"
    for path in (inside, outside):
        path.write_text("as it was")
    readable.chmod(0o777)
    inside.chmod(0o666)
    outside.chmod(0o666)
    before = [os.stat(path) for path in (readable, inside, outside, tmp_path, sys.base_prefix, "/usr/bin")]
    code = """
        readable, *paths, system = sys.argv[1:5]
        assert open(paths[0]).read() == "as it was"
        for path in paths:
            attempt("write", lambda: open(path, "w").close())
            attempt("append", lambda: open(path, "r+").close())
            attempt("truncate", lambda: os.truncate(path, 0))
            attempt("remove", lambda: os.remove(path))
            attempt("move", lambda: os.rename(path, "here"))
            attempt("link", lambda: os.link(path, "hard"))
            attempt("attribute", lambda: os.setxattr(path, "user.x", b"x"))
            for action in (
                lambda: os.chmod(path, 0o777),
                lambda: os.fchmod(os.open(path, os.O_RDONLY), 0o777),
                lambda: libc.syscall(452, -100, path.encode(), 0o777, 0),
                lambda: os.utime(path, (0, 0)),
                lambda: os.chown(path, 1, 1),
            ):
                try: action()
                except OSError: pass
        places = ("/usr/bin", "/tmp", "/dev", "/dev/shm", "/etc", "/", "/proc", "/var/tmp")
        for where in (readable, os.path.dirname(readable), system, *places):
            attempt("file " + where, lambda: open(where + "/stride-test", "w").close())
            attempt("folder " + where, lambda: os.mkdir(where + "/stride-test"))
            attempt("link " + where, lambda: os.symlink("x", where + "/stride-test"))
        attempt("device", lambda: os.mknod("device", 0o20666, os.makedev(1, 3)))
        attempt("kernel", lambda: open("/proc/sys/kernel/core_pattern", "r+").close())
        attempt("mount", lambda: libc.mount(b"none", b".", b"tmpfs", 0, b""))
        for flag in (0x10000000, 0x00020000):
            attempt("namespace", lambda: libc.unshare(flag))
        os.chmod(".", 0o755)
        open("mine", "w").write("x")
    """
    ended = sandbox.run(
        command(attempts(code), readable, inside, outside, sys.base_prefix), folder, readable=[readable]
    )
    assert json.loads(ended.output) == [], ended
    for path, then in zip((readable, inside, outside, tmp_path, sys.base_prefix, "/usr/bin"), before, strict=True):
        now = os.stat(path)
        assert (now.st_mode, now.st_uid, now.st_mtime_ns, now.st_size) == (
            then.st_mode,
            then.st_uid,
            then.st_mtime_ns,
            then.st_size,
        )
    assert folders.read(folder, "mine") == b"x"


FILL = {
    "one file": """
        with open("file", "wb", buffering=0) as file:
            for _ in range(256): file.write(bytes(1 << 20))
        """,
    "many files": """
        for i in range(64):
            with open(str(i), "wb") as file: file.write(bytes(4 << 20))
        """,
    "removed files": """
        held = []
        for _ in range(64):
            held.append(open("file", "wb", buffering=0))
            os.remove("file")
            held[-1].write(bytes(4 << 20))
        """,
    "while others come and go": """
        for i in range(64):
            with open(f"z{i}", "wb") as file: file.write(bytes(4 << 20))
            for _ in range(200): open("a", "w").close(); os.remove("a")
        """,
    "a folder beneath": """
        os.mkdir("beneath")
        for i in range(64):
            with open(f"beneath/{i}", "wb") as file: file.write(bytes(4 << 20))
        """,
}


@pytest.mark.parametrize("way", FILL)
def test_filling_the_disk(run, folder, way):
    ended = run(f"import os, time{textwrap.dedent(FILL[way])}time.sleep(5)", disk_bytes=16 * MIB, disk_files=100)
    assert (ended.limit, ended.reason) == ("disk", "more than 16 MiB of files"), ended


MANY = {
    "files": "for i in range(5000): open(str(i), 'w').close()",
    "folders": "for i in range(5000): os.mkdir(str(i))",
    "links": "for i in range(5000): os.symlink('/etc/passwd', str(i))",
    "deeper and deeper": "for i in range(3000): os.mkdir('d'); os.chdir('d')",
    "long names": "for i in range(40): os.mkdir('d' * 250); os.chdir('d' * 250)",
}


@pytest.mark.parametrize("way", MANY)
def test_filling_the_disk_with_names(sandbox, command, way):
    with folders.workspace() as folder:
        code = f"import os, time\n{MANY[way]}\ntime.sleep(5)"
        ended = sandbox.run(command(code), folder, Limits(seconds=10, disk_files=200))
    assert (ended.limit, ended.status) == ("files", None), ended
    assert not folder.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root looks into every folder")
def test_folders_that_cannot_be_looked_into(run):
    assert run("import os, time; os.mkdir('closed', 0); time.sleep(5)").limit == "files"


def test_filled_and_left(run):
    """Also what ends before anybody looks has broken its limit."""
    assert run("for i in range(100): open(str(i), 'w').close()", disk_files=50).limit == "files"


def test_sparse_file(run):
    ended = run("open('file', 'wb').truncate(10 << 30)")
    assert ended.status != 0


# --- output ---

ENDLESS = """
import os
line = b"x" * 65536
for _ in range(10 * 2**30 // len(line)): os.write(1, line)
"""


def test_10_gb_of_output(run):
    ended = run(ENDLESS, output_bytes=100_000)
    assert (ended.limit, ended.reason, len(ended.output)) == ("output", "more than 100,000 bytes of output", 100_000)


def test_10_gb_of_output_that_nobody_reads(sandbox, folder, command):
    with sandbox.start(command(ENDLESS), folder) as running:
        ended = running.wait()
    assert (ended.limit, len(ended.output)) == ("output", MIB)


def test_output_of_children(run):
    ended = run(
        """
        import os
        for _ in range(4): os.fork()
        while True: os.write(2, b"x" * 1000)
        """
    )
    assert ended.limit == "output"


# --- links ---


def test_links_lead_nowhere(run, folder, tmp_path):
    secret, precious = tmp_path / "secret", tmp_path / "precious"
    secret.write_text("secret")
    precious.mkdir()
    (precious / "file").write_text("as it was")
    ended = run(
        """
        import os, sys
        secret, precious = sys.argv[1:3]
        os.symlink(secret, "soft")
        os.symlink(precious, "beneath")
        os.symlink("/", "all")
        os.mkfifo("pipe")
        try: os.link(secret, "hard")
        except OSError: pass
        """,
        secret,
        precious,
    )
    assert ended.status == 0, ended
    assert not (folder / "hard").exists()
    for name in ("soft", "beneath/file", f"all{secret}", "pipe", "missing"):
        with pytest.raises(OSError, match=r"\w"):
            folders.read(folder, name)
    owner = os.stat(secret).st_uid
    assert run("pass").status == 0  # handing the folder over again follows none of them either
    assert os.stat(secret).st_uid == os.stat(precious / "file").st_uid == owner
    folders.remove(folder)
    assert (precious / "file").read_text() == "as it was"


def test_a_link_in_place_of_the_socket(sandbox, folder, command, tmp_path):
    """Else the grader would talk to a server of the machine's own, in the code's name."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(tmp_path / "server"))
        server.listen()
        code = "import os, sys, time; os.symlink(sys.argv[1], 'app.sock'); time.sleep(5)"
        with (
            sandbox.start(command(code, tmp_path / "server"), folder) as running,
            pytest.raises(NotServingError, match="not a socket"),
        ):
            running.address("app.sock")


# --- other processes ---


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's ways")
def test_reaching_other_processes(attempt, victim):
    """Signals are number 0, which only asks whether one could be sent."""
    succeeded = attempt(
        """
        pid, me = int(sys.argv[1]), os.getpid()
        attempt("signal", lambda: os.kill(pid, 0))
        attempt("signal to its group", lambda: os.killpg(pid, 0))
        attempt("signal to the parent", lambda: os.kill(os.getppid(), 0) if os.getppid() > 1 else -1)
        attempt("signal to all", lambda: libc.kill(-1, 0) or len(os.listdir("/proc")) < 20 and -1)
        attempt("thread", lambda: libc.syscall(234, pid, pid, 0))
        attempt("pidfd", lambda: os.pidfd_open(pid))
        attempt("ptrace", lambda: libc.ptrace(16, pid, None, None))
        attempt("seize", lambda: libc.ptrace(0x4206, pid, None, None))
        attempt("read", lambda: libc.process_vm_readv(pid, None, 0, None, 0, 0))
        attempt("memory", lambda: os.open(f"/proc/{pid}/mem", os.O_RDWR))
        attempt("limits", lambda: resource.prlimit(pid, resource.RLIMIT_CORE))
        attempt("affinity", lambda: os.sched_setaffinity(pid, [0]))
        attempt("priority", lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))
        attempt("scheduler", lambda: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0)))
        mine, other = socket.socketpair()
        attempt("kernel's signals", lambda: fcntl.fcntl(mine, fcntl.F_SETOWN, pid))
        attempt("kernel's signal", lambda: fcntl.fcntl(mine, fcntl.F_SETSIG, signal.SIGKILL))
        attempt("kernel's signals by ioctl", lambda: fcntl.ioctl(mine, 0x8901, pid.to_bytes(4, "little")))
        attempt("privileges", lambda: os.setuid(0) or open("/proc/1/mem", "r+"))
        attempt("program counter", lambda: libc.syscall(298, ctypes.create_string_buffer(128), pid, -1, -1, 0))
        attempt("program", lambda: libc.syscall(321, 5, ctypes.create_string_buffer(128), 128))
        attempt("keys", lambda: libc.syscall(250, 0, -3, 1))
        os.kill(me, 0)
        """,
        victim.pid,
    )
    assert succeeded == []


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's ways")
def test_no_privileges(run):
    """Neither of those that root has, nor of those that a namespace's owner has."""
    code = """
        import ctypes
        sets = (ctypes.c_uint32 * 6)()
        assert ctypes.CDLL(None).capget((ctypes.c_uint32 * 2)(0x20080522, 0), sets) == 0
        print(sum(sets))
    """
    assert run(code).output == "0\n"


def test_calls_of_other_machines(run):
    """x32's calls have the same meaning under other numbers, which a filter by number would not know."""
    if os.uname().machine != "x86_64":
        pytest.skip("x86-64's")
    ended = run("import ctypes; ctypes.CDLL(None).syscall(0x40000000 + 41, 2, 1, 0); print('alive')")
    assert (ended.output, ended.status) == ("", 128 + 31)  # SIGSYS


# --- verdicts ---


@pytest.mark.parametrize("code", ["", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
def test_forged_verdict(sandbox, folder, command, code):
    """Saying so and leaving with 0 makes no server: who asks from outside finds none."""
    forged = "import os; print('23 passed. Score: 5/5', flush=True)\n" + code + "\nos._exit(0)"
    with sandbox.start(command(forged), folder) as running:
        with pytest.raises(NotServingError, match="ended before it listened"):
            running.address("app.sock")
        assert running.ended is not None
        assert running.ended.output == "23 passed. Score: 5/5\n"


def test_a_file_in_place_of_the_socket(sandbox, folder, command):
    code = "import time; open('app.sock', 'w').write('HTTP/1.1 200 OK'); time.sleep(5)"
    with sandbox.start(command(code), folder) as running, pytest.raises(NotServingError, match="not a socket"):
        running.address("app.sock")

"""Binds itself by the kernel's means, then becomes the command: the first program that runs inside a sandbox.

Run as a script: ``inside.py SETTINGS COMMAND…``, with `Settings` as JSON. Imports nothing of Stride, so that it starts
fast and needs no other file. Writes `READY` to ``control_fd`` when all is in place, and waits for the same in reply;
whatever fails before ends it, so that the command never runs with less than was asked for. All but the limits on
resources is Linux's.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

READY = b"ready"


class Settings(TypedDict):
    """``readable`` (None: leave it out) and ``writable`` are Landlock's; ``system_calls`` names the filter, if any."""

    control_fd: int
    uid: int | None
    resources: Mapping[str, int]
    readable: Sequence[str] | None
    writable: Sequence[str]
    supervised: bool
    """Where no process namespace ends all with its first."""
    system_calls: str | None


def main() -> None:
    settings: Settings = json.loads(sys.argv[1])
    command = sys.argv[2:]
    os.set_inheritable(settings["control_fd"], False)
    if sys.platform == "linux":
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # should memory run out, we are the first to go
        if settings["supervised"]:
            become_child()
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(10)
    os.umask(0o077)
    for name, value in settings["resources"].items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    if (uid := settings["uid"]) is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    if sys.platform == "linux":
        _prctl(PR_SET_NO_NEW_PRIVS, 1)
        _drop_capabilities()
    if settings["readable"] is not None:
        restrict_files(settings["readable"], settings["writable"])
    if settings["system_calls"] is not None:
        filter_system_calls(ALWAYS if settings["system_calls"] == "namespaces" else ALWAYS + shared())
    os.write(settings["control_fd"], READY)
    if os.read(settings["control_fd"], len(READY)) != READY:
        sys.exit(1)  # nobody watches
    try:
        os.execv(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(127)


# --- A parent for all, outside of what binds them -------------------------------------------------------


def become_child() -> None:
    """Fork. What returns is the child, in a session of its own. The parent passes SIGTERM on, ends the whole session
    when the child has ended or whoever started it all has died, and then ends as the child did.
    """
    waited_for = {signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, waited_for)
    child = os.fork()
    if not child:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, waited_for)
        return
    _prctl(PR_SET_PDEATHSIG, signal.SIGHUP)
    while not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        match signal.sigwait(waited_for):
            case signal.SIGTERM:
                os.kill(child, signal.SIGTERM)
            case signal.SIGHUP:
                os.kill(child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # one session that nobody can leave is one group
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(status if status >= 0 else 128 - status)


# --- prctl and capabilities ------------------------------------------------------------------------

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def _prctl(option: int, value: int) -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(value), *[ctypes.c_ulong(0)] * 3), f"prctl {option}")


def _drop_capabilities() -> None:
    """Leaves of root a user who happens to own root's files; without new privileges, no program brings them back."""
    version_3 = (ctypes.c_uint32 * 2)(0x20080522, 0)
    _check(_libc.capset(version_3, (ctypes.c_uint32 * 6)()), "capset")


# --- Landlock: which files, no TCP, no abstract sockets, no signals to others --------------------------

LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = (1 << bit for bit in range(4))
MAKE_CHAR, MAKE_BLOCK = 1 << 6, 1 << 11
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15
OLDEST_ABI = 3
"""Linux 6.2. Before it, Landlock lets a file be cut off that must not be written."""
READ = EXECUTE | READ_FILE | READ_DIR
WRITE = (IOCTL_DEV - 1) & ~(MAKE_CHAR | MAKE_BLOCK)
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE


def restrict_files(readable: Iterable[str], writable: Iterable[str]) -> None:
    """From here on, ``readable`` can be read and executed, ``writable`` also written, and no other file opened."""
    abi = _libc.syscall(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if abi < OLDEST_ABI:
        raise OSError(errno.ENOSYS, f"Landlock {OLDEST_ABI} or newer is wanted (Linux 6.2), here it is {max(abi, 0)}")
    handled = [(IOCTL_DEV << (abi >= 5)) - 1]  # files, network, scopes: a kernel takes those that it knows
    handled += [3] * ((abi >= 4) + (abi >= 6))
    attributes = struct.pack(f"={len(handled)}Q", *handled)
    size = ctypes.c_size_t(len(attributes))
    ruleset = _check(_libc.syscall(LANDLOCK_CREATE_RULESET, attributes, size, 0), "Landlock")
    for paths, allowed in ((readable, READ), (writable, WRITE)):
        for path in paths:
            beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rule = struct.pack("=Qi", allowed if os.path.isdir(path) else allowed & OF_FILES, beneath)
            _check(_libc.syscall(LANDLOCK_ADD_RULE, ruleset, 1, rule, 0), f"Landlock: {path}")
            os.close(beneath)
    _check(_libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0), "Landlock")
    os.close(ruleset)


# --- seccomp, by way of libseccomp, which knows every machine's numbers ----------------------------------

ALLOW, KILL_PROCESS = 0x7FFF0000, 0x80000000
NOT_EQUAL, MASKED_EQUAL = 1, 7
BAD_ARCHITECTURE, OPTIMIZE = 2, 8
AF_UNIX, SOCK_STREAM = 1, 1
MAP_SHARED, MAP_ANONYMOUS = 0x01, 0x20
NAMESPACES = tuple(1 << bit for bit in (17, 25, 26, 27, 28, 29, 30))
UNKNOWN = range(451, 600)
"""Calls newer than Linux 6.4: numbers that all machines share. Programs take ENOSYS for an older kernel."""

Comparison = tuple[int, int, int, int]  # argument, operator, and its two values
Rule = tuple[int, str | int, tuple[Comparison, ...]]  # an error number; a call, by name or number; when


def _errors(code: int, names: str) -> list[Rule]:
    return [(code, name, ()) for name in names.split()]


ALWAYS: list[Rule] = [
    # The kernel's large and rarely used surface; other processes' memory; what no limit counts.
    *_errors(
        errno.EPERM,
        "acct add_key bpf chroot clock_adjtime clock_settime delete_module fanotify_init finit_module fsconfig fsmount "
        "fsopen fspick init_module inotify_add_watch ioperm iopl ioprio_set kcmp kexec_file_load kexec_load keyctl "
        "lookup_dcookie memfd_create memfd_secret migrate_pages mount mount_setattr move_mount move_pages mq_notify "
        "mq_open msgget name_to_handle_at nfsservctl open_by_handle_at open_tree perf_event_open personality "
        "pidfd_getfd pidfd_open pivot_root process_madvise process_mrelease process_vm_readv process_vm_writev ptrace "
        "quotactl quotactl_fd reboot request_key semget setdomainname sethostname setns setpriority settimeofday "
        "shmget swapoff swapon sync syncfs syslog umount2 unshare uselib userfaultfd vhangup vmsplice",
    ),
    *_errors(errno.ENOSYS, "clone3 io_uring_setup io_uring_enter io_uring_register"),
    *((errno.ENOSYS, number, ()) for number in UNKNOWN),
    *((errno.EPERM, "clone", ((0, MASKED_EQUAL, flag, flag),)) for flag in NAMESPACES),
    # Shared anonymous memory stays when it is no longer mapped, and nobody's counts have it.
    (errno.EPERM, "mmap", ((3, MASKED_EQUAL, MAP_SHARED | MAP_ANONYMOUS, MAP_SHARED | MAP_ANONYMOUS),)),
    # Sockets: to be connected to, by path, and nothing else.
    *_errors(errno.EACCES, "connect"),
    *((errno.EACCES, name, ((0, NOT_EQUAL, AF_UNIX, 0),)) for name in ("socket", "socketpair")),
    *(
        (errno.EACCES, name, ((1, MASKED_EQUAL, 0xF, kind),))
        for name in ("socket", "socketpair")
        for kind in range(16)
        if kind != SOCK_STREAM
    ),
    # Other processes' limits and scheduling; signals that the kernel sends for us (F_SETOWN, F_SETSIG, FIOSETOWN …).
    *((errno.EPERM, name, ((0, NOT_EQUAL, 0, 0),)) for name in ("prlimit64", "sched_setaffinity", "sched_setattr")),
    *((errno.EPERM, name, ((0, NOT_EQUAL, 0, 0),)) for name in ("sched_setparam", "sched_setscheduler")),
    *((errno.EPERM, "fcntl", ((1, MASKED_EQUAL, 0xFFFFFFFF, option),)) for option in (8, 10, 15)),
    *((errno.EPERM, "ioctl", ((1, MASKED_EQUAL, 0xFFFFFFFF, option),)) for option in (0x8901, 0x8902, 0x5412, 0x541C)),
]


def shared() -> list[Rule]:
    """Where processes and files are the machine's own: signals to itself only; nobody leaves the session, which is how
    all are found; and modes, owners, times and attributes, which Landlock does not guard, stay as they are. Servers set
    their socket's mode, so that is a success without effect.
    """
    return [
        *((errno.EPERM, name, ((0, NOT_EQUAL, os.getpid(), 0),)) for name in ("kill", "tgkill")),
        *_errors(errno.EPERM, "tkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal setsid setpgid"),
        *_errors(0, "chmod fchmod fchmodat chown fchown fchownat lchown utime utimes utimensat futimesat"),
        *_errors(errno.EPERM, "setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr"),
    ]


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


def filter_system_calls(rules: Iterable[Rule]) -> None:
    """From here on, the calls of ``rules`` fail as they say; foreign machines' calls (32 bits, x32) end the process."""
    library: Any = ctypes.CDLL("libseccomp.so.2")  # packages call it libseccomp2 or libseccomp
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(ALLOW)))
    if not context:
        raise OSError(errno.ENOSYS, "seccomp_init failed")

    def check(result: int, what: str) -> None:
        if result < 0:
            raise OSError(-result, f"seccomp: {what}: {os.strerror(-result)}")

    check(library.seccomp_attr_set(context, BAD_ARCHITECTURE, ctypes.c_uint32(KILL_PROCESS)), "architecture")
    library.seccomp_attr_set(context, OPTIMIZE, ctypes.c_uint32(2))  # faster where it is known
    for code, call, comparisons in rules:
        number = call if isinstance(call, int) else library.seccomp_syscall_resolve_name(call.encode())
        if number < 0:
            continue  # this machine has no such call, or one so new that it is among the unknown
        array = (_Comparison * len(comparisons))(*(_Comparison(*each) for each in comparisons))
        action = ctypes.c_uint32(0x00050000 | code)
        check(library.seccomp_rule_add_array(context, action, number, len(comparisons), array), str(call))
    check(library.seccomp_load(context), "load")
    library.seccomp_release(context)


if __name__ == "__main__":
    main()

"""A process that seals itself through `seal_process` and then tries what it should no longer be able to.

Started as `python -m tests.enclave_core.sealed_probe TASK --channel FD ...`; it reports over the channel what
was held and, for each attempt, "allowed", the number of the error or the name of the exception.
"""

import argparse
import ctypes
import errno
import mmap
import os
import resource
import signal
import socket
import threading
from pathlib import Path

import numpy as np

from enclave.core import kernel, landlock, sealing, seccomp
from enclave.core.channel import Channel

MACHINE = os.uname().machine  # which a sealed process may no longer ask
AT_FDCWD = -100
ABSENT = ctypes.c_void_p(None)
MEMORY_BYTES = 2 << 30
CPU_SECONDS = 1

STEPS = {"seccomp": (seccomp, "install_filter"), "landlock": (landlock, "restrict_self")}
"""What `--without` leaves out, to see what the other layers refuse."""


def outcome(attempt):
    """Return what came of an attempt."""
    try:
        attempt()
    except OSError as error:
        return error.errno
    except (RuntimeError, MemoryError, ValueError) as error:
        return type(error).__name__
    return "allowed"


def by_library(parent, spare):
    """What Python offers, with arguments that would work."""
    return {
        "open a file": lambda: Path("/etc/passwd").open().close(),
        "create a file": lambda: Path("/tmp/qflare-probe").open("w").close(),
        "list a directory": lambda: next(Path("/").iterdir()),
        "look at a file": lambda: Path("/etc/passwd").stat(),
        "open its own memory": lambda: Path("/proc/self/mem").open("rb+").close(),
        "open the parent's memory": lambda: Path(f"/proc/{parent}/mem").open("rb").close(),
        "read a descriptor left open": lambda: os.read(spare, 1),
        "duplicate a descriptor": lambda: os.dup(spare),
        "make an internet socket": lambda: socket.socket().close(),
        "make a unix socket": lambda: socket.socket(socket.AF_UNIX).close(),
        "make a netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
        "make a pair of sockets": socket.socketpair,
        "fork": fork,
        "run a program": lambda: os.posix_spawn("/bin/true", ["true"], {}),
        "start a thread": lambda: threading.Thread(target=int).start(),
        "signal the parent": lambda: os.kill(parent, 0),
        "hold the parent": lambda: os.close(os.pidfd_open(parent)),
        "become root": lambda: os.setresuid(0, 0, 0),
        "join the group of root": lambda: os.setresgid(0, 0, 0),
        "raise a limit": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 12, 1 << 12)),
        "map executable memory": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_EXEC | mmap.PROT_READ),
        "make memory without a name": lambda: os.close(os.memfd_create("probe")),
        "take much memory": lambda: bytearray(3 << 30),
        "multiply matrices": lambda: np.ones((50, 50)) @ np.ones((50, 50)),
        "get random bytes": lambda: os.urandom(16),
        "take some memory": lambda: bytearray(64 << 20),
    }


def fork():
    """Fork, and let the child be gone at once."""
    if os.fork() == 0:
        os._exit(0)


def by_number(parent, channel):
    """x86_64's system calls by number; unsealed, none of them answers EPERM, so that EPERM is the seal's word."""
    page = mmap.mmap(-1, 4096)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    how = ctypes.create_string_buffer(24)  # struct open_how: for reading
    path = ctypes.c_char_p(b"/etc/passwd")
    lock = ctypes.byref(ctypes.c_uint32(0))
    calls = {
        "openat": (257, AT_FDCWD, path, 0),
        "openat2": (437, AT_FDCWD, path, how, 24),
        "open_by_handle_at": (304, AT_FDCWD, ABSENT, 0),
        "open_tree": (428, AT_FDCWD, path, 1),
        "ioctl": (16, channel, 0x541B, ctypes.byref(ctypes.c_int())),
        "fcntl": (72, channel, 1),
        "connect": (42, channel, ABSENT, 0),
        "sendmsg": (46, channel, ABSENT, 0),
        "recvmsg": (47, channel, ABSENT, 0),
        "execve": (59, ABSENT, ABSENT, ABSENT),
        "execveat": (322, AT_FDCWD, ABSENT, ABSENT, ABSENT, 0),
        "clone": (56, 0x800, 0, 0, 0, 0),  # CLONE_SIGHAND without CLONE_VM: EINVAL
        "clone3": (435, ABSENT, 0),
        "ptrace": (101, 3, parent, 0, 0),  # PTRACE_PEEKUSER of a process that is not traced: ESRCH
        "kill": (62, parent, 0),
        "tkill": (200, parent, 0),
        "tgkill": (234, parent, parent, 0),
        "rt_sigqueueinfo": (129, parent, 0, ABSENT),
        "pidfd_open": (434, parent, 0),
        "pidfd_send_signal": (424, channel, 0, ABSENT, 0),
        "pidfd_getfd": (438, channel, 0, 0),
        "process_vm_readv": (310, parent, ABSENT, 0, ABSENT, 0, 0),
        "process_vm_writev": (311, parent, ABSENT, 0, ABSENT, 0, 0),
        "process_madvise": (440, channel, ABSENT, 0, 0, 0),
        "kcmp": (312, parent, parent, 0, 0, 0),
        "mount": (165, ABSENT, ABSENT, ABSENT, 0, ABSENT),
        "move_mount": (429, -1, ABSENT, -1, ABSENT, 0),
        "fsopen": (430, ABSENT, 0),
        "umount2": (166, ABSENT, 0),
        "pivot_root": (155, ABSENT, ABSENT),
        "chroot": (161, ABSENT),
        "unshare": (272, 0),
        "setns": (308, channel, 0),
        "setuid": (105, 0),
        "capset": (126, ABSENT, ABSENT),
        "prlimit64": (302, 0, 7, ABSENT, ABSENT),
        "prctl": (157, 4, 1, 0, 0, 0),
        "seccomp": (317, 0, 1, ABSENT),
        "personality": (135, 0xFFFFFFFF),
        "arch_prctl": (158, 0, 0),
        "mmap to execute": (9, 0, 4096, 5, 0x22, -1, 0),
        "mprotect to execute": (10, address, 4096, 5),
        "mprotect to write and execute": (10, address, 4096, 7),
        "pkey_mprotect to execute": (329, address, 4096, 5, -1),
        "shmat": (30, -1, ABSENT, 0x8000),
        "perf_event_open": (298, ABSENT, 0, -1, -1, 0),
        "bpf": (321, 99, ABSENT, 0),
        "userfaultfd": (323, 0x7F000000),
        "add_key": (248, ABSENT, ABSENT, ABSENT, 0, 0),
        "keyctl": (250, 999, 0, 0, 0, 0),
        "io_uring_setup": (425, 0, ABSENT),
        "io_uring_enter": (426, channel, 0, 0, 0, ABSENT, 0),
        "finit_module": (313, -1, ABSENT, 0),
        "iopl": (172, 4),
        "futex with priorities": (202, lock, 8, 0, ABSENT, ABSENT, 0),  # FUTEX_TRYLOCK_PI
        "landlock_create_ruleset": (444, ABSENT, 0, 1),
    }
    return {name: lambda call=call: kernel.syscall(*call) for name, call in calls.items()}


def by_vfork():
    """Calls that, if they were let through, would return twice on one stack; so they are never tried unsealed."""
    return {"vfork": lambda: kernel.syscall(58), "fork by number": lambda: kernel.syscall(57)}


def report_attempts(options):
    """Say what came of every attempt."""
    attempts = by_library(options.parent, options.spare)
    if MACHINE == "x86_64":
        attempts |= by_number(options.parent, options.channel)
        if options.sealed and "seccomp" not in options.without:
            attempts |= by_vfork()
    return {name: outcome(attempt) for name, attempt in attempts.items()}


def spin(options):
    """Compute for ever."""
    while True:
        pass


def spin_deaf(options):
    """Compute for ever, and ignore the signal that says to stop."""
    signal.signal(signal.SIGXCPU, signal.SIG_IGN)
    spin(options)


def call_x32(options):
    """Call getpid by x32's numbering."""
    kernel.syscall(0x40000000 + 39)


def abort(options):
    """End as a crash would."""
    os.abort()


def wait(options):
    """Do nothing until the channel closes."""
    os.read(options.channel, 1)


AFTERWARDS = {"spin": spin, "spin-deaf": spin_deaf, "x32": call_x32, "abort": abort, "wait": wait}


def seal(options):
    """Seal this process but for the steps that are to be left out; return what is held."""
    for name in options.without:
        module, function = STEPS[name]
        setattr(module, function, lambda *arguments: None)
    keep = frozenset({options.channel})
    plan = sealing.SealingPlan(options.uid, options.uid, MEMORY_BYTES, CPU_SECONDS, keep, options.parent)
    return sealing.seal_process(plan)


def main():
    """Seal, report, and do what was asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=("attempts", *AFTERWARDS))
    parser.add_argument("--channel", type=int)
    parser.add_argument("--spare", type=int)
    parser.add_argument("--parent", type=int)
    parser.add_argument("--uid", type=int)
    parser.add_argument("--unsealed", dest="sealed", action="store_false")
    parser.add_argument("--without", action="append", choices=STEPS, default=[])
    options = parser.parse_args()
    channel = Channel.over_descriptor(options.channel)
    outcome(lambda: np.ones((50, 50)) @ np.ones((50, 50)))  # loads what it needs
    os.strerror(errno.EPERM)
    held = seal(options) if options.sealed else {}
    outcomes = report_attempts(options) if options.task == "attempts" else {}
    channel.send({"held": held, "outcomes": outcomes})
    AFTERWARDS.get(options.task, lambda options: None)(options)
    os._exit(0)


if __name__ == "__main__":
    main()

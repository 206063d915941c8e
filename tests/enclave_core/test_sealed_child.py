"""What a really sealed process can do, tried from inside it, and what others can do to it from outside."""

import errno
import json
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from enclave.core.channel import Channel, ChannelClosed
from enclave.core.measurement import ROOT
from enclave.core.sealing import PER_THREAD
from qflare_protocol.aggregation_policy import PROTECTIONS

NOBODY = 65534
PROBE = [sys.executable, "-m", "tests.enclave_core.sealed_probe"]
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
PERSONALITY_READ_IMPLIES_EXEC = 0x0400000

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else to try")
by_number = pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86_64")


@contextmanager
def probe(task, *options, uid=NOBODY, prefix=()):
    """Start a probe; give its process and our end of its channel."""
    ours, theirs = socket.socketpair()
    with Path("/etc/passwd").open("rb") as spare, ours:
        numbers = {"--channel": theirs.fileno(), "--spare": spare.fileno(), "--parent": os.getpid(), "--uid": uid}
        flags = [str(part) for option in numbers.items() for part in option]
        process = subprocess.Popen(
            [*prefix, *PROBE, task, *flags, *options],
            env=ENVIRONMENT,
            pass_fds=[theirs.fileno(), spare.fileno()],
            stderr=subprocess.PIPE,
        )
        theirs.close()
        try:
            yield process, Channel(ours.recv, ours.send)
        finally:
            process.kill()
            process.communicate()


def report_of(task, *options, **terms):
    """Run a probe to its end and return what it reports."""
    with probe(task, *options, **terms) as (process, channel):
        try:
            return channel.receive()
        except ChannelClosed:
            raise AssertionError(f"{process.wait()} {process.stderr.read().decode()}") from None


def ending_of(task):
    """Return how a sealed process ends that does this."""
    with probe(task) as (process, channel):
        channel.receive()
        return process.wait(timeout=30)


@pytest.fixture(scope="module")
def sealed():
    return report_of("attempts")


@pytest.fixture(scope="module")
def unsealed():
    return report_of("attempts", "--unsealed")


REFUSED = [
    "open a file", "create a file", "list a directory", "look at a file", "open its own memory",
    "open the parent's memory", "make an internet socket", "make a unix socket", "make a netlink socket",
    "make a pair of sockets", "fork", "run a program", "signal the parent", "hold the parent", "become root",
    "join the group of root", "map executable memory", "make memory without a name",
    "duplicate a descriptor",
]  # fmt: skip
IMPOSSIBLE = {
    "start a thread": "RuntimeError",
    "take much memory": "MemoryError",
    "raise a limit": "ValueError",
    "read a descriptor left open": errno.EBADF,
}
STILL_POSSIBLE = ["multiply matrices", "get random bytes", "take some memory"]
BY_NUMBER = [
    "openat", "openat2", "open_by_handle_at", "open_tree", "ioctl", "fcntl", "connect", "sendmsg", "recvmsg",
    "execve", "execveat", "clone", "clone3", "ptrace", "kill", "tkill", "tgkill", "rt_sigqueueinfo", "pidfd_open",
    "pidfd_send_signal", "pidfd_getfd", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp", "mount",
    "move_mount", "fsopen", "umount2", "pivot_root", "chroot", "unshare", "setns", "setuid", "capset", "prlimit64",
    "prctl", "seccomp", "personality", "arch_prctl", "mmap to execute", "mprotect to execute",
    "mprotect to write and execute", "pkey_mprotect to execute", "shmat", "perf_event_open", "bpf", "userfaultfd",
    "add_key", "keyctl", "io_uring_setup", "io_uring_enter", "finit_module", "iopl", "futex with priorities",
    "landlock_create_ruleset",
]  # fmt: skip


@pytest.mark.parametrize("action", REFUSED)
def test_a_sealed_process_may_not(sealed, action):
    assert sealed["outcomes"][action] == errno.EPERM


@pytest.mark.parametrize("action", sorted(IMPOSSIBLE))
def test_a_sealed_process_cannot(sealed, action):
    assert sealed["outcomes"][action] == IMPOSSIBLE[action]


@pytest.mark.parametrize("action", STILL_POSSIBLE)
def test_a_sealed_process_can_still(sealed, action):
    assert sealed["outcomes"][action] == "allowed"


@by_number
@pytest.mark.parametrize("call", [*BY_NUMBER, "vfork", "fork by number"])
def test_a_sealed_process_may_not_call(sealed, call):
    assert sealed["outcomes"][call] == errno.EPERM


@as_root
@by_number
def test_without_the_seal_none_of_these_calls_is_forbidden(unsealed):
    assert {call for call in BY_NUMBER if unsealed["outcomes"][call] == errno.EPERM} == set()
    assert {action for action in REFUSED if unsealed["outcomes"][action] == errno.EPERM} == set()


def test_every_attempt_is_looked_at(sealed):
    looked_at = {*REFUSED, *IMPOSSIBLE, *STILL_POSSIBLE}
    if platform.machine() == "x86_64":
        looked_at |= {*BY_NUMBER, "vfork", "fork by number"}
    assert set(sealed["outcomes"]) == looked_at


def test_every_protection_is_reported(sealed):
    assert set(sealed["held"]) == set(PROTECTIONS)
    assert all(isinstance(held, bool) for held in sealed["held"].values())


@as_root
def test_root_on_a_current_kernel_is_given_its_own_uid_and_the_filter(sealed):
    assert all(sealed["held"][name] for name in ("own-uid", "unprivileged-uid", *PER_THREAD))


@as_root
def test_landlock_keeps_files_shut_where_there_is_no_filter(sealed):
    if not sealed["held"]["landlock"]:
        pytest.skip("this kernel has no Landlock")
    outcomes = report_of("attempts", "--without", "seccomp")["outcomes"]
    for action in ("open a file", "create a file", "list a directory", "openat", "openat2"):
        assert outcomes[action] == errno.EACCES
    # What is not Landlock's falls to the other layers.
    assert outcomes["run a program"] in (errno.EACCES, errno.EAGAIN)
    for action in ("fork", "become root", "join the group of root", "open the parent's memory"):
        assert outcomes[action] != "allowed"


@as_root
def test_without_filter_and_landlock_the_uid_and_the_limits_still_hold():
    outcomes = report_of("attempts", "--without", "seccomp", "--without", "landlock")["outcomes"]
    assert outcomes["open a file"] == "allowed"
    for action in ("fork", "become root", "signal the parent", "raise a limit", "open the parent's memory"):
        assert outcomes[action] != "allowed"


@as_root
def test_an_ordinary_user_is_sealed_too_and_does_not_claim_an_own_uid():
    # The interpreter may lie where nobody but root may go; then there is nothing to try.
    prefix = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    try:
        report = report_of("attempts", prefix=prefix)
    except (AssertionError, FileNotFoundError) as error:
        pytest.skip(f"an ordinary user cannot run this interpreter: {error}")
    assert report["held"]["own-uid"] is False
    assert report["held"]["unprivileged-uid"] is True
    assert all(report["outcomes"][action] == errno.EPERM for action in REFUSED)


@as_root
def test_staying_root_is_reported():
    held = report_of("attempts", uid=0)["held"]
    assert held["unprivileged-uid"] is False
    assert held["own-uid"] is False


@by_number
def test_a_call_by_x32s_numbering_kills_the_process():
    assert ending_of("x32") == -signal.SIGSYS


def test_a_process_that_computes_too_long_is_ended_and_the_signal_says_why():
    assert ending_of("spin") == -signal.SIGXCPU


def test_a_process_that_ignores_that_signal_is_killed():
    assert ending_of("spin-deaf") == -signal.SIGKILL


def test_a_crash_leaves_no_core(monkeypatch):
    inherited = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (inherited[1], inherited[1]))  # a probe that could, would
    try:
        with probe("abort") as (process, channel):
            channel.receive()
            _, status = os.waitpid(process.pid, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, inherited)
    assert os.WIFSIGNALED(status)
    assert not os.WCOREDUMP(status)


@pytest.fixture
def waiting():
    with probe("wait") as (process, channel):
        assert channel.receive()["held"]["not-dumpable"]
        yield process


def of_proc(process, name):
    return Path(f"/proc/{process.pid}/{name}")


@as_root
def test_no_descriptor_but_the_channel_is_left(waiting):
    assert len(list(of_proc(waiting, "fd").iterdir())) == 1


@as_root
def test_no_memory_is_writable_and_executable(waiting):
    assert "rwx" not in of_proc(waiting, "maps").read_text()


@as_root
def test_what_is_readable_is_not_executable_even_where_the_parent_asked_for_it():
    with probe("wait", prefix=("setarch", "--read-implies-exec")) as (process, channel):
        channel.receive()
        assert int(of_proc(process, "personality").read_text(), 16) & PERSONALITY_READ_IMPLIES_EXEC == 0


@as_root
def test_the_kernel_says_itself_what_the_process_has_given_up(waiting):
    status = dict(line.split(":\t", 1) for line in of_proc(waiting, "status").read_text().splitlines())
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"], status["Threads"]) == ("1", "2", "1")
    assert set(status["Uid"].split()) == {str(NOBODY)}
    assert status["Groups"].split() == []


def neighbour_of(pid):
    command = [sys.executable, str(Path(__file__).with_name("neighbour.py")), str(pid), str(NOBODY)]
    return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=30).stdout)


@as_root
def test_another_process_of_its_uid_can_neither_trace_it_nor_read_its_memory(waiting):
    outcomes = neighbour_of(waiting.pid)
    assert len(outcomes) == 9
    assert {name for name, what in outcomes.items() if what not in (errno.EPERM, errno.EACCES)} == set()


SLEEPING = """
import ctypes, os, time
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
ctypes.CDLL(None).prctl(4, 1)  # the change of uid has made it undumpable
print(1, flush=True)
time.sleep(60)
"""


@as_root
def test_the_same_neighbour_can_do_it_to_a_process_that_is_not_sealed():
    with subprocess.Popen([sys.executable, "-c", SLEEPING], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        outcomes = neighbour_of(process.pid)
        process.kill()
    assert not {name for name, what in outcomes.items() if what in (errno.EPERM, errno.EACCES)}


PARENT = """
import os, socket, subprocess, sys
ours, theirs = socket.socketpair()
child = subprocess.Popen([*sys.argv[1:], "wait", "--channel", str(theirs.fileno()), "--spare", "0",
                          "--parent", str(os.getpid()), "--uid", "65534"], pass_fds=[theirs.fileno(), ours.fileno()])
ours.recv(4)
print(child.pid, flush=True)
sys.stdin.read()
"""


@as_root
def test_a_sealed_process_dies_with_its_parent_even_if_its_channel_stays_open():
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, *PROBE], env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        child = int(parent.stdout.readline())
        assert Path(f"/proc/{child}").exists()
        parent.kill()
    assert ends_soon(child)


def ends_soon(pid):
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False

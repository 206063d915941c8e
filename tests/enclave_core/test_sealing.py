"""What sealing takes away, tried in real processes; and how it reports what it could not have."""

import errno
import json
import os
import platform
import struct
import subprocess
import sys

import pytest

from enclave.core import kernel, landlock, sealing, seccomp
from enclave.core.measurement import ROOT
from qflare_protocol.aggregation_policy import PROTECTIONS

PROBE = """
import json, mmap, os, signal, socket, sys, threading
import numpy as np
from enclave.core.sealing import SealingPlan, seal_process

channel, parent, uid = map(int, sys.argv[1:4])
spare = os.open("/etc/passwd", os.O_RDONLY)

def outcome(attempt):
    try:
        attempt()
    except OSError as error:
        return error.errno
    except (RuntimeError, MemoryError, ValueError) as error:
        return type(error).__name__
    return "allowed"

attempts = {
    "open a file": lambda: open("/etc/hostname"),
    "create a file": lambda: open("/tmp/qflare-probe", "w"),
    "list a directory": lambda: os.listdir("/"),
    "read a descriptor left open": lambda: os.read(spare, 1),
    "make a socket": lambda: socket.socket(),
    "make a unix socket": lambda: socket.socketpair(),
    "fork": os.fork,
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "start a thread": lambda: threading.Thread(target=print).start(),
    "signal the parent": lambda: os.kill(parent, 0),
    "become root": lambda: os.setresuid(0, 0, 0),
    "map executable memory": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_EXEC | mmap.PROT_READ),
    "take much memory": lambda: bytearray(3 << 30),
    "hold the parent": lambda: os.pidfd_open(parent),
    "multiply matrices": lambda: np.ones((50, 50)) @ np.ones((50, 50)),
    "get random bytes": lambda: os.urandom(16),
    "take some memory": lambda: bytearray(64 << 20),
}
held = seal_process(SealingPlan(uid, uid, 2 << 30, frozenset({channel}), parent))
answer = json.dumps({"held": held, "outcomes": {name: outcome(attempt) for name, attempt in attempts.items()}})
os.write(channel, answer.encode())
os._exit(0)
"""


def run_probe(*, uid=65534, prefix=()):
    """Run the probe in a process of its own and return what it reports."""
    reading, writing = os.pipe()
    command = [*prefix, sys.executable, "-c", PROBE, str(writing), str(os.getpid()), str(uid)]
    environment = {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(command, env=environment, pass_fds=[writing], stderr=subprocess.PIPE)
    os.close(writing)
    with os.fdopen(reading) as report:
        content = report.read()
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 0, complaint.decode()
    return json.loads(content)


REFUSED = {
    "open a file",
    "create a file",
    "list a directory",
    "read a descriptor left open",
    "make a socket",
    "make a unix socket",
    "fork",
    "exec",
    "start a thread",
    "signal the parent",
    "become root",
    "map executable memory",
    "take much memory",
    "hold the parent",
}
STILL_POSSIBLE = {"multiply matrices", "get random bytes", "take some memory"}


@pytest.fixture(scope="module")
def sealed():
    return run_probe()


@pytest.mark.parametrize("action", sorted(REFUSED))
def test_a_sealed_process_cannot(sealed, action):
    assert sealed["outcomes"][action] != "allowed"


@pytest.mark.parametrize("action", sorted(STILL_POSSIBLE))
def test_a_sealed_process_can_still(sealed, action):
    assert sealed["outcomes"][action] == "allowed"


def test_every_protection_is_reported(sealed):
    assert set(sealed["held"]) == set(PROTECTIONS)
    assert all(isinstance(held, bool) for held in sealed["held"].values())


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user is given less")
def test_root_on_a_current_kernel_is_given_its_own_uid_and_the_filter(sealed):
    assert sealed["held"]["own-uid"]
    assert sealed["held"]["unprivileged-uid"]
    assert sealed["held"]["no-capabilities"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else to try")
def test_an_ordinary_user_is_sealed_too_and_does_not_claim_an_own_uid():
    # The interpreter may lie where nobody but root may go; then there is nothing to try.
    prefix = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    try:
        report = run_probe(prefix=prefix)
    except (AssertionError, FileNotFoundError) as error:
        pytest.skip(f"an ordinary user cannot run this interpreter: {error}")
    assert report["held"]["own-uid"] is False
    assert report["held"]["unprivileged-uid"] is True
    assert all(report["outcomes"][action] != "allowed" for action in REFUSED)


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone could keep its uid")
def test_staying_root_is_reported():
    held = run_probe(uid=0)["held"]
    assert held["unprivileged-uid"] is False
    assert held["own-uid"] is False


class Kernel:
    """Stands in for every step, so that the order and the report can be looked at in this process."""

    def __init__(self, monkeypatch, *, refusing=(), euid=0):
        self.calls, self.refusing, self.ids = [], refusing, (euid,) * 3
        for name in ("unshare", "prctl", "drop_capabilities"):
            monkeypatch.setattr(kernel, name, self._step(name))
        monkeypatch.setattr(kernel, "has_capabilities", lambda: False)
        monkeypatch.setattr(sealing.os, "geteuid", lambda: self.ids[0])
        monkeypatch.setattr(sealing.os, "getresuid", lambda: self.ids)
        monkeypatch.setattr(sealing.os, "getresgid", lambda: self.ids)
        monkeypatch.setattr(sealing.os, "setgroups", self._step("setgroups"))
        monkeypatch.setattr(sealing.os, "setresgid", self._step("setresgid"))
        monkeypatch.setattr(sealing.os, "setresuid", self._become)
        monkeypatch.setattr(sealing.os, "closerange", self._step("closerange"))
        monkeypatch.setattr(sealing.resource, "setrlimit", self._step("setrlimit"))
        monkeypatch.setattr(landlock, "restrict_self", self._step("landlock"))
        monkeypatch.setattr(seccomp, "install_filter", self._step("seccomp"))

    def _become(self, *ids):
        self._step("setresuid")(*ids)
        self.ids = ids

    def _step(self, name):
        def step(*arguments):
            self.calls.append((name, *arguments))
            if any(refused in ((name,), (name, *arguments[:1])) for refused in self.refusing):
                raise PermissionError(errno.EPERM, "refused")
            return 0

        return step

    def seal(self, uid=65534):
        plan = sealing.SealingPlan(uid, uid, 1 << 30, frozenset({7, 9}), os.getppid())
        return sealing.seal_process(plan)

    def names(self):
        return [call[0] for call in self.calls]


def test_steps_come_in_the_order_that_the_kernel_demands(monkeypatch):
    stand_in = Kernel(monkeypatch)
    held = stand_in.seal()
    assert all(held.values())
    assert set(held) == set(PROTECTIONS)
    order = stand_in.names()
    assert order.index("unshare") < order.index("setresuid") < order.index("drop_capabilities")
    death = stand_in.calls.index(("prctl", kernel.PR_SET_PDEATHSIG, 9))
    assert order.index("setresuid") < death
    no_new_privileges = stand_in.calls.index(("prctl", kernel.PR_SET_NO_NEW_PRIVS, 1))
    assert no_new_privileges < order.index("landlock") < order.index("seccomp") == len(order) - 1


def test_every_descriptor_but_the_kept_ones_is_closed(monkeypatch):
    stand_in = Kernel(monkeypatch)
    stand_in.seal()
    ranges = [call[1:] for call in stand_in.calls if call[0] == "closerange"]
    assert ranges[:2] == [(0, 7), (8, 9)]
    assert ranges[2][0] == 10


@pytest.mark.parametrize(
    "refusing, missing",
    [
        ({("landlock",)}, {"landlock"}),
        ({("seccomp",)}, {"seccomp"}),
        ({("setrlimit",)}, {"resource-limits"}),
        ({("drop_capabilities",)}, {"no-capabilities"}),
        ({("prctl", kernel.PR_SET_NO_NEW_PRIVS)}, {"no-new-privileges"}),
        ({("prctl", kernel.PR_SET_PDEATHSIG)}, {"parent-death-signal"}),
        ({("unshare",)}, {"namespaces"}),
        ({("setresuid",), ("unshare",)}, {"unprivileged-uid", "own-uid", "namespaces"}),
    ],
)
def test_what_the_kernel_refuses_is_reported_and_the_rest_still_happens(monkeypatch, refusing, missing):
    held = Kernel(monkeypatch, refusing=refusing).seal()
    assert {name for name, had in held.items() if not had} == missing


def test_where_namespaces_need_a_user_namespace_it_comes_after_the_change_of_uid(monkeypatch):
    plain = kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWNS
    stand_in = Kernel(monkeypatch, refusing={("unshare", plain)})
    assert stand_in.seal()["namespaces"] is True
    order = stand_in.names()
    assert order.index("setresuid") < order.index("unshare", order.index("unshare") + 1)


def test_an_ordinary_user_changes_no_uid(monkeypatch):
    stand_in = Kernel(monkeypatch, euid=1000)
    held = stand_in.seal()
    assert "setresuid" not in stand_in.names()
    assert (held["unprivileged-uid"], held["own-uid"]) == (True, False)


def test_a_parent_that_has_died_meanwhile_is_noticed(monkeypatch):
    Kernel(monkeypatch)
    plan = sealing.SealingPlan(65534, 65534, 1 << 30, frozenset(), os.getppid() + 1)
    assert sealing.seal_process(plan)["parent-death-signal"] is False


# The filter, run by a small interpreter of the BPF instructions it uses.

_LOAD, _EQUAL, _SET, _RETURN = 0x20, 0x15, 0x45, 0x06


def verdict(program, *, arch, number, third=0):
    data = struct.pack("<iIQ6Q", number, arch, 0, 0, 0, third, 0, 0, 0)
    accumulator = position = 0
    while True:
        code, if_true, if_false, constant = program[position]
        position += 1
        if code == _LOAD:
            accumulator = struct.unpack_from("<I", data, constant)[0]
        elif code == _EQUAL:
            position += if_true if accumulator == constant else if_false
        elif code == _SET:
            position += if_true if accumulator & constant else if_false
        else:
            assert code == _RETURN
            return constant


@pytest.mark.parametrize("name", sorted(seccomp.ARCHITECTURES))
def test_the_filter_allows_its_list_and_refuses_everything_else(name):
    architecture = seccomp.ARCHITECTURES[name]
    program = seccomp.build_filter(architecture)
    allowed = {*architecture.allowed.values(), *architecture.mapping.values()}
    for number in range(600):
        expected = seccomp.ALLOW if number in allowed else seccomp.REFUSE
        assert verdict(program, arch=architecture.audit, number=number) == expected


@pytest.mark.parametrize("name", sorted(seccomp.ARCHITECTURES))
def test_no_mapping_becomes_executable(name):
    architecture = seccomp.ARCHITECTURES[name]
    program = seccomp.build_filter(architecture)
    for number in architecture.mapping.values():
        for protection in range(8):
            expected = seccomp.REFUSE if protection & 4 else seccomp.ALLOW
            assert verdict(program, arch=architecture.audit, number=number, third=protection) == expected


def test_a_foreign_architecture_kills_the_process_and_x32_numbers_are_refused():
    architecture = seccomp.ARCHITECTURES["x86_64"]
    program = seccomp.build_filter(architecture)
    assert verdict(program, arch=0x40000003, number=0) == seccomp.KILL_PROCESS
    assert verdict(program, arch=architecture.audit, number=0x40000000) == seccomp.REFUSE


def test_nothing_that_reaches_outside_is_on_the_list():
    forbidden = {"open", "openat", "socket", "connect", "clone", "clone3", "fork", "execve", "ptrace", "kill", "tgkill"}
    for architecture in seccomp.ARCHITECTURES.values():
        assert not forbidden & set(architecture.allowed)


def test_a_machine_without_a_table_has_no_filter(monkeypatch):
    monkeypatch.setattr(seccomp.platform, "machine", lambda: "pdp11")
    with pytest.raises(OSError):
        seccomp.install_filter()


@pytest.mark.skipif(platform.machine() not in seccomp.ARCHITECTURES, reason="no table for this machine")
def test_the_filter_is_handed_to_the_kernel(monkeypatch):
    calls = []
    monkeypatch.setattr(kernel, "prctl", lambda *arguments: calls.append(arguments[:2]))
    seccomp.install_filter()
    assert calls == [(kernel.PR_SET_SECCOMP, kernel.SECCOMP_MODE_FILTER)]


@pytest.mark.parametrize(
    "abi, size, fs, net, scoped",
    [(1, 8, 13, 0, 0), (2, 8, 14, 0, 0), (3, 8, 15, 0, 0), (4, 16, 15, 3, 0), (5, 16, 16, 3, 0), (6, 24, 16, 3, 3),
     (9, 24, 16, 3, 3)],
)  # fmt: skip
def test_landlock_handles_all_that_the_kernels_version_knows(monkeypatch, abi, size, fs, net, scoped):
    calls = []

    def syscall(number, *arguments):
        calls.append((number, *arguments))
        return abi if arguments[-1] == 1 else 5

    monkeypatch.setattr(kernel, "syscall", syscall)
    landlock.restrict_self()
    _, (_, pointer, given_size, _), (_, ruleset, _) = calls
    attributes = pointer._obj
    assert (given_size, ruleset) == (size, 5)
    assert (attributes.fs, attributes.net, attributes.scoped) == ((1 << fs) - 1, net, scoped)


def test_a_call_that_the_kernel_refuses_is_an_os_error():
    with pytest.raises(OSError):
        kernel.prctl(-1)
    with pytest.raises(OSError):
        kernel.syscall(100_000)
    with pytest.raises(OSError):
        kernel.unshare(-1)
    assert kernel.prctl(kernel.PR_GET_DUMPABLE) in (0, 1, 2)
    assert isinstance(kernel.has_capabilities(), bool)


class Libc:
    """A C library that notes what it is called with."""

    def __init__(self):
        self.called = []

    def prctl(self, option, *arguments):
        self.called.append(("prctl", option.value, arguments[0].value))
        return -1 if option.value == kernel.PR_CAPBSET_DROP and arguments[0].value > 3 else 0

    def capset(self, header, data):
        self.called.append(("capset",))
        return 0


def test_dropping_capabilities_empties_the_bounding_set_and_then_the_others(monkeypatch):
    libc = Libc()
    monkeypatch.setattr(kernel, "_LIBC", libc)
    kernel.drop_capabilities()
    assert libc.called[0][:2] == ("prctl", kernel.PR_CAP_AMBIENT)
    assert [call[2] for call in libc.called[1:-1]] == [0, 1, 2, 3, 4]
    assert libc.called[-1] == ("capset",)

"""The order of the sealing, the report of what could not be had, and the filter's program.

What a sealed process can really do is tried in test_sealed_child.
"""

import errno
import os
import platform
import resource
import struct

import pytest

from enclave.core import kernel, landlock, sealing, seccomp
from qflare_protocol.aggregation_policy import PROTECTIONS


class Kernel:
    """Stands in for every step, so that the order and the report can be looked at in this process."""

    def __init__(self, monkeypatch, *, refusing=(), euid=0):
        self.calls, self.refusing, self.ids = [], refusing, (euid,) * 3
        self.threads = ["1"]
        for name in ("unshare", "prctl", "drop_capabilities", "drop_bounding_set", "forbid_implied_execution"):
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
        monkeypatch.setattr(sealing.Path, "iterdir", lambda path: self.threads)
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
        plan = sealing.SealingPlan(uid, uid, 1 << 30, 60, frozenset({7, 9}), os.getppid())
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
    plan = sealing.SealingPlan(65534, 65534, 1 << 30, 60, frozenset(), os.getppid() + 1)
    assert sealing.seal_process(plan)["parent-death-signal"] is False


def test_what_is_taken_from_one_thread_alone_does_not_hold_where_there_are_others(monkeypatch):
    stand_in = Kernel(monkeypatch)
    stand_in.threads = ["1", "2"]
    held = stand_in.seal()
    assert {name for name, had in held.items() if not had} == set(sealing.PER_THREAD)


def test_the_processor_time_ends_by_a_signal_that_says_so_and_then_by_one_that_cannot_be_ignored(monkeypatch):
    stand_in = Kernel(monkeypatch)
    stand_in.seal()
    assert ("setrlimit", resource.RLIMIT_CPU, (60, 61)) in stand_in.calls


def test_a_limit_that_is_narrower_already_is_kept(monkeypatch):
    stand_in = Kernel(monkeypatch)
    monkeypatch.setattr(sealing.resource, "getrlimit", lambda name: (8, 16))
    assert stand_in.seal()["resource-limits"]
    assert ("setrlimit", resource.RLIMIT_NOFILE, (16, 16)) in stand_in.calls
    assert ("setrlimit", resource.RLIMIT_CORE, (0, 0)) in stand_in.calls


# The filter, run by a small interpreter of the BPF instructions it uses.

_LOAD, _AND, _EQUAL, _AT_LEAST, _SET, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06


def verdict(program, *, arch, number, second=0, third=0):
    data = struct.pack("<IIQ6Q", number, arch, 0, 0, second, third, 0, 0, 0)
    accumulator = position = 0
    while True:
        code, if_true, if_false, constant = program[position]
        position += 1
        if code == _LOAD:
            accumulator = struct.unpack_from("<I", data, constant)[0]
        elif code == _AND:
            accumulator &= constant
        elif code == _EQUAL:
            position += if_true if accumulator == constant else if_false
        elif code == _AT_LEAST:
            position += if_true if accumulator >= constant else if_false
        elif code == _SET:
            position += if_true if accumulator & constant else if_false
        else:
            assert code == _RETURN
            return constant


@pytest.mark.parametrize("name", sorted(seccomp.ARCHITECTURES))
def test_the_filter_allows_its_list_and_refuses_everything_else(name):
    architecture = seccomp.ARCHITECTURES[name]
    program = seccomp.build_filter(architecture)
    allowed = {*architecture.allowed.values(), *architecture.mapping.values(), architecture.futex}
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


@pytest.mark.parametrize("name", sorted(seccomp.ARCHITECTURES))
def test_of_futex_there_is_waiting_and_waking_alone(name):
    architecture = seccomp.ARCHITECTURES[name]
    program = seccomp.build_filter(architecture)
    for operation in range(0x200):
        harmless = operation & ~0x180 in (0, 1, 9, 10)
        expected = seccomp.ALLOW if harmless else seccomp.REFUSE
        assert verdict(program, arch=architecture.audit, number=architecture.futex, second=operation) == expected


@pytest.mark.parametrize("name", sorted(seccomp.ARCHITECTURES))
def test_another_numbering_kills_the_process(name):
    architecture = seccomp.ARCHITECTURES[name]
    program = seccomp.build_filter(architecture)
    assert verdict(program, arch=0x40000003, number=0) == seccomp.KILL_PROCESS
    for number in (*range(0x40000000, 0x40000250), 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
        assert verdict(program, arch=architecture.audit, number=number) == seccomp.KILL_PROCESS


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
    calls, closed = [], []
    monkeypatch.setattr(landlock.os, "close", closed.append)

    def syscall(number, *arguments):
        calls.append((number, *arguments))
        return abi if arguments[-1] == 1 else 5

    monkeypatch.setattr(kernel, "syscall", syscall)
    landlock.restrict_self()
    _, (_, pointer, given_size, _), (_, ruleset, _) = calls
    attributes = pointer._obj
    assert (given_size, ruleset, closed) == (size, 5, [5])
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

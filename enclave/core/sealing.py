"""Taking away from the running process everything it does not need, and saying what was had.

Each step is tried once and its outcome reported as it is: what the kernel or the container refuses
lowers what the evidence claims, and is never hidden. The order matters: namespaces need
privileges, a change of credentials clears the parent-death signal and the dumpable flag, Landlock
and seccomp need no_new_privs, and nothing but the channel works after seccomp. Capabilities,
no_new_privs, Landlock and seccomp are taken from the calling thread alone: with another thread
in the process they do not hold, and are reported so.
"""

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from enclave.core import kernel, landlock, seccomp

SPARE_DESCRIPTORS = 64
PER_THREAD = ("no-capabilities", "no-new-privileges", "landlock", "seccomp")
FILE_SIZE_LIMIT = 4096  # the decision record is the only file that is ever written


@dataclass(frozen=True)
class SealingPlan:
    """How to seal: the uid and gid to become (as root), address space in bytes, processor time in
    seconds, descriptors to keep, the parent whose death ends this process, and the one ioctl request
    that stays allowed, if any.
    """

    uid: int
    gid: int
    memory_bytes: int
    cpu_seconds: int
    keep_descriptors: frozenset[int]
    parent_pid: int
    ioctl_request: int | None = None


def seal_process(plan: SealingPlan) -> dict[str, bool]:
    """Seal this process for good and return which of `PROTECTIONS` hold."""
    alone = _attempt(_is_the_only_thread)
    held = _change_identity(plan)
    steps: dict[str, Callable[[], bool]] = {
        "no-capabilities": _drop_capabilities,
        "parent-death-signal": lambda: _die_with_parent(plan.parent_pid),
        "not-dumpable": _forbid_dumps,
        "no-new-privileges": lambda: kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1) == 0,
        "closed-descriptors": lambda: _close_all_but(plan.keep_descriptors),
        "resource-limits": lambda: _limit_resources(plan),
        "landlock": _landlock,
        "seccomp": lambda: _seccomp(plan.ioctl_request),
    }
    for name, step in steps.items():
        held[name] = _attempt(step) and (alone or name not in PER_THREAD)
    return held


def _is_the_only_thread() -> bool:
    return len(list(Path("/proc/self/task").iterdir())) == 1


def _change_identity(plan: SealingPlan) -> dict[str, bool]:
    # A user namespace without a map shows every uid as 65534, so it comes after the real uid is known.
    was_root = os.geteuid() == 0
    isolated = _attempt(lambda: _enter_namespaces(0))
    unprivileged = _attempt(lambda: _become(plan.uid, plan.gid))
    if not isolated and unprivileged:
        isolated = _attempt(lambda: _enter_namespaces(kernel.CLONE_NEWUSER))
    return {"namespaces": isolated, "unprivileged-uid": unprivileged, "own-uid": was_root and unprivileged}


def _attempt(step: Callable[[], bool]) -> bool:
    try:
        return step()
    except OSError:  # refused by the kernel or the container: reported as not held
        return False


def _enter_namespaces(further: int) -> bool:
    kernel.unshare(kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWNS | further)
    return True


def _become(uid: int, gid: int) -> bool:
    if os.geteuid() == 0:
        kernel.drop_bounding_set()  # afterwards there is no capability left to do it with
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    return 0 not in (*os.getresuid(), *os.getresgid())


def _drop_capabilities() -> bool:
    kernel.drop_capabilities()
    return not kernel.has_capabilities()


def _die_with_parent(parent_pid: int) -> bool:
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent_pid  # else the parent died before the call and no signal will come


def _forbid_dumps() -> bool:
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    return kernel.prctl(kernel.PR_GET_DUMPABLE) == 0


def _close_all_but(keep: Iterable[int]) -> bool:
    lowest = 0
    for descriptor in sorted(keep):
        os.closerange(lowest, descriptor)
        lowest = descriptor + 1
    os.closerange(lowest, resource.getrlimit(resource.RLIMIT_NOFILE)[1] & 0x7FFFFFFF)
    return True


def _limit_resources(plan: SealingPlan) -> bool:
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, max(plan.keep_descriptors, default=0) + SPARE_DESCRIPTORS)
    _limit(resource.RLIMIT_NPROC, 0)
    _limit(resource.RLIMIT_FSIZE, FILE_SIZE_LIMIT)
    _limit(resource.RLIMIT_MEMLOCK, 0)
    _limit(resource.RLIMIT_AS, plan.memory_bytes)
    _limit(resource.RLIMIT_CPU, plan.cpu_seconds, plan.cpu_seconds + 1)  # SIGXCPU says why; SIGKILL cannot be ignored
    return True


def _limit(name: int, soft: int, hard: int | None = None) -> None:
    """Set a limit, or leave what was inherited where that is narrower already and cannot be raised."""
    inherited = resource.getrlimit(name)[1]
    ceiling = inherited if inherited != resource.RLIM_INFINITY else sys.maxsize
    resource.setrlimit(name, (min(soft, ceiling), min(soft if hard is None else hard, ceiling)))


def _landlock() -> bool:
    landlock.restrict_self()
    return True


def _seccomp(ioctl_request: int | None) -> bool:
    kernel.forbid_implied_execution()
    seccomp.install_filter(ioctl_request)
    return True

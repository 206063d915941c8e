"""A seccomp filter (seccomp(2)): an allow-list of system calls as a hand-built classic BPF program.

Allowed is what a warmed-up Python with numpy needs to compute and to use descriptors that are
already open. Everything else answers EPERM; a call under another numbering, be it another
architecture's or x32's, kills the process. Memory can never become executable, and of futex(2) there
is waiting and waking alone: its locks with priority inheritance have been a way into the kernel.
"""

import ctypes
import errno
import platform
import struct
from typing import NamedTuple

from enclave.core import kernel


class Architecture(NamedTuple):
    """An AUDIT_ARCH value and the system call numbers of its table, by name.

    `mapping` are the calls whose third argument is a memory protection.
    """

    audit: int
    allowed: dict[str, int]
    mapping: dict[str, int]
    futex: int
    ioctl: int


ARCHITECTURES = {
    "x86_64": Architecture(
        0xC000003E,
        {
            "read": 0, "write": 1, "close": 3, "fstat": 5, "lseek": 8, "munmap": 11, "brk": 12, "rt_sigaction": 13,
            "rt_sigprocmask": 14, "rt_sigreturn": 15, "pread64": 17, "pwrite64": 18, "sched_yield": 24, "mremap": 25,
            "madvise": 28, "getpid": 39, "exit": 60, "fsync": 74, "sigaltstack": 131, "gettid": 186,
            "restart_syscall": 219, "clock_gettime": 228, "exit_group": 231, "getrandom": 318, "preadv2": 327,
        },
        {"mmap": 9, "mprotect": 10},
        202,
        16,
    ),
    "aarch64": Architecture(
        0xC00000B7,
        {
            "close": 57, "lseek": 62, "read": 63, "write": 64, "pread64": 67, "pwrite64": 68, "fstat": 80, "fsync": 82,
            "exit": 93, "exit_group": 94, "clock_gettime": 113, "sched_yield": 124,
            "restart_syscall": 128, "sigaltstack": 132, "rt_sigaction": 134, "rt_sigprocmask": 135,
            "rt_sigreturn": 139, "getpid": 172, "gettid": 178, "brk": 214, "munmap": 215, "mremap": 216,
            "madvise": 233, "getrandom": 278, "preadv2": 286,
        },
        {"mmap": 222, "mprotect": 226},
        98,
        29,
    ),
}  # fmt: skip

# linux/bpf_common.h and linux/seccomp.h
_LOAD_WORD, _AND, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_SET, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_NUMBER_OFFSET, _ARCH_OFFSET = 0, 4
_SECOND_ARGUMENT_OFFSET, _THIRD_ARGUMENT_OFFSET = 24, 32  # their low words: the kernel reads no more of these
_X32_NUMBERS = 0x40000000  # asm/unistd.h: an x32 call comes under x86_64's AUDIT_ARCH
_PROT_EXEC = 4
_FUTEX_FLAGS = 0x180  # FUTEX_PRIVATE_FLAG, FUTEX_CLOCK_REALTIME
_FUTEX_OPERATIONS = (0, 1, 9, 10)  # FUTEX_WAIT, FUTEX_WAKE, FUTEX_WAIT_BITSET, FUTEX_WAKE_BITSET
ALLOW, KILL_PROCESS, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM

_Instruction = tuple[int, int, int, int]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def build_filter(architecture: Architecture, ioctl_request: int | None = None) -> list[tuple[int, int, int, int]]:
    """Return the BPF program as (code, jump if true, jump if false, k) instructions.

    With `ioctl_request` an ioctl of that request number alone is allowed, for an attester's device.
    """
    program: list[_Instruction] = [
        (_LOAD_WORD, 0, 0, _ARCH_OFFSET),
        (_JUMP_EQUAL, 1, 0, architecture.audit),
        (_RETURN, 0, 0, KILL_PROCESS),
        (_LOAD_WORD, 0, 0, _NUMBER_OFFSET),
        (_JUMP_AT_LEAST, 0, 1, _X32_NUMBERS),
        (_RETURN, 0, 0, KILL_PROCESS),
    ]
    for number in sorted(architecture.allowed.values()):
        program += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, ALLOW)]
    for number in sorted(architecture.mapping.values()):
        program += _checked(number, _unless_executable())
    program += _checked(architecture.futex, _if_waiting_or_waking())
    if ioctl_request is not None:
        program += _checked(architecture.ioctl, _if_requested(ioctl_request))
    return [*program, (_RETURN, 0, 0, REFUSE)]


def install_filter(ioctl_request: int | None = None) -> None:
    """Install the filter for this machine; needs no_new_privs. Raises `OSError` where it cannot be had."""
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no seccomp table for {machine}")
    instructions = build_filter(ARCHITECTURES[machine], ioctl_request)
    packed = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(packed, len(packed))
    program = _Program(len(packed) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    pointer = ctypes.cast(ctypes.byref(program), ctypes.c_void_p)
    kernel.prctl(kernel.PR_SET_SECCOMP, kernel.SECCOMP_MODE_FILTER, pointer)


def _checked(number: int, check: list[_Instruction]) -> list[_Instruction]:
    return [(_JUMP_EQUAL, 0, len(check), number), *check]


def _if_requested(ioctl_request: int) -> list[_Instruction]:
    # The kernel reads a request number as 32 bits, so the upper half of the argument means nothing.
    return [
        (_LOAD_WORD, 0, 0, _SECOND_ARGUMENT_OFFSET),
        (_JUMP_EQUAL, 1, 0, ioctl_request),
        (_RETURN, 0, 0, REFUSE),
        (_RETURN, 0, 0, ALLOW),
    ]


def _unless_executable() -> list[_Instruction]:
    return [
        (_LOAD_WORD, 0, 0, _THIRD_ARGUMENT_OFFSET),
        (_JUMP_SET, 0, 1, _PROT_EXEC),
        (_RETURN, 0, 0, REFUSE),
        (_RETURN, 0, 0, ALLOW),
    ]


def _if_waiting_or_waking() -> list[_Instruction]:
    check: list[_Instruction] = [
        (_LOAD_WORD, 0, 0, _SECOND_ARGUMENT_OFFSET),
        (_AND, 0, 0, 0xFFFFFFFF & ~_FUTEX_FLAGS),
    ]
    for operation in _FUTEX_OPERATIONS:
        check += [(_JUMP_EQUAL, 0, 1, operation), (_RETURN, 0, 0, ALLOW)]
    return [*check, (_RETURN, 0, 0, REFUSE)]

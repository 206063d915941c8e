"""The few Linux calls that Python does not offer, through ctypes; loaded before the process seals itself."""

import ctypes
import os
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_GET_DUMPABLE = 3
PR_SET_NAME = 15
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
SECCOMP_MODE_FILTER = 2

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

_PERSONALITY_QUERY = 0xFFFFFFFF
_READ_IMPLIES_EXEC = 0x0400000

_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = 63


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilityData(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def prctl(option: int, *arguments: Any) -> int:
    """Call prctl(2) with up to four arguments. Raises `OSError`."""
    padded = [*arguments, *([0] * (4 - len(arguments)))]
    values = [value if isinstance(value, ctypes.c_void_p) else ctypes.c_ulong(value) for value in padded]
    return _checked(_LIBC.prctl(ctypes.c_int(option), *values))


def name_process(name: str) -> None:
    """Let the process be seen under a name, of which the kernel keeps 15 bytes. Raises `OSError`."""
    buffer = ctypes.create_string_buffer(name.encode())  # lives until the kernel has read it
    prctl(PR_SET_NAME, ctypes.c_void_p(ctypes.addressof(buffer)))


def syscall(number: int, *arguments: Any) -> int:
    """Call a system call by its number. Raises `OSError`."""
    values = [value if not isinstance(value, int) else ctypes.c_long(value) for value in arguments]
    _LIBC.syscall.restype = ctypes.c_long
    return _checked(_LIBC.syscall(ctypes.c_long(number), *values))


def unshare(flags: int) -> None:
    """Move the process into new namespaces, unshare(2). Raises `OSError`."""
    _checked(_LIBC.unshare(ctypes.c_int(flags)))


def forbid_implied_execution() -> None:
    """Clear READ_IMPLIES_EXEC, personality(2), under which all that is readable can be executed. Raises `OSError`.

    It outlives exec, so whoever started the process can have set it.
    """
    current = _checked(_LIBC.personality(ctypes.c_ulong(_PERSONALITY_QUERY)))
    if current & _READ_IMPLIES_EXEC:
        _checked(_LIBC.personality(ctypes.c_ulong(current & ~_READ_IMPLIES_EXEC)))


def drop_capabilities() -> None:
    """Empty the ambient, bounding, effective, permitted and inheritable sets, capabilities(7). Raises `OSError`."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    drop_bounding_set()
    _checked(_LIBC.capset(ctypes.byref(_header()), ctypes.byref((_CapabilityData * 2)())))


def drop_bounding_set() -> None:
    """Empty the bounding set as far as the process may; without CAP_SETPCAP it is left as it is."""
    for capability in range(_LAST_CAPABILITY + 1):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:  # past the kernel's last capability, or not permitted: `has_capabilities` tells
            return


def has_capabilities() -> bool:
    """Whether the process holds any effective or permitted capability. Raises `OSError`."""
    data = (_CapabilityData * 2)()
    _checked(_LIBC.capget(ctypes.byref(_header()), ctypes.byref(data)))
    return any(word.effective or word.permitted or word.inheritable for word in data)


def _header() -> _CapabilityHeader:
    return _CapabilityHeader(_CAPABILITY_VERSION_3, 0)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result

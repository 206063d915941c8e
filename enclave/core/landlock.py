"""An empty Landlock rule set (Linux 5.13, landlock(7)): no path may be opened, no port used."""

import ctypes
import os

from enclave.core import kernel

_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_VERSION_FLAG = 1

# How many file-system access rights each ABI version handles (linux/landlock.h).
_FS_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NET_RIGHTS = 0b11  # bind and connect over TCP, since ABI 4
_SCOPES = 0b11  # abstract UNIX sockets and signals, since ABI 6


class _RulesetAttributes(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


def abi_version() -> int:
    """Return the kernel's Landlock ABI version. Raises `OSError` where Landlock is absent or disabled."""
    return kernel.syscall(_CREATE_RULESET, ctypes.c_void_p(None), 0, _VERSION_FLAG)


def restrict_self() -> None:
    """Forbid every access that this kernel's Landlock handles; needs no_new_privs. Raises `OSError`."""
    abi = abi_version()
    attributes = _RulesetAttributes(
        fs=(1 << _FS_RIGHTS[min(abi, max(_FS_RIGHTS))]) - 1,
        net=_NET_RIGHTS if abi >= 4 else 0,
        scoped=_SCOPES if abi >= 6 else 0,
    )
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    ruleset = kernel.syscall(_CREATE_RULESET, ctypes.byref(attributes), size, 0)
    try:
        kernel.syscall(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)

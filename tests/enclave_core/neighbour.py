"""Another process of the enclave's uid on its host, such as a worker gone bad: what it can do to the sealed one.

Started as root as `python tests/enclave_core/neighbour.py PID UID`; prints {attempt: "allowed" or the errno}.
"""

import ctypes
import json
import os
import sys
from pathlib import Path

PTRACE_SEIZE = 0x4206


def call(libc, name, *arguments):
    """Call into the C library. Raises `OSError`."""
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


def outcome(attempt):
    """Return what came of an attempt."""
    try:
        attempt()
    except OSError as error:
        return error.errno
    return "allowed"


def main():
    """Become that uid, try, print."""
    pid, uid = int(sys.argv[1]), int(sys.argv[2])
    libc = ctypes.CDLL(None, use_errno=True)
    process, none = Path(f"/proc/{pid}"), ctypes.c_void_p(None)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    buffer = ctypes.create_string_buffer(8)
    vector = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 8)  # struct iovec
    outcomes = {
        "read its memory file": lambda: (process / "mem").open("rb").close(),
        "write its memory file": lambda: (process / "mem").open("rb+").close(),
        "read its map": lambda: (process / "maps").open().close(),
        "read its environment": lambda: (process / "environ").open().close(),
        "list its descriptors": lambda: list((process / "fd").iterdir()),
        "look at its stack": lambda: (process / "syscall").read_text(),
        "process_vm_readv": lambda: call(libc, "process_vm_readv", pid, vector, 1, vector, 1, 0),
        "process_vm_writev": lambda: call(libc, "process_vm_writev", pid, vector, 1, vector, 1, 0),
        "seize it": lambda: call(libc, "ptrace", PTRACE_SEIZE, pid, none, none),
    }
    sys.stdout.write(json.dumps({name: outcome(attempt) for name, attempt in outcomes.items()}))


main()

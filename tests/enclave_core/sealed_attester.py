"""A process that opens an attester, seals itself for real, and attests: run by `test_attesters`.

    python -m tests.enclave_core.sealed_attester tsm|nitro|gramine DIRECTORY

The directory stands in for the platform; the Nitro device is /dev/null. What the attester gives, or
why it gives nothing, goes to standard output behind one line that says whether seccomp holds.
"""

import fcntl
import os
import sys
import termios
from pathlib import Path

from enclave.core.attesters.configfs import ReportEntries
from enclave.core.attesters.gramine import GramineAttester
from enclave.core.attesters.interface import Endorsements
from enclave.core.attesters.nitro import NitroAttester
from enclave.core.attesters.tsm import TsmAttester
from enclave.core.sealing import SealingPlan, seal_process
from qflare_protocol.errors import Refusal
from tests.fake_evidence import CLAIMS


class PipeEntries(ReportEntries):
    """Entries of named pipes: a writer's close ends what its reader reads, as configfs takes it."""

    def create(self, name):
        super().create(name)
        for attribute in ("provider", "generation"):
            (self._path / name / attribute).write_text({"provider": "tdx_guest\n", "generation": "1\n"}[attribute])
        for attribute in ("inblob", "outblob"):
            os.mkfifo(self._path / name / attribute)

    def open(self, name, attribute, flags):
        # Without a peer a pipe opens only for both ways; the peer comes while the process is sealed.
        pipe = attribute in ("inblob", "outblob")
        return super().open(name, attribute, os.O_RDWR if pipe else flags)

    def read(self, descriptor):
        content = os.read(descriptor, 1 << 16)
        os.close(descriptor)
        return content


def opened(kind, directory):
    if kind == "tsm":
        return TsmAttester(PipeEntries(directory), Endorsements())
    if kind == "nitro":
        return NitroAttester.over_device(Path("/dev/null"))
    return GramineAttester(Endorsements(), directory)


def other_ioctl():
    """Say what an ioctl that no attester needs comes to."""
    try:
        fcntl.ioctl(1, termios.FIONREAD, bytearray(4))
    except OSError as error:
        return error.strerror
    return "allowed"


def main(kind, directory):
    attester = opened(kind, Path(directory))
    uid = 65534 if os.geteuid() == 0 else os.geteuid()
    kept = frozenset({1}) | attester.descriptors
    held = seal_process(
        SealingPlan(
            uid=uid,
            gid=uid,
            memory_bytes=4 << 30,
            cpu_seconds=60,
            keep_descriptors=kept,
            parent_pid=os.getppid(),
            ioctl_request=attester.ioctl_request,
        )
    )
    os.write(1, f"{held['seccomp']} {other_ioctl()}\n".encode())
    try:
        os.write(1, attester.attest(CLAIMS))
    except Refusal as refusal:
        os.write(1, refusal.detail.encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)

"""The attester of confidential virtual machines: AMD SEV-SNP and Intel TDX guests, through configfs-tsm."""

import os
import re
from contextlib import suppress
from dataclasses import dataclass

from enclave.core.attesters.certificate_table import certificates_of
from enclave.core.attesters.configfs import ReportEntries
from enclave.core.attesters.interface import Endorsements, absent
from qflare_protocol.attestation import EnclaveClaims, HardwareEvidence, encode_hardware_evidence
from qflare_protocol.attestation.dcap_quote import without_padding
from qflare_protocol.errors import Refusal

ATTEMPTS = 3

_PREFIX = "qflare-"
_OWN_NAME = re.compile(r"qflare-([1-9][0-9]{0,6})")  # a process id is below 2^22
_PLATFORMS = {"sev_guest": "sev-snp", "tdx_guest": "tdx"}
_AUXILIARY = {"sev-snp": True, "tdx": False}  # whether there is an `auxblob`, with certificates


@dataclass(frozen=True)
class _Attempt:
    """The descriptors of one try; `auxblob` only where the platform has it."""

    inblob: int
    outblob: int
    generation: int
    auxblob: int | None

    def descriptors(self) -> set[int]:
        auxiliary = set() if self.auxblob is None else {self.auxblob}
        return {self.inblob, self.outblob, self.generation} | auxiliary


class TsmAttester:
    """Asks the guest's kernel for a report.

    An entry of its own and the generation counter keep other programs' requests apart from ours:
    a report counts only if nobody but we wrote to the entry since. The sealed process cannot open
    anything again, so every attempt has descriptors of its own.
    """

    ioctl_request: int | None = None

    def __init__(self, entries: ReportEntries, endorsements: Endorsements) -> None:
        self._entries, self._endorsements = entries, endorsements
        try:
            self._name = _own_entry(entries)
            provider = entries.read(entries.open(self._name, "provider", os.O_RDONLY)).decode("ascii", "replace")
            self._platform = _platform(provider.strip())
            self._generation = _number(entries.read(entries.open(self._name, "generation", os.O_RDONLY)))
            self._attempts = [self._opened() for _ in range(ATTEMPTS)]
        except OSError as error:
            raise absent(
                f"The kernel has no configfs-tsm for reports ({error.strerror}): this is no SEV-SNP or TDX guest, its "
                "kernel is older than 6.7, configfs is not mounted, or the enclave worker is not root."
            ) from error

    @property
    def descriptors(self) -> frozenset[int]:
        """The descriptors of the attempts that are left."""
        return frozenset().union(*(attempt.descriptors() for attempt in self._attempts))

    def attest(self, claims: EnclaveClaims) -> bytes:
        """Return evidence by the platform. Raises `Refusal("enclave-failed")` when every attempt was disturbed."""
        while self._attempts:
            blobs = self._report(self._attempts.pop(0), claims.report_data)
            if blobs is not None:
                return encode_hardware_evidence(claims, self._evidence(*blobs))
        raise absent(f"The platform gave no report of this process's keys in {ATTEMPTS} attempts.")

    def _report(self, attempt: _Attempt, report_data: bytes) -> tuple[bytes, bytes] | None:
        """Return report and certificates, or None where somebody else wrote to the entry in between."""
        try:
            self._entries.write(attempt.inblob, report_data)
            blobs = self._blobs(attempt)
            expected, self._generation = self._generation + 1, _number(self._entries.read(attempt.generation))
        except OSError as error:
            raise absent(f"The platform's report cannot be asked for ({error.strerror}).") from error
        mine = blobs is not None and self._generation == expected and report_data in blobs[0]
        return blobs if mine else None

    def _blobs(self, attempt: _Attempt) -> tuple[bytes, bytes] | None:
        try:
            report = self._entries.read(attempt.outblob)
            return report, b"" if attempt.auxblob is None else self._entries.read(attempt.auxblob)
        except OSError:  # busy with another request, or our write was not taken: the next attempt may be luckier
            return None

    def _evidence(self, report: bytes, auxiliary: bytes) -> HardwareEvidence:
        if self._platform == "tdx":
            return HardwareEvidence("tdx", without_padding(report), collateral=self._endorsements.collateral)
        certificates = self._endorsements.certificates or certificates_of(auxiliary)
        if not certificates:
            raise absent("The host gives no certificates of its endorsement key; see `endorsements` in the operations.")
        return HardwareEvidence("sev-snp", report, certificates)

    def _opened(self) -> _Attempt:
        def opened(attribute: str, flags: int = os.O_RDONLY) -> int:
            return self._entries.open(self._name, attribute, flags)

        auxblob = opened("auxblob") if _AUXILIARY[self._platform] else None
        return _Attempt(opened("inblob", os.O_WRONLY), opened("outblob"), opened("generation"), auxblob)


def _own_entry(entries: ReportEntries) -> str:
    """Return the name of a new entry; entries of processes that are gone are removed.

    A sealed process cannot remove its own: its successors do. Should two pid namespaces share the
    guest, one may remove a live entry of the other, whose request then fails and is made again.
    """
    for name in entries.names():
        owner = _OWN_NAME.fullmatch(name)
        if owner and (int(owner[1]) == os.getpid() or not _is_alive(int(owner[1]))):
            with suppress(OSError):  # another process may be removing it too
                entries.remove(name)
    own = f"{_PREFIX}{os.getpid()}"
    entries.create(own)
    return own


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _platform(provider: str) -> str:
    if provider not in _PLATFORMS:
        raise absent(f"The platform {provider[:40]!r} is none that evidence is made of: {', '.join(_PLATFORMS)}.")
    return _PLATFORMS[provider]


def _number(text: bytes) -> int:
    if not text.strip().isdigit():
        raise Refusal("enclave-failed", "The generation of the platform's report is no number.")
    return int(text)

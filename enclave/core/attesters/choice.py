"""Which attester a process is started with."""

from enclave.core.attesters.configfs import ReportEntries
from enclave.core.attesters.gramine import GramineAttester
from enclave.core.attesters.interface import Attester
from enclave.core.attesters.nitro import NitroAttester
from enclave.core.attesters.software import SoftwareAttester
from enclave.core.attesters.tsm import TsmAttester
from enclave.core.host import HostDirectory, acting_as

SOFTWARE = "software"
ATTESTERS = (SOFTWARE, "tsm", "nitro", "gramine")


def open_attester(name: str, host: HostDirectory, uid: int, gid: int) -> Attester:
    """Open an attester of `ATTESTERS` before the process is sealed.

    The host directory is read as its owner; the platform's devices as whoever this process still is.
    Raises `Refusal("enclave-failed")` where the platform is absent.
    """
    with acting_as(uid, gid):
        if name == SOFTWARE:
            return SoftwareAttester(host.attestation_signer())
        endorsements = host.endorsements()
    if name == "tsm":
        return TsmAttester(ReportEntries(), endorsements)
    if name == "nitro":
        return NitroAttester.over_device()
    return GramineAttester(endorsements)

"""Which verifier takes which evidence, and what a verified platform is worth beside the pinned ones."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from qflare_protocol.attestation.dcap import verify_quote
from qflare_protocol.attestation.dcap_collateral import appraise_tcb
from qflare_protocol.attestation.evidence import HardwareEvidence
from qflare_protocol.attestation.layout import refuse, require
from qflare_protocol.attestation.nitro import NITRO, verify_nitro
from qflare_protocol.attestation.pins import PlatformPin
from qflare_protocol.attestation.platform import PlatformReport, TcbStatus
from qflare_protocol.attestation.roots import VendorRoots
from qflare_protocol.attestation.snp import SEV_SNP, verify_snp

NO_MINIMUM = "No least firmware versions are pinned, so nobody knows whether the platform's TCB is up to date."


@dataclass(frozen=True)
class PlatformAppraisal:
    """A verified report of a pinned platform, the status of its TCB, and the reasons where that is not current."""

    report: PlatformReport
    tcb: TcbStatus
    reasons: tuple[str, ...]


def verify_platform(given: HardwareEvidence, roots: VendorRoots, at: int) -> PlatformReport:
    """Return what the hardware vouches for at a Unix time, pinned or not. Raises `Refusal("evidence-refused")`.

    A Nitro document is verified at its own time, which the caller compares: its certificates live for hours.
    """
    if given.attester == SEV_SNP:
        report = verify_snp(given.evidence, given.endorsements, at, roots.amd)
    elif given.attester == NITRO:
        report = verify_nitro(given.evidence, roots=roots.aws)
    else:
        report = verify_quote(given.evidence, at, roots.intel)
    require(report.attester == given.attester, "The evidence is of another platform than its envelope says.")
    carried = given.attester == SEV_SNP or not given.endorsements
    require(carried, f"Evidence of {given.attester} carries its certificates itself.")
    fits = given.attester not in (SEV_SNP, NITRO) or given.collateral is None
    require(fits, f"There is no collateral for {given.attester}.")
    return report


def appraise_platform(
    given: HardwareEvidence, pinned: AbstractSet[PlatformPin], roots: VendorRoots, *, at: int
) -> PlatformAppraisal:
    """Return the appraisal of hardware evidence at a Unix time. Raises `Refusal("evidence-refused")`."""
    report = verify_platform(given, roots, at)
    launched = [pin for pin in pinned if pin.launched(report)]
    if not launched:
        refuse("The platform runs an image that is not pinned here.")
    current = [pin for pin in launched if not pin.outdated(report)]
    if not current:
        behind = ", ".join(sorted({name for pin in launched for name in pin.outdated(report)}))
        refuse(f"The platform's firmware is older than the pinned least versions: {behind}.")
    tcb, reasons = _tcb(given, report, current, at)
    return PlatformAppraisal(report, tcb, reasons)


def _tcb(
    given: HardwareEvidence, report: PlatformReport, pins: list[PlatformPin], at: int
) -> tuple[TcbStatus, tuple[str, ...]]:
    if report.attester == NITRO:
        return TcbStatus.CURRENT, ()  # AWS keeps it, and states nothing that could be compared
    if report.attester == SEV_SNP:
        complete = any(set(report.security_versions) == {name for name, _ in pin.minimum_versions} for pin in pins)
        return (TcbStatus.CURRENT, ()) if complete else (TcbStatus.UNKNOWN, (NO_MINIMUM,))
    return appraise_tcb(given.evidence, given.collateral, at)

"""TCB appraisal of Intel platforms by Intel's signed collateral, through the optional package `dcap-qvl`.

Collateral (TCB info, QE identity, revocation lists) is the JSON that dcap-qvl and Intel's PCS
clients write. It comes with the evidence or not at all: nothing here reaches for the network.
"""

from types import ModuleType

from qflare_protocol.attestation.layout import refuse
from qflare_protocol.attestation.platform import TcbStatus

MAX_COLLATERAL_BYTES = 40_000
NO_COLLATERAL = (
    "The evidence brings no collateral, so nobody knows whether the platform's TCB is up to date or revoked."
)
NO_LIBRARY = "The collateral could not be appraised: install the extra qflare[dcap]."

_CURRENT, _REVOKED = "UpToDate", "Revoked"


def appraise_tcb(quote: bytes, collateral: bytes | None, at: int) -> tuple[TcbStatus, tuple[str, ...]]:
    """Return the status of the platform's TCB at a Unix time, and the reasons where it is not current.

    Raises `Refusal("evidence-refused")` for a revoked platform, and for collateral that is broken,
    out of date or not this platform's.
    """
    if collateral is None:
        return TcbStatus.UNKNOWN, (NO_COLLATERAL,)
    library = _library()
    if library is None:
        return TcbStatus.UNKNOWN, (NO_LIBRARY,)
    status, advisories = _verified(library, quote, collateral, at)
    if status == _REVOKED:
        refuse("The platform's TCB is revoked.")
    if status == _CURRENT:
        return TcbStatus.CURRENT, ()
    named = f", see {', '.join(advisories)}" if advisories else ""
    return TcbStatus.OUTDATED, (f"The status of the platform's TCB is {status}{named}.",)


def _library() -> ModuleType | None:
    try:
        import dcap_qvl
    except ImportError:  # optional: what it would have said is then a reason for the lower tier
        return None
    module: ModuleType = dcap_qvl
    return module


def _verified(library: ModuleType, quote: bytes, collateral: bytes, at: int) -> tuple[str, list[str]]:
    try:
        parsed = library.QuoteCollateralV3.from_json(collateral.decode("ascii"))
        report = library.verify(quote, parsed, at)
    except ValueError as failure:
        reason = str(failure).partition("\n")[0].removeprefix("Verification failed: ")
        refuse(f"The collateral does not vouch for the platform: {reason}.")
    return report.status, list(report.advisory_ids)

"""The verifier of AMD SEV-SNP reports: signature, VCEK or VLEK chain, and what the certificate says of the chip
(AMD publications 56860 and 57230, "Versioned Chip Endorsement Key Certificate and KDS Interface Specification").
"""

from collections.abc import Mapping, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from qflare_protocol.attestation.certificates import (
    common_name,
    extension_bytes,
    public_key,
    verify_chain,
    verify_ecdsa,
)
from qflare_protocol.attestation.layout import refuse, require
from qflare_protocol.attestation.platform import PlatformReport
from qflare_protocol.attestation.roots import AMD_ROOTS
from qflare_protocol.attestation.snp_report import VCEK, SnpReport, parse_report

SEV_SNP = "sev-snp"

_OID = "1.3.6.1.4.1.3704.1."
_PRODUCT_NAME, _HARDWARE_ID = _OID + "2", _OID + "4"
_SECURITY_PATCH_LEVELS = {"bootloader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8", "fmc": "3.9"}
_EARLIER_TCB = {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7}
_TURIN_TCB = {"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7}
_IA5_STRING, _INTEGER, _OCTET_STRING = 0x16, 0x02, 0x04


def verify_snp(
    evidence: bytes, endorsements: Sequence[bytes], at: int, roots: Mapping[bytes, str] = AMD_ROOTS
) -> PlatformReport:
    """Return what the chip vouches for.

    `endorsements` are DER certificates: VCEK or VLEK, ASK or ASVK, ARK; `at` is in Unix seconds.
    Raises `Refusal("evidence-refused")`.
    """
    report = parse_report(evidence)
    require(len(endorsements) == 3, "An SEV-SNP report comes with endorsement key, intermediate and root.")
    (leaf, intermediate, _), line = verify_chain(endorsements, roots, at)
    _require_names(report, leaf, intermediate, line)
    verify_ecdsa(public_key(leaf), ec.SECP384R1, report.signature, report.signed)
    versions = security_versions(report.reported_tcb, line)
    _require_same_chip(report, leaf, line)
    _require_same_versions(versions, leaf)
    require(report.vmpl == 0, "The report was asked for below the guest's highest privilege level.")
    return PlatformReport(SEV_SNP, report.report_data, {"MEASUREMENT": report.measurement}, versions)


def security_versions(tcb: bytes, line: str) -> dict[str, int]:
    """Return the security versions of a TCB_VERSION of 8 bytes by name; the layout depends on the product line."""
    places = _TURIN_TCB if line == "Turin" else _EARLIER_TCB
    unused = set(range(8)) - set(places.values())
    require(not any(tcb[place] for place in unused), "A reserved field of the reported TCB is not zero.")
    return {name: tcb[place] for name, place in places.items()}


def _require_names(report: SnpReport, leaf: x509.Certificate, intermediate: x509.Certificate, line: str) -> None:
    expected = ("SEV-VCEK", f"SEV-{line}") if report.signing_key == VCEK else ("SEV-VLEK", f"SEV-VLEK-{line}")
    found = common_name(leaf), common_name(intermediate)
    require(found == expected, "The certificates are not of the key that signed the report.")
    product = extension_bytes(leaf, _PRODUCT_NAME)
    require(
        product is not None and _content(product, _IA5_STRING).startswith(line.encode()),
        "The endorsement key belongs to another product line than its root.",
    )


def _require_same_chip(report: SnpReport, leaf: x509.Certificate, line: str) -> None:
    if report.signing_key != VCEK:
        return  # a VLEK is of a cloud provider, not of a chip
    hardware_id = extension_bytes(leaf, _HARDWARE_ID)
    if hardware_id is None or report.chip_key_masked:
        refuse("The report does not say which chip made it.")
    if hardware_id[:1] == bytes([_OCTET_STRING]) and len(hardware_id) in (10, 66):
        hardware_id = _content(hardware_id, _OCTET_STRING)
    require(len(hardware_id) == (8 if line == "Turin" else 64), "The hardware id of the endorsement key is too short.")
    same = hardware_id.ljust(64, b"\0") == report.chip_id
    require(same, "The report was made by another chip than its endorsement key belongs to.")


def _require_same_versions(versions: Mapping[str, int], leaf: x509.Certificate) -> None:
    for name, reported in versions.items():
        certified = extension_bytes(leaf, _OID + _SECURITY_PATCH_LEVELS[name])
        same = certified is not None and int.from_bytes(_content(certified, _INTEGER), "big") == reported
        require(same, "The report was made under another TCB than its endorsement key.")


def _content(value: bytes, tag: int) -> bytes:
    """Return the content of a DER element with a length of one byte (ITU-T X.690 section 8.1)."""
    well_formed = len(value) > 2 and value[0] == tag and value[1] == len(value) - 2 < 0x80
    require(well_formed, "An extension of the endorsement key cannot be read.")
    return value[2:]

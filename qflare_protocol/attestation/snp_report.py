"""The layout of AMD SEV-SNP attestation reports (AMD publication 56860, "SEV Secure Nested Paging Firmware ABI",
table ATTESTATION_REPORT, versions 2 to 5).
"""

from dataclasses import dataclass

from qflare_protocol.attestation.layout import FieldReader, refuse, require

REPORT_BYTES = 0x4A0
SIGNED_BYTES = 0x2A0
VERSIONS = range(2, 6)
ECDSA_P384_SHA384 = 1
VCEK, VLEK = 0, 1

_POLICY_MUST_BE_ONE, _POLICY_MIGRATION_AGENT, _POLICY_DEBUG, _POLICY_HIGHEST = 1 << 17, 1 << 18, 1 << 19, 25
_PLATFORM_INFO_KNOWN = 0b1011_1111
_COMPONENT_BYTES, _USED_COMPONENT_BYTES = 72, 48


@dataclass(frozen=True)
class SnpReport:
    """The fields of a report that a verifier uses.

    `signing_key` is `VCEK` or `VLEK`, `reported_tcb` the 8 bytes of a TCB_VERSION, `chip_id` 64 bytes,
    `signature` r and s, 48 bytes big-endian each.
    """

    version: int
    vmpl: int
    signing_key: int
    chip_key_masked: bool
    report_data: bytes
    measurement: bytes
    reported_tcb: bytes
    chip_id: bytes
    signed: bytes
    signature: bytes


def parse_report(data: bytes) -> SnpReport:
    """Read a report of 1,184 bytes. Raises `Refusal("evidence-refused")`, for the DEBUG policy too."""
    require(len(data) == REPORT_BYTES, f"An SEV-SNP report has {REPORT_BYTES} bytes.")
    reader = FieldReader(data, "SEV-SNP report")
    version = reader.number(4)
    require(version in VERSIONS, f"SEV-SNP reports of version {version} are not known here.")
    reader.take(4)  # GUEST_SVN
    _check_policy(reader.number(8))
    reader.take(32)  # FAMILY_ID, IMAGE_ID
    vmpl = reader.number(4)
    require(vmpl <= 3, "The report names no privilege level that exists.")
    require(reader.number(4) == ECDSA_P384_SHA384, "The report is not signed with ECDSA P-384.")
    reader.take(8)  # CURRENT_TCB
    require(reader.number(8) & ~_PLATFORM_INFO_KNOWN == 0, "A reserved field of the SEV-SNP report is not zero.")
    signing_key, masked = _key_choice(reader.number(4))
    reader.reserved(4)
    report_data, measurement = reader.take(64), reader.take(48)
    reader.take(192)  # HOST_DATA, ID_KEY_DIGEST, AUTHOR_KEY_DIGEST, REPORT_ID, REPORT_ID_MA
    reported_tcb = reader.take(8)
    reader.take(3) if version >= 3 else reader.reserved(3)  # CPUID family, model, stepping
    reader.reserved(21)
    chip_id = reader.take(64)
    _pass_versions(reader, version)
    return SnpReport(
        version, vmpl, signing_key, masked, report_data, measurement, reported_tcb, chip_id,
        data[:SIGNED_BYTES], _signature(reader),
    )  # fmt: skip


def _check_policy(policy: int) -> None:
    require(policy & _POLICY_DEBUG == 0, "The guest may be debugged: its host can read all of its memory.")
    require(policy & _POLICY_MIGRATION_AGENT == 0, "The guest may be migrated by an agent that nobody appraises.")
    valid = policy & _POLICY_MUST_BE_ONE and policy >> (_POLICY_HIGHEST + 1) == 0
    require(bool(valid), "A reserved field of the SEV-SNP guest policy is not as it must be.")


def _key_choice(flags: int) -> tuple[int, bool]:
    signing_key = flags >> 2 & 0b111
    require(flags >> 5 == 0, "A reserved field of the SEV-SNP report is not zero.")
    if signing_key not in (VCEK, VLEK):
        refuse("The report is signed by no endorsement key.")
    return signing_key, bool(flags & 0b10)


def _pass_versions(reader: FieldReader, version: int) -> None:
    reader.take(8)  # COMMITTED_TCB
    for _ in ("current", "committed"):
        reader.take(3)  # build, minor, major
        reader.reserved(1)
    reader.take(8)  # LAUNCH_TCB
    reader.take(16) if version >= 5 else reader.reserved(16)  # mitigation vectors
    reader.reserved(152)


def _signature(reader: FieldReader) -> bytes:
    parts = []
    for _ in ("r", "s"):
        component = reader.take(_COMPONENT_BYTES)
        require(not any(component[_USED_COMPONENT_BYTES:]), "The signature of the SEV-SNP report is too large.")
        parts.append(component[:_USED_COMPONENT_BYTES][::-1])
    reader.reserved(368)
    reader.end()
    return b"".join(parts)

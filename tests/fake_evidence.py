"""Evidence of one round by every kind of hardware, none of it there; see `fake_hardware`."""

from qflare_protocol import hpke, pqc
from qflare_protocol.aggregation_policy import PROTECTIONS, AggregationPolicy
from qflare_protocol.attestation import EnclaveClaims, HardwareEvidence, encode_hardware_evidence
from qflare_protocol.attestation.evidence import HARDWARE
from tests.fake_hardware import MEASUREMENT, NOW, Dcap, Nitro, Snp, sgx_body, tdx_body

ROUND, FEDERATION = b"r" * 16, b"f" * 16
CLAIMS = EnclaveClaims(
    nonce=b"n" * 32,
    round_id=ROUND,
    federation_id=FEDERATION,
    hpke_public_key=hpke.generate().public,
    result_public_key=pqc.signature("ML-DSA-44").generate().public,
    measurement=b"m" * 64,
    policy=AggregationPolicy(minimum_updates=4),
    protections=dict.fromkeys(PROTECTIONS, True),
    issued_at=NOW,
)
PINS = {
    "sev-snp": f"sev-snp/MEASUREMENT={MEASUREMENT.hex()}",
    "tdx": "tdx/MRTD=" + "dd" * 48 + "/RTMR1=" + "01" * 48 + "/RTMR2=" + "02" * 48,
    "sgx": "sgx/MRENCLAVE=" + "bb" * 32,
    "nitro": "nitro/PCR0=" + "ee" * 48 + "/PCR1=" + "01" * 48 + "/PCR2=" + "02" * 48,
}


def given_by(attester, report_data=None, **changes):
    """What a platform of that kind gives for the claims."""
    data = CLAIMS.report_data if report_data is None else report_data
    if attester == "sev-snp":
        return HardwareEvidence(attester, Snp().report(data, **changes), tuple(Snp().endorsements()))
    if attester == "tdx":
        return HardwareEvidence(attester, Dcap(4, 0x81).quote(tdx_body(data, **changes)))
    if attester == "sgx":
        return HardwareEvidence(attester, Dcap(3, 0x00).quote(sgx_body(data, **changes)))
    return HardwareEvidence(attester, Nitro().document(data, **changes))


EVIDENCE = {attester: encode_hardware_evidence(CLAIMS, given_by(attester)) for attester in HARDWARE}

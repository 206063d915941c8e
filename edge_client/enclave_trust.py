"""Whether this device trusts an enclave: pins of attestation keys and code, checked before sealing."""

import structlog

from edge_client.device_state import DeviceStateFile, EnclavePins
from qflare_protocol.attestation import AppraisalPolicy, appraise
from qflare_protocol.attestation.appraisal import Appraisal
from qflare_protocol.attestation.evidence import SIGNATURE_ALGORITHM, unverified_claims
from qflare_protocol.cose import key_fingerprint

log = structlog.get_logger(__name__)

# A round may stay open for weeks, and its evidence is made once, when it opens.
ROUND_EVIDENCE_AGE_SECONDS = 90 * 86_400
# A published model is checked against the evidence of its round however long ago that was.
MODEL_EVIDENCE_AGE_SECONDS = 100 * 365 * 86_400


class EnclaveTrust:
    """Appraises evidence against this device's pins.

    A device that was given no pins takes those of the first evidence its authenticated server shows
    (trust on first use) and says so; from then on any other host or code is refused.
    """

    def __init__(self, memory: DeviceStateFile) -> None:
        self._memory = memory

    def appraise(self, evidence: bytes, *, round_id: bytes, federation_id: bytes, now: float) -> Appraisal:
        """Return the appraisal of an open round's enclave at a Unix time. Raises `Refusal("evidence-refused")`."""
        pins = self._memory.state.pins
        if not pins.attestation_keys or not pins.measurements:
            pins = self._pin_first(evidence, pins)
        policy = AppraisalPolicy(
            pins.attestation_keys, pins.measurements, maximum_age_seconds=ROUND_EVIDENCE_AGE_SECONDS
        )
        return appraise(evidence, policy, round_id=round_id, federation_id=federation_id, now=int(now))

    def appraise_maker(
        self, evidence: bytes, *, round_id: bytes, federation_id: bytes, now: float, first_model: bool
    ) -> Appraisal:
        """Return the appraisal of the enclave that made a model, which may be retired for long.

        The first model a device ever sees of a federation may come from code that has been replaced
        since: its enclave host must be pinned, its measurement is then taken on trust.
        """
        pins = self._memory.state.pins
        measurements = pins.measurements
        if first_model:
            measurements |= {unverified_claims(evidence)[1].measurement}
        policy = AppraisalPolicy(pins.attestation_keys, measurements, maximum_age_seconds=MODEL_EVIDENCE_AGE_SECONDS)
        return appraise(evidence, policy, round_id=round_id, federation_id=federation_id, now=int(now))

    def _pin_first(self, evidence: bytes, pins: EnclavePins) -> EnclavePins:
        attestation_key, claims = unverified_claims(evidence)
        fingerprint = key_fingerprint(SIGNATURE_ALGORITHM, attestation_key)
        pinned = EnclavePins(
            pins.attestation_keys or frozenset({fingerprint}), pins.measurements or frozenset({claims.measurement})
        )
        log.warning("enclave_pinned_on_first_use", key=fingerprint.hex(), measurement=claims.measurement.hex())
        self._memory.remember(pins=pinned)
        return pinned

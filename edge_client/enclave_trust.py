"""Whether this device trusts an enclave: pins of attestation keys, platforms and code, checked before sealing."""

from dataclasses import replace

import structlog

from edge_client.device_state import DeviceStateFile, EnclavePins
from qflare_protocol.attestation import AppraisalPolicy, PlatformPin, appraise
from qflare_protocol.attestation.appraisal import Appraisal
from qflare_protocol.attestation.evidence import SIGNATURE_ALGORITHM, ReadEvidence, read_evidence
from qflare_protocol.attestation.hardware import verify_platform
from qflare_protocol.attestation.roots import VendorRoots
from qflare_protocol.cose import key_fingerprint

log = structlog.get_logger(__name__)

# A round may stay open for weeks, and its evidence is made once, when it opens.
ROUND_EVIDENCE_AGE_SECONDS = 90 * 86_400
# A published model is checked against the evidence of its round however long ago that was.
MODEL_EVIDENCE_AGE_SECONDS = 100 * 365 * 86_400


class EnclaveTrust:
    """Appraises evidence against this device's pins.

    A device that was given no pins takes those of the first evidence its authenticated server shows
    (trust on first use) and says so: the attestation key of software evidence, or the launched image
    of hardware whose vendor's signatures hold. From then on any other host, image or code is refused,
    and who pinned a platform alone never takes software evidence.
    """

    def __init__(self, memory: DeviceStateFile, vendor_roots: VendorRoots | None = None) -> None:
        self._memory = memory
        self._roots = vendor_roots or VendorRoots()

    def appraise(
        self,
        evidence: bytes,
        *,
        round_id: bytes,
        federation_id: bytes,
        now: float,
        range_index: int = 0,
        range_count: int = 1,
    ) -> Appraisal:
        """Return the appraisal of an open round's enclave, or of that of one range of it, at a Unix time.

        Raises `Refusal("evidence-refused")`.
        """
        pins = self._memory.state.pins
        if not pins.complete:
            pins = self._with_first(read_evidence(evidence), pins)
        policy = self._policy(pins, ROUND_EVIDENCE_AGE_SECONDS)
        appraisal = appraise(
            evidence,
            policy,
            round_id=round_id,
            federation_id=federation_id,
            now=int(now),
            range_index=range_index,
            range_count=range_count,
        )
        if pins != self._memory.state.pins:
            self._memory.remember(pins=pins)
            log.warning("enclave_pinned_on_first_use", **pins.to_json())
        return appraisal

    def appraise_maker(
        self, evidence: bytes, *, round_id: bytes, federation_id: bytes, now: float, first_model: bool
    ) -> Appraisal:
        """Return the appraisal of the enclave that made a model, which may be retired for long.

        The first model a device ever sees of a federation may come from code that has been replaced
        since: its enclave host or platform must be pinned, its measurement is then taken on trust.
        """
        pins = self._memory.state.pins
        if first_model:
            pins = replace(pins, measurements=pins.measurements | {read_evidence(evidence).claims.measurement})
        policy = self._policy(pins, MODEL_EVIDENCE_AGE_SECONDS)
        return appraise(
            evidence, policy, round_id=round_id, federation_id=federation_id, now=int(now), range_count=None
        )

    def policy(self, maximum_age_seconds: int) -> AppraisalPolicy:
        """Return what this device demands of evidence up to that age; without pins nothing satisfies it."""
        return self._policy(self._memory.state.pins, maximum_age_seconds)

    def pins_of(self, read: ReadEvidence) -> EnclavePins:
        """Return the pins that this evidence, of which only a platform's signatures are verified, would satisfy.

        Raises `Refusal("evidence-refused")` where a platform's do not hold.
        """
        return self._with_first(read, EnclavePins())

    def _policy(self, pins: EnclavePins, maximum_age_seconds: int) -> AppraisalPolicy:
        return AppraisalPolicy(
            pins.attestation_keys,
            pins.measurements,
            pins.platforms,
            accepted_tiers=pins.tiers,
            maximum_age_seconds=maximum_age_seconds,
            vendor_roots=self._roots,
        )

    def _with_first(self, read: ReadEvidence, pins: EnclavePins) -> EnclavePins:
        """Return the pins with what is missing taken from the evidence, which is yet to be appraised."""
        pins = replace(pins, measurements=pins.measurements or frozenset({read.claims.measurement}))
        if pins.attestation_keys or pins.platforms:
            return pins
        if read.hardware is None:
            key = key_fingerprint(SIGNATURE_ALGORITHM, read.attestation_key or b"")
            return replace(pins, attestation_keys=frozenset({key}))
        report = verify_platform(read.hardware, self._roots, at=read.claims.issued_at)
        return replace(pins, platforms=frozenset({PlatformPin.of_report(report)}))

"""What a device does in a round: ask for work, take the model, hand in its update once."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any

from django.conf import settings
from django.db import transaction
from django.db.models import F

from audit.services import record_event
from devices.models import Device
from enclave.services import evidence_of, live_instances, live_key_ids
from keyring import envelope
from keyring.services import server_identity
from qflare_protocol.cose import claimed_signer, sign1, unverified_payload
from qflare_protocol.encoding import decode
from qflare_protocol.errors import Refusal
from qflare_protocol.manifest import Manifest, manifest_digest, unverified_manifest, verify_manifest
from training.blobs import pieces_of, store_blob
from training.models import (
    WAITING,
    Federation,
    ModelVersion,
    Participation,
    ParticipationState,
    Round,
    RoundState,
    Update,
)
from training.services.asking import fleet_seconds, usual_seconds
from training.services.device_evaluation import evaluation_for
from training.services.late_updates import bases_on_the_wire, round_closed, takes_base
from training.services.progress import lease_until
from training.services.rounds import event_payload
from training.services.waiting_round import NothingWaits, WaitingRound, waiting_round

MAX_MANIFEST_BYTES = 1 << 16
RECEIPT = "update receipt"
REPORTED_FAILED = "The device has reported that its training failed in this round; ask for work."
SHORTEST_ASK_AGAIN_MILLISECONDS, AWAITED_MILLISECONDS_PER_DEVICE = 200, 20
"""A round that is about to open is asked for by all its devices together fifty times a second, and no device more
than five times."""


def work_for(device: Device, *, active_devices: int, now: datetime) -> dict[str, Any]:
    """Return the round that waits for this device, or in how many seconds a device of so large a fleet asks again."""
    found = waiting_round(device, now=now)
    if isinstance(found, NothingWaits):
        return _nothing_to_train(device, found, active_devices)
    return {"round": _assignment(found), "ask_again_seconds": 0}


def _nothing_to_train(device: Device, nothing: NothingWaits, active_devices: int) -> dict[str, Any]:
    """Return when to ask again, and the version that waits for the device's evaluation, where one does."""
    evaluation = evaluation_for(device) if nothing.evaluations_asked else None
    usual = usual_seconds(nothing.shortest_seconds, between_buffers=nothing.between_buffers)
    seconds = max(usual, fleet_seconds(active_devices, settings.QFLARE_ASKS_PER_SECOND, nothing.shortest_seconds))
    waits = {"round": None, "ask_again_seconds": seconds, **_sooner(nothing, usual)}
    return waits | ({"evaluation": evaluation} if evaluation else {})


def _sooner(nothing: NothingWaits, usual: int) -> dict[str, int]:
    """Return when to ask for a round that is about to open, where that is before a small fleet would."""
    if nothing.awaited_devices is None:
        return {}
    wait = max(AWAITED_MILLISECONDS_PER_DEVICE * nothing.awaited_devices, SHORTEST_ASK_AGAIN_MILLISECONDS)
    return {"ask_again_milliseconds": wait} if wait < 1000 * usual else {}


def _assignment(waiting: WaitingRound) -> dict[str, Any]:
    evidence, *further = [bytes(instance.evidence) for instance in live_instances(waiting.round_id)]
    return {
        "round_id": waiting.round_id.bytes,
        "round_number": waiting.round_number,
        "federation_id": waiting.federation_id.bytes,
        "federation": waiting.federation,
        "base_version": waiting.base_version,
        "base_model_digest": waiting.base_digest,
        "evidence": evidence,
        **({"range_evidence": further} if further else {}),
        **({"older_bases": bases_on_the_wire(waiting.older_bases)} if waiting.older_bases else {}),
        "trainer": waiting.trainer,
        "trainer_parameters": waiting.trainer_parameters,
        "deadline": int(waiting.deadline_at.timestamp()),
        "signature_key": waiting.signature_key,
    }


def model_for(
    device: Device, federation_id: uuid.UUID, number: int | None, *, now: datetime, released: bool = False
) -> dict[str, Any]:
    """Return where a model version lies and the content key that opens it.

    It is the one of that number, or the `released` one, or else the one that training has come to.

    Raises `Refusal`: "not-found" for a federation the device does not belong to, "no-model".
    """
    federation = Federation.objects.select_related("current_version").filter(id=federation_id).first()
    if federation is None or not _belongs(device, federation):
        raise Refusal("not-found", "There is no such federation for this device.")
    version: ModelVersion | None
    if released:
        version = federation.versions.filter(released_at__isnull=False).first()
    else:
        version = federation.current_version if number is None else federation.versions.filter(number=number).first()
    if version is None:
        raise Refusal("no-model", "The federation has no such model version.")
    _note_download(device, federation, version, now)
    return {
        "federation_id": federation.id.bytes,
        "version": version.number,
        "digest": bytes(version.digest),
        "size_bytes": version.size_bytes,
        "blob_digest": bytes.fromhex(version.blob_digest),
        "blob_bytes": version.blob_bytes,
        "content_key": _content_key(version),
        **_provenance_of(version, device),
    }


def _note_download(device: Device, federation: Federation, version: ModelVersion, now: datetime) -> None:
    """Note it in the open rounds that start from the version: the device counts as at work from here on.

    The rounds are found first: with a join the part's state would stand in a subquery, which PostgreSQL does not
    ask again once it has waited for the row.
    """
    rounds = Round.objects.filter(state=RoundState.OPEN, base_version=version, participations__device=device)
    Participation.objects.filter(
        device=device, state=ParticipationState.INVITED, round_id__in=list(rounds.values_list("id", flat=True))
    ).update(state=ParticipationState.DOWNLOADED, downloaded_at=now, progress_lease_until=lease_until(federation, now))


def _provenance_of(version: ModelVersion, device: Device) -> dict[str, Any]:
    """Return the enclave's signed result and its evidence, by which a device checks who made the model.

    Beside it the proof of what became of the device's own update in that round, where it handed one in.
    """
    if version.provenance is None:
        return {"provenance": None, "round_id": None, "evidence": None, "verdict": None}
    round_id = version.maker_id()
    return {
        "provenance": bytes(version.provenance),
        "round_id": round_id.bytes,
        "evidence": evidence_of(round_id),
        "verdict": _verdict_on(device, round_id),
    }


def _verdict_on(device: Device, round_id: uuid.UUID) -> dict[str, Any] | None:
    parts = Participation.objects.filter(device=device, round_id=round_id)
    proof = parts.values_list("verdict_proof", flat=True).first()
    return None if proof is None else decode(bytes(proof), what="verdict proof")


def _belongs(device: Device, federation: Federation) -> bool:
    return federation.members().filter(id=device.id).exists()


def _content_key(version: ModelVersion) -> bytes:
    bound_to = ModelVersion.envelope(version.federation_id, version.number)
    return envelope.unwrap(bytes(version.wrapped_content_key), **bound_to)


@dataclass(frozen=True)
class SubmittedUpdate:
    """A submission as it arrives: the signed manifest, and the sealed update still to be read."""

    manifest: bytes
    sealed: IO[bytes]


@dataclass(frozen=True)
class CheckedManifest:
    """A manifest that was checked against its device and round; `earlier` where its update is counted already."""

    part: Participation
    manifest: Manifest
    signed: bytes
    earlier: Update | None


@dataclass(frozen=True)
class ReceivedUpdate:
    """An update that was checked and stored as a blob, not yet counted."""

    part: Participation
    manifest: Manifest
    signed: bytes
    blob_digest: str


def check_manifest(device: Device, signed: bytes, *, now: datetime) -> CheckedManifest:
    """Check what a manifest says of an update before any byte of the update is taken; changes no state.

    Raises `Refusal`: "invalid-signature", "sample-count-refused", "not-invited", "round-closed",
    "already-submitted", "base-model-mismatch", "enclave-key-mismatch", "update-too-large".
    """
    part = _part_of(device, unverified_manifest(signed))
    manifest = verify_manifest(signed, part.signature_key.verifier)
    earlier = Update.objects.filter(participation=part).first()
    if earlier is not None:
        _earlier_receipt(earlier, signed, device)
        return CheckedManifest(part, manifest, signed, earlier)
    if part.state == ParticipationState.FAILED:
        raise Refusal("not-invited", REPORTED_FAILED)
    if part.signature_key.valid_until is not None and part.signature_key.valid_until <= now:
        raise Refusal("not-invited", "The key with which the device was invited is over; ask for work.")
    _check_against_round(manifest, part.round, now)
    return CheckedManifest(part, manifest, signed, None)


def receive_update(device: Device, submission: SubmittedUpdate, *, now: datetime) -> ReceivedUpdate:
    """Check a submission and put its sealed update into the blob store; changes no state.

    Raises `Refusal("digest-mismatch")` and what `check_manifest` raises.
    """
    checked = check_manifest(device, submission.manifest, now=now)
    part, manifest = checked.part, checked.manifest
    if checked.earlier is not None:
        return ReceivedUpdate(part, manifest, submission.manifest, checked.earlier.blob_digest)
    blob = store_blob(
        pieces_of(submission.sealed),
        expected_digest=manifest.ciphertext_digest,
        expected_bytes=manifest.ciphertext_bytes,
    )
    return ReceivedUpdate(part, manifest, submission.manifest, blob.digest)


def _part_of(device: Device, manifest: Manifest) -> Participation:
    if manifest.device_id != device.id.bytes:
        raise Refusal("not-invited", "The manifest names another device than the one that sent it.")
    part = (
        Participation.objects.filter(device=device, round_id=uuid.UUID(bytes=manifest.round_id))
        .select_related("round__federation", "round__base_version", "signature_key")
        .defer("round__roster", "round__base_version__provenance")  # both name every device of a round
        .first()
    )
    if part is None or part.round.federation_id != uuid.UUID(bytes=manifest.federation_id):
        raise Refusal("not-invited", "The device has no part in that round; ask for work.")
    return part


def _earlier_receipt(earlier: Update, manifest: bytes, device: Device) -> bytes:
    """Return the receipt that was given; signed anew where the server's identity key was rotated since."""
    if bytes(earlier.manifest_digest) != manifest_digest(manifest):
        raise Refusal("already-submitted", "Another update of this device is in the round already; ask for work.")
    receipt = bytes(earlier.receipt)
    identity = server_identity(device.suite)
    if claimed_signer(receipt) == identity.fingerprint:
        return receipt
    return sign1(identity, unverified_payload(receipt, purpose=RECEIPT), purpose=RECEIPT)


def _check_against_round(manifest: Manifest, round_: Round, now: datetime) -> None:
    if not round_.takes_updates_at(now):
        raise round_closed(round_)
    if not takes_base(round_, manifest.base_model_digest):
        raise Refusal("base-model-mismatch", f"Round {round_.number} starts from version {round_.base_version.number}.")
    if manifest.key_ids != live_key_ids(round_.id):
        raise Refusal("enclave-key-mismatch", "The round has another enclave key; check its evidence and seal again.")
    policy = round_.aggregation_policy()
    if manifest.form != policy.form.name:
        raise Refusal("policy-refused", f"Updates to the round have the form {policy.form.name}.")
    if manifest.sample_count > policy.maximum_sample_count:
        raise Refusal("sample-count-refused", f"The sample count must be between 1 and {policy.maximum_sample_count}.")
    if manifest.ciphertext_bytes > policy.maximum_update_bytes:
        raise Refusal("update-too-large", f"The sealed update may have at most {policy.maximum_update_bytes} bytes.")


@transaction.atomic
def record_update(device: Device, update: ReceivedUpdate, *, now: datetime) -> bytes:
    """Count a received update and return its signed receipt; the same submission again gets the same receipt.

    Raises `Refusal`: "round-closed", "already-submitted", "enclave-key-mismatch".
    """
    part, manifest = update.part, update.manifest
    earlier = Update.objects.filter(participation=part).first()
    if earlier is not None:
        return _earlier_receipt(earlier, update.signed, device)
    # Counting takes the round's row, which keeps it open; the second row count tells of a submission that was faster.
    open_round = Round.objects.filter(id=part.round_id, state=RoundState.OPEN)
    if not open_round.update(submissions=F("submissions") + 1):
        raise round_closed(part.round)
    if manifest.key_ids != live_key_ids(part.round_id):
        raise Refusal("enclave-key-mismatch", "The round began anew meanwhile; ask for work and seal again.")
    waiting = Participation.objects.filter(id=part.id, state__in=WAITING)
    submitted = {"state": ParticipationState.SUBMITTED, "submitted_at": now, "progress_lease_until": None}
    if not waiting.update(**submitted, **({"loss": manifest.metrics["loss"]} if "loss" in manifest.metrics else {})):
        try:
            faster = Update.objects.get(participation=part)
        except Update.DoesNotExist:
            raise Refusal("not-invited", REPORTED_FAILED) from None
        open_round.update(submissions=F("submissions") - 1)
        return _earlier_receipt(faster, update.signed, device)
    receipt = _sign_receipt(device, manifest, update.signed, now)
    Update.objects.create(
        participation=part,
        manifest=update.signed,
        manifest_digest=manifest_digest(update.signed),
        sample_count=manifest.sample_count,
        metrics=manifest.metrics,
        blob_digest=update.blob_digest,
        blob_bytes=manifest.ciphertext_bytes,
        receipt=receipt,
        received_at=now,
    )
    record_event(
        "update.received",
        actor=device.actor,
        payload=event_payload(part.round)
        | {
            "device": device.name,
            "manifest_digest": manifest_digest(update.signed).hex(),
            "ciphertext_digest": manifest.ciphertext_digest.hex(),
        },
    )
    return receipt


def _sign_receipt(device: Device, manifest: Manifest, signed: bytes, now: datetime) -> bytes:
    payload = {
        "round_id": manifest.round_id,
        "device_id": manifest.device_id,
        "manifest_digest": manifest_digest(signed),
        "ciphertext_digest": manifest.ciphertext_digest,
        "received_at": int(now.timestamp()),
    }
    identity = server_identity(device.suite)
    return sign1(identity, payload, purpose=RECEIPT)

"""Publish what an enclave made of a round: the new version, every verdict, and the round's end."""

import uuid
from dataclasses import asdict
from datetime import datetime

from django.utils import timezone

from audit.services import record_event
from qflare_protocol.encoding import encode
from qflare_protocol.round_result import JudgedRound, result_digest
from qflare_protocol.round_verdicts import UpdateVerdict, leaves_of, verdict_proofs
from training.models import (
    Federation,
    ModelVersion,
    Participation,
    ParticipationState,
    PrivacyRelease,
    Round,
    RoundState,
    RoundStep,
)
from training.services.early_stopping import reported_metrics, stop_when_due
from training.services.federations import SealedModel, finish_federation, store_version
from training.services.releases import publish_release
from training.services.rounds import event_payload, retire

ROWS_AT_ONCE = 500


class LeaseLost(Exception):  # noqa: N818 - losing a race is a normal outcome, not an error
    """Another worker has taken the step over; this one leaves without a trace."""


def publish_result(
    round_: Round,
    holder: uuid.UUID,
    sealed: SealedModel,
    judged: JudgedRound,
    release: PrivacyRelease | None = None,
) -> None:
    """Complete a round inside the caller's transaction; `release` where its model was noised.

    Raises `LeaseLost` when it is no longer this worker's.
    """
    now = timezone.now()
    federation, result, signed = round_.federation, judged.result, judged.made.signed
    held = Round.objects.select_for_update(of=("self",)).filter(
        id=round_.id, state=RoundState.AGGREGATING, lease_holder=holder
    )
    if not held.exists():
        raise LeaseLost
    version = store_version(federation, sealed, provenance=signed, now=now, release=release)
    publish_release(release, version)
    Round.objects.filter(id=round_.id).update(
        state=RoundState.COMPLETED,
        resulting_version=version,
        finished_at=now,
        lease_holder=None,
        lease_expires_at=None,
    )
    Federation.objects.filter(id=federation.id).update(current_version=version)
    _record_verdicts(round_, judged)
    record_event(
        "round.completed",
        actor="system",
        payload=event_payload(round_)
        | {
            "version": version.number,
            "model_digest": result.model_digest.hex(),
            "result_digest": result_digest(signed).hex(),
            "accepted": result.accepted_count,
            "rejected": result.rejected_count,
        },
    )
    retire(round_.id, now=now)
    ModelVersion.objects.filter(id=version.id).update(reported_metrics=reported_metrics(round_))
    _finish_when_planned(federation)
    stop_when_due(federation.id)


def _record_verdicts(round_: Round, judged: JudgedRound) -> None:
    """Give every device's part its verdict, its scores and the proof of both; as few statements as rows allow."""
    proofs = verdict_proofs(leaves_of(judged.made.verdicts))
    told = {one.device_id: (one, proof) for one, proof in zip(judged.verdicts, proofs, strict=True)}
    parts = []
    for part in Participation.objects.filter(round=round_).select_related("device").only("device", "device__name"):
        if part.device_id.bytes not in told:
            continue
        verdict, proof = told[part.device_id.bytes]
        part.state = ParticipationState.ACCEPTED if verdict.accepted else ParticipationState.REJECTED
        part.reason, part.scores = verdict.reason or "", _scores_of(verdict)
        part.verdict_proof = encode(proof.to_map())
        parts.append(part)
    Participation.objects.bulk_update(parts, ("state", "reason", "scores", "verdict_proof"), batch_size=ROWS_AT_ONCE)
    for part in parts:
        if part.state == ParticipationState.REJECTED:
            _record_rejected(round_, part)


def _scores_of(verdict: UpdateVerdict) -> dict[str, float]:
    return asdict(verdict.scores) if verdict.scores else {}


def record_rejection(round_: Round, device_id: uuid.UUID, reason: str) -> None:
    """Record that the enclave left out a device's update, inside the caller's transaction."""
    part = Participation.objects.select_related("device").get(round=round_, device_id=device_id)
    part.state, part.reason = ParticipationState.REJECTED, reason
    part.save(update_fields=("state", "reason"))
    _record_rejected(round_, part)


def _record_rejected(round_: Round, part: Participation) -> None:
    payload = event_payload(round_) | {"device": part.device.name, "reason": part.reason}
    record_event("update.rejected", actor="enclave", payload=payload)


def _finish_when_planned(federation: Federation) -> None:
    completed = federation.rounds.filter(state=RoundState.COMPLETED).count()
    if federation.planned_rounds is not None and completed >= federation.planned_rounds:
        finish_federation(federation, reason=f"it has had its {federation.planned_rounds} planned rounds")


def time_step(round_: Round, name: str, started_at: datetime, seconds: float) -> None:
    """Keep how long a step of a round took, in seconds."""
    RoundStep.objects.update_or_create(round=round_, name=name, defaults={"started_at": started_at, "seconds": seconds})

"""Create a federation with its first model version, pause it, resume it."""

import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self

import blake3
from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Max

from audit.services import record_event
from enclave.core.rules.pipeline import Pipeline
from keyring import envelope
from qflare_protocol.aggregation_policy import AggregationPolicy
from qflare_protocol.chunked import KEY_BYTES, ChunkCipher, ChunkWriter
from qflare_protocol.errors import Refusal
from qflare_protocol.tensors import decode_tensors, parse_header
from qflare_protocol.update_shape import update_columns
from training import privacy
from training.blobs import StoredBlob, new_blob
from training.models import Federation, FederationState, ModelVersion, PrivacyRelease, RoundState
from training.terms import Terms

MODEL_CONTEXT = b"model version"
DEFAULT_TERMS = Terms()


def create_federation(
    name: str,
    *,
    initial_model: bytes,
    trainer: str,
    policy: AggregationPolicy,
    actor: str,
    now: datetime,
    group: str = "",
    trainer_parameters: Mapping[str, Any] | None = None,
    evaluator: str = "",
    round_time: timedelta = timedelta(hours=1),
    planned_rounds: int | None = None,
    privacy_budget_epsilon: float | None = None,
    privacy_delta: float | None = None,
    terms: Terms = DEFAULT_TERMS,
) -> Federation:
    """Create a federation whose version 0 is the given safetensors file.

    Raises `Refusal`: "invalid-tensors" for the model, "policy-refused" for a pipeline that does not
    hold what the policy claims, for parameters that the model does not have, for larger updates than
    the site takes, a privacy budget or terms that do not fit the policy, "conflict" when the name is
    taken.
    """
    decode_tensors(initial_model)
    Pipeline.of(policy)
    update_columns(policy, parse_header(initial_model).layout)
    terms.check_against(policy)
    privacy.check_terms(policy, privacy_budget_epsilon, privacy_delta)
    if policy.maximum_update_bytes > settings.QFLARE_MAX_UPDATE_BYTES:
        limit = settings.QFLARE_MAX_UPDATE_BYTES
        raise Refusal("policy-refused", f"This site takes updates of at most {limit} bytes (QFLARE_MAX_UPDATE_BYTES).")
    federation = Federation(
        name=name,
        group=group,
        policy=policy.to_map(),
        round_seconds=round(round_time.total_seconds()),
        planned_rounds=planned_rounds,
        trainer=trainer,
        trainer_parameters=dict(trainer_parameters or {}),
        evaluator=evaluator,
        privacy_budget_epsilon=privacy_budget_epsilon,
        privacy_delta=privacy_delta,
        privacy_least_noise=_least_noise(privacy_budget_epsilon, privacy_delta),
        created_at=now,
        **terms.columns(),
    )
    sealed = seal_model(federation.id, 0, initial_model)
    try:
        with transaction.atomic():
            federation.save(force_insert=True)
            federation.current_version = store_version(federation, sealed, provenance=None, now=now)
            federation.save(update_fields=("current_version",))
            record_event("federation.created", actor=actor, payload=_payload(federation) | {"trainer": trainer})
    except IntegrityError as error:
        raise Refusal("conflict", f"A federation named {name} exists already; choose another name.") from error
    return federation


def _least_noise(epsilon: float | None, delta: float | None) -> float | None:
    """Return what a budget comes down to; found once, so that opening a round is plain arithmetic."""
    return None if epsilon is None or delta is None else privacy.least_noise(epsilon, delta)


@dataclass(frozen=True)
class SealedModel:
    """A model version encrypted and on stable storage, not yet in the database."""

    number: int
    digest: bytes
    size_bytes: int
    blob: StoredBlob
    wrapped_content_key: bytes


class ModelSealing:
    """Encrypts a model while it comes, once, under a fresh content key that every session then delivers.

    Without `seal` nothing of it is left.
    """

    def __init__(self, federation_id: uuid.UUID, number: int) -> None:
        self._federation_id, self._number = federation_id, number
        self._hasher, self._size_bytes = blake3.blake3(), 0
        self._content_key = secrets.token_bytes(KEY_BYTES)
        self._blob = new_blob()

    def __enter__(self) -> Self:
        self._blob.__enter__()
        self._chunks = ChunkWriter(ChunkCipher.fresh(self._content_key, MODEL_CONTEXT), self._blob.write)
        return self

    def __exit__(self, *exception: object) -> None:
        self._blob.__exit__(*exception)

    def write(self, piece: bytes) -> None:
        """Take the model's next bytes."""
        self._hasher.update(piece)
        self._size_bytes += len(piece)
        self._chunks.write(piece)

    def seal(self) -> SealedModel:
        """Put the model, which is complete now, on stable storage."""
        self._chunks.finish()
        blob = self._blob.publish()
        wrapped = envelope.wrap(self._content_key, **ModelVersion.envelope(self._federation_id, self._number))
        return SealedModel(self._number, self._hasher.digest(), self._size_bytes, blob, wrapped)


def seal_model(federation_id: uuid.UUID, number: int, model: bytes) -> SealedModel:
    """Encrypt a model that is in memory."""
    with ModelSealing(federation_id, number) as sealing:
        sealing.write(model)
        return sealing.seal()


def store_version(
    federation: Federation,
    sealed: SealedModel,
    *,
    provenance: bytes | None,
    now: datetime,
    release: PrivacyRelease | None = None,
) -> ModelVersion:
    """Create the version's row, inside the caller's transaction, with its event; `release` where it was noised."""
    version = ModelVersion.objects.create(
        federation=federation,
        number=sealed.number,
        digest=sealed.digest,
        size_bytes=sealed.size_bytes,
        blob_digest=sealed.blob.digest,
        blob_bytes=sealed.blob.size_bytes,
        wrapped_content_key=sealed.wrapped_content_key,
        provenance=provenance,
        privacy_epsilon=release.epsilon_spent if release else None,
        privacy_delta=release.delta if release else None,
        created_at=now,
    )
    record_event(
        "model.published",
        actor="system",
        payload=_payload(federation)
        | {"version": version.number, "model_digest": sealed.digest.hex()}
        | (release.statement() if release else {}),
    )
    return version


def pause_federation(federation_id: uuid.UUID, *, actor: str) -> None:
    """Open no further rounds; a running one goes on. Raises `Refusal("conflict")`."""
    _change_state(federation_id, FederationState.ACTIVE, FederationState.PAUSED, "federation.paused", actor)


def resume_federation(federation_id: uuid.UUID, *, actor: str) -> None:
    """Open rounds again. Raises `Refusal("conflict")`."""
    _change_state(federation_id, FederationState.PAUSED, FederationState.ACTIVE, "federation.resumed", actor)


def finish_federation(federation: Federation, *, reason: str) -> None:
    """End a federation for good, inside the caller's transaction; one that has ended stays as it is."""
    running = Federation.objects.filter(id=federation.id, state__in=(FederationState.ACTIVE, FederationState.PAUSED))
    if running.update(state=FederationState.FINISHED, finish_reason=reason[:300]):
        completed = federation.rounds.filter(state=RoundState.COMPLETED).count()
        payload = _payload(federation) | {"rounds": completed, "reason": reason}
        record_event("federation.finished", actor="system", payload=payload)


def restore_version(version: ModelVersion, *, actor: str, now: datetime) -> ModelVersion:
    """Make a version's model the newest version, inside the caller's transaction, with its event.

    Blob and provenance stay those of the version; the content key is wrapped for the new row.
    """
    number = next_version_number(version.federation_id)
    content_key = envelope.unwrap(
        bytes(version.wrapped_content_key), **ModelVersion.envelope(version.federation_id, version.number)
    )
    restored = ModelVersion.objects.create(
        federation=version.federation,
        number=number,
        restored_from=version.restored_from or version,
        digest=version.digest,
        size_bytes=version.size_bytes,
        blob_digest=version.blob_digest,
        blob_bytes=version.blob_bytes,
        wrapped_content_key=envelope.wrap(content_key, **ModelVersion.envelope(version.federation_id, number)),
        provenance=version.provenance,
        privacy_epsilon=version.privacy_epsilon,
        privacy_delta=version.privacy_delta,
        metrics=version.metrics,
        reported_metrics=version.reported_metrics,
        evaluated_at=version.evaluated_at,
        created_at=now,
    )
    members = {"version": number, "restored_from": version.number, "model_digest": bytes(version.digest).hex()}
    record_event("model.restored", actor=actor, payload=_payload(version.federation) | members)
    return restored


def next_version_number(federation_id: uuid.UUID) -> int:
    """Return the number of the next version: after a roll back it does not follow that of its base."""
    highest = ModelVersion.objects.filter(federation_id=federation_id).aggregate(highest=Max("number"))["highest"]
    return int(highest) + 1


@transaction.atomic
def _change_state(federation_id: uuid.UUID, origin: str, target: str, kind: str, actor: str) -> None:
    changed = Federation.objects.filter(id=federation_id, state=origin).update(state=target)
    federation = Federation.objects.filter(id=federation_id).first()
    if federation is None:
        raise Refusal("not-found", "There is no such federation.")
    if not changed:
        raise Refusal("conflict", f"The federation is {federation.state}, not {origin}.")
    record_event(kind, actor=actor, payload=_payload(federation))


def _payload(federation: Federation) -> dict[str, Any]:
    return {"federation_id": str(federation.id), "federation": federation.name}

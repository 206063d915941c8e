"""Which version of a model is in use outside of training: release one, go back to an earlier one."""

import uuid
from datetime import datetime
from typing import Any

from django.db import transaction

from audit.services import record_event
from qflare_protocol.errors import Refusal
from training.models import UNFINISHED, CarriedRow, Federation, FederationState, ModelVersion
from training.services.federations import restore_version


@transaction.atomic
def release_version(version_id: int, *, actor: str, now: datetime) -> ModelVersion:
    """Make a version the released one of its federation; the one before is so no more.

    Raises `Refusal`: "not-found", "conflict" for the version that is released already.
    """
    version = ModelVersion.objects.filter(id=version_id).first()
    if version is None:
        raise Refusal("not-found", "There is no such model version.")
    federation = _locked(version.federation_id)
    before = _released(federation)
    if before == version:
        raise Refusal("conflict", f"{version} is the released version already.")
    _release(version, before, now)
    record_event("model.released", actor=actor, payload=_payload(federation, version, before))
    return version


@transaction.atomic
def roll_back(
    federation_id: uuid.UUID, *, number: int, reason: str, continue_training: bool, actor: str, now: datetime
) -> ModelVersion:
    """Release an earlier version than the released one; with `continue_training` the next round starts from its model.

    That model then is a version once more, with the next number: to a device, a lower one hides the newer. What the
    federation carries from round to round belongs to the version it leaves, and is dropped then.
    Raises `Refusal`: "not-found", "no-model", "conflict" without a reason, where no later version is released,
    or where training is to go on from it while a round runs, in a finished federation, or from the first version.
    """
    if not reason.strip():
        raise Refusal("conflict", "State the reason for going back; it is kept in the audit log.")
    federation = _locked(federation_id)
    version = federation.versions.filter(number=number).first()
    if version is None:
        raise Refusal("no-model", "The federation has no such model version.")
    before = _released(federation)
    if before is None or before.number <= number:
        raise Refusal("conflict", f"No later version than {number} is released; release a version instead.")
    if continue_training:
        _train_from(federation, version, actor, now)
    _release(version, before, now)
    payload = _payload(federation, version, before) | {"reason": reason.strip(), "training": continue_training}
    record_event("model.rolled_back", actor=actor, payload=payload)
    return version


def _locked(federation_id: uuid.UUID) -> Federation:
    """Take the federation's row: of two that release, one is after the other, and no round is opened meanwhile."""
    federation = Federation.objects.select_for_update(of=("self",), no_key=True).filter(id=federation_id).first()
    if federation is None:
        raise Refusal("not-found", "There is no such federation.")
    return federation


def _released(federation: Federation) -> ModelVersion | None:
    return federation.versions.filter(released_at__isnull=False).first()


def _release(version: ModelVersion, before: ModelVersion | None, now: datetime) -> None:
    if before is not None:
        ModelVersion.objects.filter(id=before.id).update(released_at=None)
    ModelVersion.objects.filter(id=version.id).update(released_at=now)


def _train_from(federation: Federation, version: ModelVersion, actor: str, now: datetime) -> None:
    """Let training go on from a version's model, as a version of its own: devices refuse to go back in numbers."""
    if federation.state == FederationState.FINISHED:
        raise Refusal("conflict", "The federation is finished; no training goes on from any version.")
    if version.provenance is None:
        raise Refusal("conflict", "No enclave made that model, and devices take such a one at the beginning only.")
    if federation.rounds.filter(state__in=UNFINISHED).exists():
        raise Refusal("conflict", "A round runs that started from a later version; cancel it or wait for its end.")
    restored = restore_version(version, actor=actor, now=now)
    Federation.objects.filter(id=federation.id).update(current_version=restored)
    CarriedRow.objects.filter(federation=federation).delete()


def _payload(federation: Federation, version: ModelVersion, before: ModelVersion | None) -> dict[str, Any]:
    return {
        "federation_id": str(federation.id),
        "federation": federation.name,
        "version": version.number,
        "model_digest": bytes(version.digest).hex(),
        "instead_of": before.number if before else None,
    }

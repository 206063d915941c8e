"""Evaluation of model versions by the devices, each on what it holds out, and their mean weighted by samples.

What a device reports is its claim: no enclave has seen it, and the mean moves with whoever lies.
"""

import uuid
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Exists, F, OuterRef, Q

from audit.services import record_event
from devices.models import Device
from qflare_protocol.device_evaluation import DeviceEvaluation
from qflare_protocol.errors import Refusal
from training.models import Federation, FederationState, ModelVersion, VersionEvaluation


def evaluation_for(device: Device) -> dict[str, Any] | None:
    """Return the version that waits for this device's evaluation, or None."""
    reported = VersionEvaluation.objects.filter(device=device, version=OuterRef("current_version"))
    waiting = (
        Federation.objects.filter(Q(group="") | Q(group=device.group), evaluated_by_devices=True)
        .filter(~Exists(reported), current_version__isnull=False)
        .exclude(state=FederationState.PAUSED)
        .order_by("created_at")
        .values_list("id", "current_version__number", "current_version__digest", "trainer_parameters")
        .first()
    )
    if waiting is None:
        return None
    federation_id, number, digest, parameters = waiting
    return {
        "federation_id": federation_id.bytes,
        "version": number,
        "model_digest": bytes(digest),
        "trainer_parameters": parameters,
    }


@transaction.atomic
def record_evaluation(device: Device, report: DeviceEvaluation, *, now: datetime) -> bool:
    """Add a device's report to its version's mean; False where the device has reported on it before.

    Raises `Refusal`: "not-found" for a version that the device is not asked about, "sample-count-refused".
    """
    version = _version_of(device, report)
    limit = version.federation.aggregation_policy().maximum_sample_count
    if report.sample_count > limit:
        raise Refusal("sample-count-refused", f"The sample count must be between 0 and {limit}.")
    try:
        with transaction.atomic():
            VersionEvaluation.objects.create(
                version=version, device=device, sample_count=report.sample_count, metrics=report.metrics,
                reported_at=now,
            )  # fmt: skip
    except IntegrityError:
        return False
    if report.sample_count:
        _add_to_mean(version.id, report)
    payload = {
        "federation_id": str(version.federation_id),
        "federation": version.federation.name,
        "version": version.number,
        "device": device.name,
        "sample_count": report.sample_count,
    }
    record_event("model.evaluated_by_device", actor=device.actor, payload=payload, now=now)
    return True


def _version_of(device: Device, report: DeviceEvaluation) -> ModelVersion:
    version = (
        ModelVersion.objects.filter(federation_id=uuid.UUID(bytes=report.federation_id), number=report.version)
        .filter(Q(federation__group="") | Q(federation__group=device.group), federation__evaluated_by_devices=True)
        .select_related("federation")
        .only("number", "federation__name", "federation__policy")  # a version's provenance grows with its devices
        .first()
    )
    if version is None:
        raise Refusal("not-found", "The device is not asked to evaluate such a version; ask for work.")
    return version


def _add_to_mean(version_id: int, report: DeviceEvaluation) -> None:
    """Add to the sums under the version's row: the requests of two devices take turns here."""
    ModelVersion.objects.filter(id=version_id).update(evaluations=F("evaluations") + 1)
    sums = dict(ModelVersion.objects.values_list("evaluation_sums", flat=True).get(id=version_id))
    for name, value in report.metrics.items():
        weighted, samples = sums.get(name, (0.0, 0))
        sums[name] = [weighted + value * report.sample_count, samples + report.sample_count]
    ModelVersion.objects.filter(id=version_id).update(evaluation_sums=sums)

"""Rows as the services leave them, made without a fleet: devices, a federation with rounds, an enclave, a log."""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from django.contrib.auth.models import Permission, User
from django.db import transaction

from audit.models import AnchorReceipt, Checkpoint, WitnessCosignature, WitnessSighting
from audit.services import record_event, sequence_log
from devices.models import Device
from devices.services import register_device
from enclave.models import EnclaveInstance
from enrollment.services import IssuedToken, issue_token
from keyring import envelope
from keyring.services import server_signer
from monitor.models import ChannelKind
from monitor.services.channels import create_channel
from monitor.services.watch import watch
from monitor.terms import Severity
from operator_api.scopes import READING
from operator_api.services import create_key
from qflare_protocol.aggregation_policy import PROTECTIONS
from qflare_protocol.attestation.limits import left_open
from qflare_protocol.device_keys import RegisteredKeys, generate_device_keypair
from qflare_protocol.suites import DEFAULT_SUITE
from qflare_protocol.tensors import encode_tensors
from qflare_site.services import record_heartbeat, record_task_failure
from sessions.models import Session, SessionState
from sessions.qkd import set_qkd_policy
from tests.policies import screened
from training.models import (
    Federation,
    ModelVersion,
    Participation,
    ParticipationState,
    PrivacyRelease,
    Round,
    RoundState,
    RoundStep,
    Update,
    VersionEvaluation,
)
from training.services.federations import create_federation, seal_model, store_version
from training.services.rounds import open_round
from training.services.schedules import schedule_rounds

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ACTOR = "operator:olga"


def make_user(name: str, *codenames: str, staff: bool = True) -> User:
    """Create somebody who signs in, with these permissions and no other."""
    user = User.objects.create_user(name, password="a long enough password", is_staff=staff)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    return user


def make_device(name: str, group: str = "") -> Device:
    """Enrol a device with real keys whose private halves are thrown away."""
    keys = generate_device_keypair(DEFAULT_SUITE)
    registered = RegisteredKeys(keys.suite, keys.kem.public, keys.signer.public)
    with transaction.atomic():
        return register_device(name, group, registered, now=NOW)


def large_fleet(devices: int) -> None:
    """Register so many active devices by their rows alone: they are counted, and have no keys to work with."""
    Device.objects.bulk_create(
        Device(name=f"of-many-{number}", suite=DEFAULT_SUITE, state_changed_at=NOW, enrolled_at=NOW, keys_due_at=NOW)
        for number in range(devices)
    )


def make_federation(name: str = "digits", **terms: Any) -> Federation:
    """Create a federation with a tiny model."""
    return create_federation(
        name,
        **{
            "initial_model": small_model(),
            "trainer": "example:Trainer",
            "policy": screened(),
            "actor": ACTOR,
            "now": NOW,
            **terms,
        },
    )


def small_model() -> bytes:
    """Return the safetensors file of a model with six weights."""
    return encode_tensors({"weights": np.zeros((2, 3), dtype=np.float32)})


def make_completed_round(federation: Federation, *, rejected: str, accuracy: float, now: datetime = NOW) -> Round:
    """Take a round to its end as the enclave would have: everybody accepted but one device."""
    round_ = open_round(federation.id, actor=ACTOR, now=now)
    for part in round_.participations.select_related("device"):
        _submit(part, rejected=part.device.name == rejected, now=now)
    version = _publish(federation, round_, accuracy, now)
    Round.objects.filter(id=round_.id).update(
        state=RoundState.COMPLETED,
        resulting_version=version,
        submissions=round_.target_updates,
        opened_at=now,
        deadline_at=now + timedelta(hours=1),
        closed_at=now,
        finished_at=now,
    )
    RoundStep.objects.create(round=round_, name="aggregate", started_at=now, seconds=1.5)
    return Round.objects.get(id=round_.id)


def _submit(part: Participation, *, rejected: bool, now: datetime) -> None:
    part.state = ParticipationState.REJECTED if rejected else ParticipationState.ACCEPTED
    part.reason = "cosine-too-small" if rejected else ""
    part.scores = {"norm": 1.0, "cosine": -0.5 if rejected else 0.9}
    part.submitted_at = now
    part.save()
    Update.objects.create(
        participation=part,
        manifest=b"signed manifest",
        manifest_digest=uuid.uuid4().bytes * 4,
        sample_count=100,
        blob_digest="ab" * 32,
        blob_bytes=1000,
        receipt=b"signed receipt",
        received_at=now,
    )


def _publish(federation: Federation, round_: Round, accuracy: float, now: datetime) -> ModelVersion:
    sealed = seal_model(federation.id, round_.base_version.number + 1, small_model())
    with transaction.atomic():
        version = store_version(federation, sealed, provenance=b"signed result", now=now)
    ModelVersion.objects.filter(id=version.id).update(metrics={"accuracy": accuracy}, evaluated_at=now)
    Federation.objects.filter(id=federation.id).update(current_version=version)
    return version


def make_release(round_: Round) -> PrivacyRelease:
    """Enter a round's model into the privacy ledger, as if its policy had added noise."""
    return PrivacyRelease.objects.create(
        federation=round_.federation,
        number=1,
        round=round_,
        version=round_.resulting_version,
        noise_multiplier=4.0,
        epsilon_spent=0.94,
        delta=1e-5,
        released_at=NOW,
    )


def open_for_updates(round_: Round, *, now: datetime, seconds: int = 600) -> None:
    """Open a pending round, as its prepared enclave would."""
    deadline = now + timedelta(seconds=seconds)
    Round.objects.filter(id=round_.id).update(state=RoundState.OPEN, opened_at=now, deadline_at=deadline)


def make_enclave(round_id: uuid.UUID, *, refused: str = "seccomp") -> EnclaveInstance:
    """Record the enclave of a round that lacks one protection."""
    return EnclaveInstance.objects.create(
        round_id=round_id,
        attester="software",
        tier="warning",
        key_id=uuid.uuid4().bytes * 2,
        hpke_public_key=b"public",
        result_public_key=b"public",
        measurement=b"m" * 64,
        policy_digest=b"p" * 64,
        evidence=b"evidence",
        attestation_key=b"attestation",
        protections={name: name != refused for name in PROTECTIONS},
        appraisal={
            "ear.trustworthiness-vector": {"instance-identity": 2, "configuration": 32, "hardware": 0},
            "reasons": [*left_open("software"), f"The kernel did not give {refused}."],
            "registers": {},
        },
        wrapped_keys=b"wrapped keys of the enclave",
        prepared_at=NOW,
    )


def make_session(device: Device) -> Session:
    """Open a session whose wrapped secret is really wrapped."""
    session = Session(
        id=uuid.uuid4(),
        device=device,
        suite=device.suite,
        state=SessionState.ACTIVE,
        key_version=1,
        identity_fingerprint=bytes(32),
        first_epoch=1,
        epoch=1,
        challenged_at=NOW,
        activated_at=NOW,
        expires_at=NOW + timedelta(days=36500),
    )
    session.wrapped_secret = envelope.wrap(b"a chain key that nobody may see", **session.envelope())
    session.save(force_insert=True)
    return session


@dataclass(frozen=True)
class PopulatedSite:
    """A site with a row in every table that operators see."""

    devices: list[Device]
    federation: Federation
    completed: Round
    running: Round
    token: IssuedToken
    session: Session
    enclave: EnclaveInstance

    def secrets(self) -> list[str]:
        """Return what no page may contain: the token, and each wrapped secret in hexadecimal and as a repr."""
        wrapped = [
            bytes(self.session.wrapped_secret),
            bytes(self.enclave.wrapped_keys),
            *(bytes(version.wrapped_content_key) for version in ModelVersion.objects.all()),
        ]
        return [
            self.token.text,
            self.token.text.split(".")[1],
            bytes(self.token.row.verifier).hex()[:32],
            *(value.hex()[:32] for value in wrapped),
            *(repr(value)[2:20] for value in wrapped),
        ]


def populate(*, devices: int = 4, now: datetime = NOW) -> PopulatedSite:
    """Make that site: one completed round with one rejection, and one open round."""
    fleet = [make_device(f"edge-{number}", "ward") for number in range(devices)]
    federation = make_federation(group="ward")
    schedule_rounds(federation, every=timedelta(hours=1), actor=ACTOR)
    completed = make_completed_round(federation, rejected="edge-0", accuracy=0.875, now=now)
    federation.refresh_from_db()
    make_release(completed)
    running = open_round(federation.id, actor=ACTOR, now=now)
    open_for_updates(running, now=now)
    token = issue_token(actor=ACTOR, now=now, device_name="edge-new")
    session, enclave = make_session(fleet[0]), make_enclave(running.id)
    server_signer("identity")
    VersionEvaluation.objects.create(
        version=federation.current_version, device=fleet[0], sample_count=10, metrics={"accuracy": 0.9}, reported_at=now
    )
    WitnessSighting.objects.create(device_name="edge-0", size=1, root=b"r" * 32, seen_at=now)
    WitnessCosignature.objects.create(
        device_name="edge-0", key_fingerprint=b"f" * 32, algorithm="ML-DSA-44", public_key=b"k", size=1,
        root=b"r" * 32, cosignature=b"signed", received_at=now,
    )  # fmt: skip
    set_qkd_policy("ward", "preferred", actor=ACTOR, now=now)
    record_heartbeat("worker", host="one", pid=7, now=now)
    record_task_failure("training.tasks.tick", OSError("no space"), now=now)
    create_key("a-script", scopes=READING, lifetime=timedelta(days=30), actor=ACTOR, now=now)
    create_channel("pager", ChannelKind.EMAIL, "olga@x.example", least_severity=Severity.INFO, actor=ACTOR, now=now)
    with transaction.atomic():
        record_event("device.suspended", actor=ACTOR, payload={"device": "edge-9", "reason": "lost & found"}, now=now)
        fork = {"device": "edge-1", "size": 1, "root": "00"}
        record_event("log.fork_reported", actor="device:edge-1", payload=fork, now=now)
    sequence_log(now)
    watch(now=now)
    AnchorReceipt.objects.create(
        checkpoint=Checkpoint.objects.first(), anchor="copy", kind="file", next_attempt_at=now, created_at=now
    )
    return PopulatedSite(fleet, federation, completed, running, token, session, enclave)

"""A fleet whose honest traffic is written to the log as its services would write it."""

import math
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from django.db import transaction

from audit.services import record_event, sequence_log
from devices.models import Device, DeviceKey, KeyPurpose
from devices.services import register_device
from monitor.services.watch import watch
from qflare_protocol.aggregation_policy import AggregationPolicy
from qflare_protocol.device_keys import RegisteredKeys, generate_device_keypair
from qflare_protocol.tensors import encode_tensors
from training.models import Federation, ModelVersion, Participation, ParticipationState, Round, RoundState
from training.services.federations import create_federation
from training.services.rounds import event_payload

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
STEP = timedelta(minutes=4)
"""How often the log is sequenced and watched here; beat does it every few seconds, to the same end."""
SESSION = timedelta(hours=1)
REKEY = timedelta(minutes=15)
ROUND = timedelta(hours=1)
SUITE = "QF1-K1024"


@dataclass
class Member:
    """One device of the fleet, and the session that it holds."""

    device: Device
    place: int
    session: str = ""
    opened_at: datetime = BEGIN
    rekeyed_at: datetime = BEGIN


@dataclass
class Fleet:
    """Devices, their federation, a clock, and what chance does on an ordinary day."""

    members: list[Member]
    federation: Federation
    now: datetime = BEGIN
    rounds: int = 0
    chance: random.Random = field(default_factory=lambda: random.Random(7))  # noqa: S311 - a trace, not a secret
    is_sequenced: bool = True
    is_heard: bool = True
    turned_away: Device | None = None
    every_step: list[Callable[[], None]] = field(default_factory=list)

    @classmethod
    def of(cls, devices: int) -> "Fleet":
        """Enrol so many devices and found their federation."""
        members = [Member(_enrolled(f"edge-{number:02}"), number) for number in range(devices)]
        model = encode_tensors({"weights": np.zeros((2, 3), dtype=np.float32)})
        federation = create_federation(
            "trace",
            initial_model=model,
            trainer="example:Trainer",
            policy=AggregationPolicy(),
            actor="system",
            now=BEGIN,
        )
        return cls(members, federation)

    def event(self, kind: str, *, actor: str = "stranger", **payload: Any) -> None:
        """Write one event at the fleet's time."""
        with transaction.atomic():
            record_event(kind, actor=actor, payload=payload, now=self.now)

    def run(self, duration: timedelta) -> None:
        """Let time pass: honest traffic, a round every hour, the log and the monitor at every step."""
        end = self.now + duration
        while self.now < end:
            self.now += STEP
            if self.is_heard:
                for member in self.members:
                    self._traffic(member)
            if self.now >= BEGIN + (self.rounds + 1) * ROUND:
                self.complete_round()
            for act in self.every_step:
                act()
            if self.is_sequenced:
                sequence_log(self.now)
            watch(now=self.now)

    def _traffic(self, member: Member) -> None:
        """A session of an hour that is rekeyed every quarter; now and then something that goes wrong by itself."""
        name, actor = member.device.name, member.device.actor
        about = {"device": name, "session_id": member.session}
        if not member.session or self.now >= member.opened_at + SESSION:
            self._mishap(member)
            if member.session:
                self.event("session.ended", actor=actor, reason="closed by the device", **about)
            member.session, member.opened_at, member.rekeyed_at = (
                str(uuid.UUID(int=self.chance.getrandbits(128))),
                self.now,
                self.now,
            )
            about["session_id"] = member.session
            self.event("session.opened", actor=actor, suite=SUITE, key_version=1, qkd=False, **about)
        elif self.now >= member.rekeyed_at + REKEY:
            member.rekeyed_at = self.now
            self.event("session.rekeyed", actor=actor, generation=1, **about)
        Device.objects.filter(id=member.device.id).update(last_seen_at=self.now)

    def _mishap(self, member: Member) -> None:
        """About one handshake in eight meets a lost answer, a clock that is off, or a limit; a token is mistyped."""
        name, actor = member.device.name, member.device.actor
        chance = self.chance.random()
        if chance < 0.05:
            self.event("session.refused", device=name, reason="handshake-used")
        elif chance < 0.10:
            self.event("session.refused", actor=actor, device=name, reason="clock-skew")
        elif chance < 0.11:
            self.event("rate.exceeded", actor=actor, caller=name, scope="work", rate="120/m")
        elif chance < 0.12:
            self.event("token.refused", token=None, reason="token-unknown")
        elif chance < 0.13:
            self.event("request.refused", device=name, reason="request-not-authentic")

    def complete_round(self) -> Round:
        """Complete a round: every device's scores, which fall for all as training converges, and its event."""
        self.rounds += 1
        version = ModelVersion.objects.create(
            federation=self.federation,
            number=self.rounds,
            digest=bytes(32),
            size_bytes=1,
            blob_digest="00" * 32,
            blob_bytes=1,
            wrapped_content_key=b"of no model",
            created_at=self.now,
        )
        round_ = Round.objects.create(
            federation=self.federation,
            number=self.rounds,
            state=RoundState.COMPLETED,
            base_version=self.federation.current_version,
            resulting_version=version,
            policy=self.federation.policy,
            roster=b"roster",
            invited=len(self.members),
            minimum_updates=1,
            target_updates=len(self.members),
            submissions=len(self.members),
            created_at=self.now,
            finished_at=self.now,
        )
        Participation.objects.bulk_create([self._part(round_, member) for member in self.members])
        counts = {"version": self.rounds, "accepted": len(self.members), "rejected": 0}
        self.event("round.completed", actor="system", **event_payload(round_), **counts)
        return round_

    def _part(self, round_: Round, member: Member) -> Participation:
        cosine = 0.5 + 0.4 * math.exp(-self.rounds / 10) - 0.01 * member.place + self.chance.gauss(0, 0.04)
        turned = self.turned_away is not None and member.device.id == self.turned_away.id
        scores = {
            "norm": 1.0,
            "norm_ratio": math.exp(self.chance.gauss(0, 0.1)),
            "cosine": max(-1.0, cosine - 0.6 if turned else min(1.0, cosine)),
            "weight": 1 / len(self.members),
        }
        key = DeviceKey.objects.get(device=member.device, purpose=KeyPurpose.SIGNATURE)
        return Participation(
            round=round_, device=member.device, signature_key=key, state=ParticipationState.ACCEPTED, scores=scores
        )


def _enrolled(name: str) -> Device:
    keys = generate_device_keypair(SUITE)
    registered = RegisteredKeys(keys.suite, keys.kem.public, keys.signer.public)
    with transaction.atomic():
        return register_device(name, "", registered, now=BEGIN)

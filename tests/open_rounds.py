"""A federation with an open round, whose enclave keys are made in this process instead of a sealed one.

The evidence is signed by the real attestation key of the test's enclave host, so that the services
appraise and record it as any other. Only the process is spared: it takes seconds to start.
"""

import os
import uuid
from dataclasses import dataclass, field
from time import time
from typing import Any

import blake3
import numpy as np
import pytest
from django.utils import timezone

from edge_client.hand_in import UPDATE_MEDIA_TYPE
from enclave import services as enclave
from enclave.core.host import HostDirectory
from enclave.core.keys import RoundKeys, generate_round_keys
from enclave.core.measurement import measure
from enclave.courier import PreparedRound
from qflare_protocol.aggregation_policy import PROTECTIONS, AggregationPolicy
from qflare_protocol.attestation.evidence import EnclaveClaims, sign_software_evidence
from qflare_protocol.cose import Signer
from qflare_protocol.encoding import frame
from qflare_protocol.manifest import Manifest, sign_manifest
from qflare_protocol.tensors import encode_tensors
from tests.people import OPERATOR, Line, Opened, Person, enrol, opened
from tests.policies import screened
from training.models import Federation, Round
from training.services.federations import create_federation
from training.services.rounds import open_round
from training.services.steps import prepare_round

MODEL = encode_tensors({"w": np.zeros((4, 3), dtype=np.float32)})
SEALED = b"a sealed update, as far as the web tier can see" * 4
MEASUREMENT = measure()


def prepare_here(
    round_id: uuid.UUID,
    federation_id: uuid.UUID,
    policy: AggregationPolicy,
    range_index: int = 0,
    range_count: int = 1,
    *,
    keys: RoundKeys | None = None,
) -> PreparedRound:
    """Do what the sealed process does, in this process; with fresh keys where none are given."""
    keys = keys or generate_round_keys()
    claims = EnclaveClaims(
        nonce=os.urandom(32),
        round_id=round_id.bytes,
        federation_id=federation_id.bytes,
        hpke_public_key=keys.hpke_public,
        result_public_key=keys.result_signer.public,
        measurement=MEASUREMENT,
        policy=policy,
        protections=dict.fromkeys(PROTECTIONS, True),
        issued_at=int(time()),
        range_index=range_index,
        range_count=range_count,
    )
    with HostDirectory(enclave.enclave_host().directory) as host:
        evidence = sign_software_evidence(claims, host.attestation_signer())
    return PreparedRound(evidence, b"wrapped", claims)


@pytest.fixture
def enclave_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepare rounds in this process."""
    monkeypatch.setattr(enclave, "start_enclave", prepare_here)


def make_federation(name: str = "digits", **options: Any) -> Federation:
    """Create a federation over a tiny model."""
    members = {
        "initial_model": MODEL,
        "trainer": "tests:Trainer",
        "policy": screened(maximum_sample_count=1000, maximum_update_bytes=4096),
        "actor": OPERATOR,
        "now": timezone.now(),
    }
    return create_federation(name, **(members | options))


@pytest.fixture
def federation(db: None) -> Federation:
    """An active federation."""
    return make_federation()


@pytest.fixture
def carol(db: None, tmp_path: Any) -> Person:
    """Another honest device."""
    return enrol("carol", tmp_path / "carol")


@pytest.fixture
def dave(db: None, tmp_path: Any) -> Person:
    """A third honest device: a round needs three."""
    return enrol("dave", tmp_path / "dave")


@pytest.fixture
def running(federation: Federation, alice: Person, carol: Person, dave: Person, enclave_here: None) -> Round:
    """An open round with alice, carol and dave."""
    return started(federation)


def started(federation: Federation) -> Round:
    """Open a round and prepare its enclave."""
    opened_round = open_round(federation.id, actor=OPERATOR, now=timezone.now())
    assert prepare_round(opened_round.id, now=timezone.now())
    opened_round.refresh_from_db()
    return opened_round


@dataclass
class Submission:
    """An update to a round, honest until a member is changed."""

    round: Round
    person: Person
    sealed: bytes = SEALED
    signer: Signer | None = None
    claims: dict[str, Any] = field(default_factory=dict)

    def members(self) -> dict[str, Any]:
        honest = {
            "round_id": self.round.id.bytes,
            "federation_id": self.round.federation_id.bytes,
            "device_id": self.person.identity.device_id,
            "base_model_digest": bytes(self.round.base_version.digest),
            "sample_count": 100,
            "ciphertext_digest": blake3.blake3(self.sealed).digest(),
            "ciphertext_bytes": len(self.sealed),
            "enclave_key_id": bytes(enclave.live_instance(self.round.id).key_id),
            "metrics": {"loss": 0.5},
        }
        return honest | self.claims

    def manifest(self) -> bytes:
        """Return the signed manifest."""
        return sign_manifest(Manifest(**self.members()), self.signer or self.person.identity.keys.signer)

    def body(self) -> bytes:
        """Return the request body."""
        return frame(self.manifest()) + self.sealed

    def hand_in(self, line: Line) -> Opened:
        """Send it."""
        return send_submission(line, self.body())


def send_submission(line: Line, body: bytes, content_type: str = UPDATE_MEDIA_TYPE) -> Opened:
    """Send any body as a submission."""
    request = line.seal("/api/submit_model", body=body, content_type=content_type)
    return opened(request, line.send(request))

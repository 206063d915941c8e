"""A device is shown what became of its own update, proved under the enclave's signed result, and nobody else's."""

from typing import Any

import pytest
import structlog
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from edge_client.device_state import DeviceStateFile
from edge_client.round_worker import RoundWorker
from edge_client.training import TrainingHere
from enclave.models import EnclaveInstance
from qflare_protocol.cose import Verifier
from qflare_protocol.errors import Refusal
from qflare_protocol.round_result import own_verdict, verify_result
from qflare_protocol.round_verdicts import VerdictProof
from qflare_protocol.tensors import decode_tensors, encode_tensors
from tests.open_rounds import make_federation, started
from tests.people import Person, enrol
from tests.system.running_site import KnownUpdateTrainer
from tests.training.whole_rounds import HONEST, aggregated, collected
from training.models import Federation, RoundState
from training.services import participation
from training.services.participation import model_for

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("destroyed_round_keys")]
POISONED = encode_tensors({"w": -50 * decode_tensors(HONEST)["w"]})


@pytest.fixture
def federation(fleet: list[Person]) -> Federation:
    """A federation with one round behind it, in which device-3 was rejected."""
    federation = make_federation()
    assert aggregated(collected(federation, fleet, [HONEST] * 3 + [POISONED])).state == RoundState.COMPLETED
    federation.refresh_from_db()
    return federation


def shown_to(person: Person, federation: Federation) -> dict[str, Any]:
    return model_for(person.device, federation.id, None, now=timezone.now())


def test_every_device_can_prove_what_became_of_its_update(federation: Federation, fleet: list[Person]) -> None:
    instance = EnclaveInstance.objects.get()
    verifier = Verifier("ML-DSA-44", bytes(instance.result_public_key))
    reasons = []
    for person in fleet:
        answer = shown_to(person, federation)
        result = verify_result(answer["provenance"], verifier)
        proof = VerdictProof.from_map(answer["verdict"])
        reasons.append(own_verdict(result, proof, person.device.id.bytes).reason)
    assert reasons == [None, None, None, "norm-above-bound"]


def test_what_a_device_is_told_of_a_model_does_not_read_what_names_all_devices(
    federation: Federation, fleet: list[Person]
) -> None:
    with CaptureQueriesContext(connection) as asked:
        assert shown_to(fleet[0], federation)["verdict"] is not None
    assert not [query["sql"] for query in asked if '"roster"' in query["sql"]]


def test_who_had_no_part_in_the_round_is_shown_no_verdict(federation: Federation, tmp_path: Any) -> None:
    newcomer = enrol("newcomer", tmp_path / "newcomer")
    assert shown_to(newcomer, federation)["verdict"] is None


def worker_of(person: Person, federation: Federation) -> RoundWorker:
    trainer = KnownUpdateTrainer(decode_tensors(HONEST), 10)
    return RoundWorker(person.http, person.keeper, DeviceStateFile(person.home), TrainingHere(lambda _: trainer))


def test_the_client_says_in_its_log_what_became_of_its_update(federation: Federation, fleet: list[Person]) -> None:
    started(federation)
    with structlog.testing.capture_logs() as logs:
        for person in fleet[2:]:
            assert worker_of(person, federation).work_once()[0]
    judged = [(line["accepted"], line["reason"]) for line in logs if line["event"] == "update_judged"]
    assert judged == [(True, None), (False, "norm-above-bound")]


def test_the_client_takes_no_model_beside_which_it_is_shown_anothers_verdict(
    federation: Federation, fleet: list[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    import training.api

    others = shown_to(fleet[0], federation)["verdict"]
    started(federation)
    monkeypatch.setattr(training.api, "model_for", lambda *given, **named: _with_verdict(others, *given, **named))
    with pytest.raises(Refusal) as refused:
        worker_of(fleet[3], federation).work_once()
    assert refused.value.code == "proof-refused"


def _with_verdict(verdict: Any, *given: Any, **named: Any) -> dict[str, Any]:
    return participation.model_for(*given, **named) | {"verdict": verdict}

"""A device's work: check the enclave before sealing, hand in once, go on after a crash."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from django.utils import timezone

from devices.services import resume_device, suspend_device
from edge_client.backoff import Backoff
from edge_client.device_state import DeviceStateFile, EnclavePins
from edge_client.handshaking import UnvouchedRefusal
from edge_client.http import CBOR, ServerUnreachable
from edge_client.round_worker import RoundWorker
from edge_client.session import RENEW
from edge_client.trainer import Tensors, Trainer, TrainingOutcome
from edge_client.training import TrainingHere
from qflare_protocol.cose import claimed_signer
from qflare_protocol.encoding import encode
from qflare_protocol.errors import Refusal
from qflare_protocol.sealed_request import SALT_HEADER, SEALED_MEDIA_TYPE
from sessions.key_rotation import rotate_identity_key
from tests.edge.trainers import ReshapingTrainer, SmallTrainer
from tests.factories import large_fleet
from tests.people import OPERATOR, DjangoHttp, Person
from training.models import Federation, Participation, Round, Update


def worker_of(person: Person, trainer: type[Trainer] = SmallTrainer, http: DjangoHttp | None = None) -> RoundWorker:
    def make_trainer(parameters: Mapping[str, Any]) -> Trainer:
        return trainer(parameters, {})

    memory = DeviceStateFile(person.home)
    patient = Backoff(base_seconds=0.001, maximum_seconds=0.001, attempts=3)
    return RoundWorker(http or person.http, person.keeper, memory, TrainingHere(make_trainer), patient)


class LosesAnswers(DjangoHttp):
    """Delivers every request but loses the answers to the first submissions."""

    def __init__(self, losses: int) -> None:
        super().__init__()
        self.losses = losses

    def send(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Any:
        answer = super().send(method, path, body, headers)
        if path.endswith("submit_model") and self.losses:
            self.losses -= 1
            raise ServerUnreachable("the answer was lost")
        return answer


def test_a_device_works_a_round_and_keeps_its_receipt(running: Round, alice: Person) -> None:
    worker = worker_of(alice)
    assert worker.work_once() == (True, 0.0)
    update = Update.objects.get(participation__device=alice.device)
    assert update.sample_count == 10
    memory = DeviceStateFile(alice.home)
    assert memory.outbox.kept() is None
    assert memory.state.rounds_done == 1
    worked, ask_again_seconds = worker.work_once()
    assert not worked
    assert 1 <= ask_again_seconds <= 30


def test_a_device_of_a_large_fleet_waits_as_long_as_it_is_told(
    federation: Federation, alice: Person, settings: Any
) -> None:
    Federation.objects.update(round_seconds=86_400)
    settings.QFLARE_ASKS_PER_SECOND = 1
    large_fleet(3600)
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        worker_of(alice).run(sleep=sleep)
    assert waited == [3600]


def test_lost_answers_cost_retries_and_make_no_second_update(running: Round, alice: Person) -> None:
    assert worker_of(alice, http=LosesAnswers(4)).work_once()[0]
    assert Update.objects.filter(participation__device=alice.device).count() == 1
    running.refresh_from_db()
    assert running.submissions == 1


def test_a_device_that_lost_power_before_its_receipt_hands_in_the_same_update(running: Round, alice: Person) -> None:
    with pytest.raises(ServerUnreachable):
        worker_of(alice, http=LosesAnswers(100)).work_once()
    kept = DeviceStateFile(alice.home).outbox.kept()
    assert kept is not None
    receipt = bytes(Update.objects.get(participation__device=alice.device).receipt)
    assert worker_of(alice).run(rounds=1) == 1
    assert bytes(Update.objects.get(participation__device=alice.device).receipt) == receipt
    assert DeviceStateFile(alice.home).outbox.kept() is None


def test_a_round_that_names_the_old_key_gets_an_update_under_it_after_a_rotation(running: Round, alice: Person) -> None:
    old = alice.identity.keys.signer.fingerprint
    alice.session().rotate_keys()
    assert worker_of(alice).work_once()[0]
    update = Update.objects.get(participation__device=alice.device)
    assert claimed_signer(bytes(update.manifest)) == old != alice.identity.keys.signer.fingerprint


def test_a_kept_update_for_a_closed_round_is_dropped(running: Round, alice: Person) -> None:
    with pytest.raises(ServerUnreachable):
        worker_of(alice, http=LosesAnswers(100)).work_once()
    Update.objects.all().delete()
    Round.objects.filter(id=running.id).update(state="aggregating")
    worker = worker_of(alice)
    assert worker._hand_in() is False
    assert DeviceStateFile(alice.home).outbox.kept() is None


def test_the_first_enclave_is_pinned_and_another_refused(running: Round, alice: Person) -> None:
    assert worker_of(alice).work_once()[0]
    pins = DeviceStateFile(alice.home).state.pins
    assert len(pins.attestation_keys) == len(pins.measurements) == 1


@pytest.mark.parametrize("member", ["attestation_keys", "measurements"])
def test_nothing_is_sealed_to_an_enclave_that_is_not_pinned(running: Round, alice: Person, member: str) -> None:
    worker = worker_of(alice)
    assert worker.work_once()[0]
    Update.objects.all().delete()
    Participation.objects.filter(device=alice.device).update(state="invited")
    memory = DeviceStateFile(alice.home)
    pins = vars(memory.state.pins) | {member: frozenset({bytes(32 if member == "attestation_keys" else 64)})}
    memory.remember(pins=EnclavePins(**pins))
    with pytest.raises(Refusal) as refused:
        worker_of(alice).work_once()
    assert refused.value.code == "evidence-refused"
    assert not Update.objects.exists()
    assert DeviceStateFile(alice.home).outbox.kept() is None


def test_training_code_that_changes_shapes_is_reported_and_the_device_goes_on(running: Round, alice: Person) -> None:
    worker = worker_of(alice, ReshapingTrainer)
    assert worker.work_once() == (False, 1.0)
    part = Participation.objects.get(device=alice.device)
    assert part.state == "failed" and part.reason.startswith("invalid-tensors: Expected the tensor 'w'")
    assert not Update.objects.exists()
    assert DeviceStateFile(alice.home).training.kept() is None
    assert worker.work_once()[0] is False


class TooManySamples(SmallTrainer):
    """Claims more samples than the policy takes, which the server refuses for good."""

    def train(self, model: Tensors, round_number: int) -> TrainingOutcome:
        return TrainingOutcome(super().train(model, round_number).model, 1001)


def test_an_update_that_is_refused_for_good_is_not_sealed_and_sent_again(running: Round, alice: Person) -> None:
    worker = worker_of(alice, TooManySamples)
    assert worker.work_once() == (False, 1.0)
    part = Participation.objects.get(device=alice.device)
    assert part.state == "failed" and part.reason.startswith("sample-count-refused")
    memory = DeviceStateFile(alice.home)
    assert memory.training.kept() is None and memory.outbox.kept() is None


class Diverged(SmallTrainer):
    """Reports a loss that is no number."""

    def train(self, model: Tensors, round_number: int) -> TrainingOutcome:
        return TrainingOutcome(super().train(model, round_number).model, 10, {"loss": float("nan")})


def test_metrics_out_of_form_end_the_round_for_the_device_with_a_reason(running: Round, alice: Person) -> None:
    assert worker_of(alice, Diverged).work_once() == (False, 1.0)
    assert Participation.objects.get(device=alice.device).reason.startswith("malformed-message: The metric must be")


class NamesMetricsLikeTheLog(SmallTrainer):
    """Reports metrics that have the names of what a device logs beside them."""

    def train(self, model: Tensors, round_number: int) -> TrainingOutcome:
        metrics = dict.fromkeys(("round", "seconds", "event", "level"), 1.0)
        return TrainingOutcome(super().train(model, round_number).model, 10, metrics)


def test_a_metric_may_have_any_name(running: Round, alice: Person) -> None:
    assert worker_of(alice, NamesMetricsLikeTheLog).work_once()[0]


def test_a_suspended_device_that_is_to_work_one_round_stops_with_the_reason(running: Round, alice: Person) -> None:
    suspend_device(alice.device.id, reason="under review", actor=OPERATOR, now=timezone.now())
    with pytest.raises(Refusal) as refused:
        worker_of(alice).run(rounds=1)
    assert refused.value.code == "device-suspended"


@pytest.mark.parametrize("member", ["digest", "blob_digest"])
def test_a_damaged_or_swapped_model_is_not_trained_from(
    running: Round, alice: Person, member: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import training.api

    def swapped(*args: Any, **options: Any) -> dict[str, Any]:
        return answer(*args, **options) | {member: bytes(32)}

    answer = training.api.model_for
    monkeypatch.setattr(training.api, "model_for", swapped)
    with pytest.raises((Refusal, ServerUnreachable)):
        worker_of(alice).work_once()
    assert not Update.objects.exists()


class ForgesRefusals(DjangoHttp):
    """A man in the middle who answers submissions with an unsealed refusal."""

    def send(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Any:
        if not path.endswith("submit_model"):
            return super().send(method, path, body, headers)
        problem = Refusal("round-closed", "The round is over.").as_problem_details()
        return httpx.Response(409, headers={"Content-Type": "application/problem+json"}, json=problem)


def test_an_unsealed_refusal_does_not_make_a_device_drop_its_update(running: Round, alice: Person) -> None:
    with pytest.raises(ServerUnreachable, match="unsealed"):
        worker_of(alice, http=ForgesRefusals()).work_once()
    assert DeviceStateFile(alice.home).outbox.kept() is not None
    assert worker_of(alice).run(rounds=1) == 1


class CallsSessionsOver(DjangoHttp):
    """A man in the middle who answers sealed requests with an unsealed "your session is over"."""

    def __init__(self, code: str) -> None:
        super().__init__()
        self.code, self.forging, self.handshakes = code, True, 0

    def send(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Any:
        self.handshakes += path == "/api/challenge"
        if not self.forging or "Authorization" not in (headers or {}):
            return super().send(method, path, body, headers)
        problem = Refusal(self.code, "Says who?").as_problem_details()
        headers = {"Content-Type": "application/problem+json"}
        return httpx.Response(problem["status"], headers=headers, json=problem)


@pytest.mark.parametrize("code", sorted(RENEW - {"answer-not-authentic"}))
def test_forged_ends_of_the_session_cost_a_handshake_each_and_pass(running: Round, alice: Person, code: str) -> None:
    http = CallsSessionsOver(code)
    worker = worker_of(alice, http=http)
    with pytest.raises(ServerUnreachable, match=f"{code} again"):
        worker.work_once()
    assert http.handshakes == 1 + 3  # the first, and one for each attempt
    http.forging = False
    assert worker.run(rounds=1) == 1


class SealsNothing(CallsSessionsOver):
    """A man in the middle whose answers look sealed, under a key that nobody has."""

    def send(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Any:
        answer = super().send(method, path, body, headers)
        if not self.forging or "Authorization" not in (headers or {}):
            return answer
        return httpx.Response(
            200, headers={"Content-Type": SEALED_MEDIA_TYPE, SALT_HEADER: "00" * 16}, content=bytes(40)
        )


def test_a_forged_sealed_answer_costs_a_handshake_and_passes(running: Round, alice: Person) -> None:
    http = SealsNothing("internal-error")
    worker = worker_of(alice, http=http)
    with pytest.raises(ServerUnreachable, match="answer-not-authentic again"):
        worker.work_once()
    http.forging = False
    assert worker.run(rounds=1) == 1


class OutOfWork(Exception):
    """Ends a worker that runs for ever."""


class MendedAfter(DjangoHttp):
    """Carries out `mend` before the fourth handshake."""

    def __init__(self, mend: Callable[[], object]) -> None:
        super().__init__()
        self.mend, self.handshakes = mend, 0

    def send(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Any:
        self.handshakes += path == "/api/challenge"
        if path == "/api/challenge" and self.handshakes == 4:
            self.mend()
        return super().send(method, path, body, headers)


def test_a_suspended_device_that_runs_for_ever_works_on_when_it_is_resumed(running: Round, alice: Person) -> None:
    def sleep(seconds: float) -> None:
        raise OutOfWork

    def change(verb: Callable[..., object]) -> None:
        verb(alice.device.id, reason="a test", actor=OPERATOR, now=timezone.now())

    change(suspend_device)
    worker = worker_of(alice, http=MendedAfter(lambda: change(resume_device)))
    worker._backoff = Backoff(base_seconds=0.001, maximum_seconds=0.001)
    with pytest.raises(OutOfWork):
        worker.run(sleep=sleep)
    assert Update.objects.filter(participation__device=alice.device).exists()


def test_an_answer_without_its_members_does_not_stop_a_device(running: Round, alice: Person) -> None:
    class SaysNothing(DjangoHttp):
        def send(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Any:
            return httpx.Response(200, headers={"Content-Type": CBOR}, content=encode({}))

    with pytest.raises(UnvouchedRefusal, match="malformed-message"):
        worker_of(alice, http=SaysNothing()).work_once()


def test_a_forged_end_of_the_session_does_not_make_a_device_drop_its_update(running: Round, alice: Person) -> None:
    with pytest.raises(ServerUnreachable):
        worker_of(alice, http=LosesAnswers(100)).work_once()
    http = CallsSessionsOver("session-limit-reached")  # sealed, it would be the end of the update
    worker = worker_of(alice, http=http)
    with pytest.raises(ServerUnreachable, match="no key vouches"):
        worker.run(rounds=1)
    assert DeviceStateFile(alice.home).outbox.kept() is not None
    http.forging = False
    assert worker.run(rounds=1) == 1
    assert Update.objects.filter(participation__device=alice.device).count() == 1


def test_a_device_that_runs_for_ever_outlasts_the_man_in_the_middle(running: Round, alice: Person) -> None:
    http = CallsSessionsOver("session-expired")
    worker = worker_of(alice, http=http)
    worker._backoff = Backoff(base_seconds=0.001, maximum_seconds=0.001)
    forge = http.send

    def give_up_after_ten(*arguments: Any) -> Any:
        http.forging = http.handshakes < 10
        return forge(*arguments)

    http.send = give_up_after_ten  # type: ignore[method-assign]
    assert worker.run(rounds=1) == 1


def test_a_device_does_not_train_from_an_older_model_than_it_has_seen(running: Round, alice: Person) -> None:
    DeviceStateFile(alice.home).remember(newest_versions={running.federation_id.hex: 3})
    with pytest.raises(Refusal, match="version 3 has been seen"):
        worker_of(alice).work_once()
    assert not Update.objects.exists()


def test_a_slow_device_clock_does_not_make_good_evidence_look_future(running: Round, alice: Person) -> None:
    worker = worker_of(alice)
    worker._session._clock = lambda: time.time() - 4000
    assert worker.work_once()[0]


class Forger(DjangoHttp):
    """Answers every handshake itself, in the clear."""

    def __init__(self, code: str) -> None:
        super().__init__()
        self._code = code

    def send(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Any:
        if path != "/api/challenge":
            return super().send(method, path, body, headers)
        problem = {"type": f"urn:qflare:problem:{self._code}", "status": 409, "title": "", "detail": "forged"}
        return httpx.Response(409, headers={"Content-Type": "application/problem+json"}, json=problem)


@pytest.mark.parametrize("code", ["round-closed", "not-invited", "malformed-message", "already-submitted"])
def test_a_forged_answer_to_a_handshake_does_not_cost_the_update(running: Round, alice: Person, code: str) -> None:
    memory = DeviceStateFile(alice.home)
    memory.outbox.write_sealed((b"a sealed ", b"update"))
    memory.outbox.keep(b"a manifest")
    with pytest.raises((ServerUnreachable, Refusal)):
        worker_of(alice, http=Forger(code))._hand_in()
    kept = memory.outbox.kept()
    assert kept is not None and kept.manifest == b"a manifest" and kept.path.read_bytes() == b"a sealed update"


@pytest.mark.parametrize("code", ["device-suspended", "algorithm-unavailable", "clock-skew", "invalid-signature"])
def test_what_is_forged_in_a_handshake_is_nobodys_word(running: Round, alice: Person, code: str) -> None:
    with pytest.raises(UnvouchedRefusal, match=code):
        worker_of(alice, http=Forger(code)).work_once()


class DeliversTooMuch(DjangoHttp):
    """Answers one path with more than a device reads."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path, self.asked = path, list[str]()

    def send(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Any:
        if path.startswith(self.path):
            self.asked.append(path)
            if len(self.asked) == 1:
                raise Refusal("message-too-large", "More than a device reads.")
        return super().send(method, path, body, headers)


@pytest.mark.parametrize("path", ["/api/work", "/api/global_model", "/api/blobs", "/api/submit_model"])
def test_an_answer_without_end_is_asked_for_again(running: Round, alice: Person, path: str) -> None:
    http = DeliversTooMuch(path)
    assert worker_of(alice, http=http).work_once()[0]
    assert len(http.asked) >= 2


def test_a_model_that_arrives_damaged_is_downloaded_again(running: Round, alice: Person) -> None:
    class DamagesTheFirst(DjangoHttp):
        downloads = 0

        @contextmanager
        def opened(self, path: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
            self.downloads += 1
            with super().opened(path, headers) as answer:
                content = bytes(len(answer.content)) if self.downloads == 1 else answer.content
                yield httpx.Response(answer.status_code, headers=answer.headers, content=content)

    http = DamagesTheFirst()
    assert worker_of(alice, http=http).work_once()[0]
    assert http.downloads == 2


def test_a_lost_receipt_is_signed_anew_after_the_servers_identity_was_rotated(running: Round, alice: Person) -> None:
    with pytest.raises(ServerUnreachable):
        worker_of(alice, http=LosesAnswers(20)).work_once()
    old = alice.identity.identity.fingerprint
    rotate_identity_key("ML-DSA-44", reason="test", actor="operator:root", now=timezone.now())
    assert worker_of(alice)._hand_in()
    assert alice.identity.identity.fingerprint != old
    assert DeviceStateFile(alice.home).outbox.kept() is None


class CutsDownloads(DjangoHttp):
    """Breaks every download off after some bytes, as often as it is told to."""

    def __init__(self, cuts: int, after_bytes: int) -> None:
        super().__init__()
        self.cuts, self.after_bytes, self.asked = cuts, after_bytes, []

    @contextmanager
    def opened(self, path: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        self.asked.append(headers.get("Range"))
        with super().opened(path, headers) as answer:
            if not self.cuts:
                yield answer
                return
            self.cuts -= 1
            yield httpx.Response(answer.status_code, headers=answer.headers, content=answer.content[: self.after_bytes])


def test_a_model_arrives_in_spite_of_cuts_and_of_a_restart(running: Round, alice: Person) -> None:
    cut = CutsDownloads(cuts=1000, after_bytes=20)
    with pytest.raises(ServerUnreachable):
        worker_of(alice, http=cut).work_once()
    assert cut.asked == [None, "bytes=20-", "bytes=40-"]
    restarted = CutsDownloads(cuts=0, after_bytes=0)
    assert worker_of(alice, http=restarted).work_once()[0]
    assert restarted.asked == ["bytes=60-"]
    assert not list(alice.home.glob("download.*"))


def test_a_download_that_was_damaged_on_the_disk_begins_anew(running: Round, alice: Person) -> None:
    with pytest.raises(ServerUnreachable):
        worker_of(alice, http=CutsDownloads(cuts=1000, after_bytes=20)).work_once()
    (partial,) = alice.home.glob("download.*")
    partial.write_bytes(bytes(60))
    again = CutsDownloads(cuts=0, after_bytes=0)
    assert worker_of(alice, http=again).work_once()[0]
    assert again.asked == ["bytes=60-", None]


def test_what_was_begun_of_another_model_is_deleted(running: Round, alice: Person) -> None:
    stale = alice.home / f"download.{'0' * 64}"
    stale.parent.mkdir(exist_ok=True)
    stale.write_bytes(b"left over")
    assert worker_of(alice).work_once()[0]
    assert not stale.exists()

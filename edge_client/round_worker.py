"""One device's work: take a round, check its enclave, train, seal, sign, hand in, keep the receipt."""

import errno
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import structlog

from edge_client.assignment import Assignment, EvaluationTask
from edge_client.backoff import Backoff, retrying
from edge_client.device_state import DeviceStateFile
from edge_client.enclave_trust import EnclaveTrust
from edge_client.given_up import GivenUp
from edge_client.hand_in import HandIn
from edge_client.handshaking import UnvouchedRefusal
from edge_client.http import Http, ServerUnreachable
from edge_client.identity_keeper import IdentityKeeper
from edge_client.measured import LAST_ROUND, LAST_UPDATE, ROUNDS, TRAINING_SECONDS
from edge_client.model_download import DOWNLOAD_PREFIX, ModelDownload
from edge_client.outbox import KeptUpdate
from edge_client.progress import ProgressReporter
from edge_client.qkd import OFF, QkdSettings
from edge_client.rounding_rest import rest_was_delivered
from edge_client.session import DeviceSession, SealedRefusal
from edge_client.storage import DISK_IS_FULL, disk_is_full
from edge_client.tensor_files import map_tensor_file
from edge_client.trainer import TrainingFailed, TrainingOutcome, TrainingStopped
from edge_client.training import Training, TrainingTask
from edge_client.training_folder import KeptTraining, TrainingFolder
from edge_client.update_sealing import seal_into_outbox
from qflare_protocol.attestation.evidence import EnclaveClaims
from qflare_protocol.device_evaluation import DeviceEvaluation
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import unsigned_field
from qflare_protocol.manifest import unverified_manifest

log = structlog.get_logger(__name__)

AFTER_NO_UPDATE_SECONDS = 1.0
AFTER_GIVEN_UP_AGAIN_SECONDS = 30.0
AFTER_FULL_DISK_SECONDS = 300.0
MAY_BE_SEALED_AGAIN = frozenset(
    {"round-closed", "not-invited", "enclave-key-mismatch", "session-limit-reached", "digest-mismatch"}
)
"""Refusals of an update after which its training may be good for the round begun anew, or for another."""


class RoundWorker:
    """Works rounds for one device over one session; `training` runs its training code in the device's home."""

    def __init__(
        self,
        http: Http,
        keeper: IdentityKeeper,
        memory: DeviceStateFile,
        training: Training,
        backoff: Backoff | None = None,
        qkd: QkdSettings = OFF,
    ) -> None:
        self._memory = memory
        self._session = DeviceSession(http, keeper, memory, qkd=qkd)
        self._trust = EnclaveTrust(memory)
        self._training, self._folder, self._given_up = training, memory.training, memory.given_up
        self._backoff = backoff or Backoff()
        self._waits_outside = False
        self._download = ModelDownload(http, self._session, memory, self._trust, self._backoff, self._asked)
        self._outgoing = HandIn(self._session, memory.outbox, self._asked, self._refused)

    @property
    def device_id(self) -> bytes:
        """The 16-byte id of the device."""
        return self._session.identity.device_id

    def run(self, *, rounds: int | None = None, sleep: Callable[[float], None] = time.sleep) -> int:
        """Work until `rounds` updates are handed in, for ever without; return how many were.

        A server that is away is waited for; without `rounds`, so is one that does not let the device in, since
        that may be forged on the way or mended by an operator. Raises `Refusal` for what waiting cannot mend,
        such as an enclave that is not trusted or a log that was rewritten.
        """
        done, self._waits_outside = 0, rounds is None
        done += self._hand_in()
        while rounds is None or done < rounds:
            worked, ask_again_seconds = self.work_once()
            done += worked
            if not worked:
                sleep(ask_again_seconds)
        retrying(self._session.close, backoff=Backoff(attempts=2), what="close session")
        return done

    def work_once(self) -> tuple[bool, float]:
        """Ask for work and do it; return whether an update was handed in, and when to ask again, seconds.

        A round that was given up is told to the server first, or it would be assigned again.
        """
        self._tell_of_failure()
        answer = self._asked(lambda: self._session.post("/api/work", {}), "ask for work")
        if answer.get("round") is not None:
            return self._work_on(Assignment.from_wire(answer["round"]))
        if "evaluation" in answer and not self._evaluate(EvaluationTask.from_wire(answer["evaluation"])):
            return False, AFTER_FULL_DISK_SECONDS
        return False, _wait_seconds(answer)

    def _work_on(self, assignment: Assignment) -> tuple[bool, float]:
        processes = self._appraised(assignment)
        key_ids = tuple(process.key_id for process in processes)
        if self._given_up.is_assigned_again(assignment.round_id, key_ids):
            self._tell_of_failure()
            return False, AFTER_GIVEN_UP_AGAIN_SECONDS
        try:
            made = self._make_update(assignment, processes)
        except OSError as error:
            if not disk_is_full(error):
                raise
            ROUNDS.add("disk-full")
            self._make_room()
            self._give_up(assignment.round_id, key_ids, DISK_IS_FULL)
            return False, AFTER_FULL_DISK_SECONDS
        if not made or not self._hand_in():
            return False, AFTER_NO_UPDATE_SECONDS
        return True, 0.0

    def _make_room(self) -> None:
        """Delete what this round has put on a disk that is full."""
        self._folder.drop()
        if self._memory.outbox.kept() is None:  # else it is another round's
            self._memory.outbox.drop()
        self._drop_downloads()

    def _drop_downloads(self) -> None:
        for begun in self._memory.home.glob(f"{DOWNLOAD_PREFIX}*"):
            begun.unlink()

    def _asked(self, ask: Callable[[], dict[str, Any]], what: str) -> dict[str, Any]:
        """Ask in the session until there is an answer."""

        def once() -> dict[str, Any]:
            try:
                return ask()
            except UnvouchedRefusal as refusal:
                if not self._waits_outside:
                    raise
                wait = self._backoff.maximum_seconds / 2
                raise ServerUnreachable(f"not let in, {refusal.code}: {refusal.detail}", wait) from refusal

        return retrying(once, backoff=self._backoff, what=what)

    def _make_update(self, assignment: Assignment, processes: list[EnclaveClaims]) -> bool:
        """Put an update for the round into the outbox; return whether there is one."""
        key_ids = tuple(process.key_id for process in processes)
        kept = self._folder.kept()
        if kept is None or not kept.fits(assignment):
            kept = self._trained(assignment, key_ids)
        if kept is None:
            return False
        try:
            self._seal(assignment, processes, kept)
        except Refusal as refusal:
            if refusal.code == "evidence-refused":
                raise
            ROUNDS.add("not-sealed")
            self._give_up(assignment.round_id, key_ids, f"{refusal.code}: {refusal.detail}")
            return False
        return True

    def _seal(self, assignment: Assignment, processes: list[EnclaveClaims], kept: KeptTraining) -> None:
        outcome = TrainingOutcome(map_tensor_file(self._folder.trained), kept.sample_count, kept.metrics)
        trained_from = replace(assignment, base_version=kept.base_version, base_model_digest=kept.base_model_digest)
        seal_into_outbox(
            self._memory.outbox,
            self._session.identity,
            trained_from,
            processes,
            map_tensor_file(self._folder.base),
            outcome,
        )

    def _give_up(self, round_id: bytes, key_ids: tuple[bytes, ...], reason: str) -> None:
        """Hand in nothing for a round: what was trained fits it never, and the server need not wait for it."""
        log.error("no_update_for_the_round", reason=reason)
        self._given_up.keep(GivenUp(round_id, key_ids, reason))
        self._folder.drop()
        self._tell_of_failure()

    def _tell_of_failure(self) -> None:
        """Tell the server of a round that was given up, until it has heard it."""
        if (given_up := self._given_up.untold()) is not None:
            report = ProgressReporter(self._session, given_up.round_id)
            self._asked(lambda: report.failed(given_up.reason), "say that the round is given up")
            self._given_up.told()

    def _refused(self, kept: KeptUpdate, refusal: Refusal) -> None:
        """Judge what becomes of the training whose update the server refused for good."""
        ROUNDS.add("refused")
        if refusal.code == "already-submitted":
            self._folder.drop()
        elif refusal.code not in MAY_BE_SEALED_AGAIN:
            manifest = unverified_manifest(kept.manifest)
            self._give_up(manifest.round_id, manifest.key_ids, f"{refusal.code}: {refusal.detail}")

    def _trained(self, assignment: Assignment, key_ids: tuple[bytes, ...]) -> KeptTraining | None:
        """Train for a round; None where that failed, which the server is told, or nobody waits for it any more."""
        self._folder.begin()
        self._download.fetch(assignment.base, self._folder.base)
        report = ProgressReporter(self._session, assignment.round_id)
        task = TrainingTask(assignment.trainer_parameters, assignment.round_number)
        LAST_ROUND.set(assignment.round_number)
        started = time.monotonic()
        try:
            trained = self._training.train(task, self._folder, report.watch)
        except TrainingFailed as failure:
            if str(failure) == DISK_IS_FULL:
                raise OSError(errno.ENOSPC, DISK_IS_FULL) from failure
            ROUNDS.add("training-failed")
            self._give_up(assignment.round_id, key_ids, str(failure))
            return None
        except TrainingStopped as stop:
            ROUNDS.add("training-stopped")
            log.warning("training_stopped", round=assignment.round_number, because=str(stop))
            return None
        finally:
            TRAINING_SECONDS.add(amount=time.monotonic() - started)
        seconds = round(time.monotonic() - started, 2)
        log.info("trained", round=assignment.round_number, seconds=seconds, metrics=trained.metrics)
        return self._folder.keep(assignment, trained.sample_count, trained.metrics)

    def _evaluate(self, task: EvaluationTask) -> bool:
        """Evaluate a version on what this device holds out, and report it; nothing is reported as no samples.

        Return False where the disk is full: another time there may be room.
        """
        folder = self._memory.evaluation
        try:
            folder.begin()
            self._download.fetch(task.model, folder.base)
            self._report(self._evaluation_of(task, folder))
        except SealedRefusal as refusal:
            if refusal.code != "not-found":  # the device is not asked any more
                raise
            log.warning("evaluation_not_taken", code=refusal.code, detail=refusal.detail)
        except OSError as error:
            if not disk_is_full(error):
                raise
            log.error("evaluation_failed", version=task.model.version, reason=DISK_IS_FULL)
            self._drop_downloads()
            return False
        finally:
            folder.drop()
        return True

    def _report(self, report: DeviceEvaluation) -> None:
        """Report an evaluation; one that the server refuses as no samples, or it would be asked for again for ever."""
        try:
            self._asked(lambda: self._session.post("/api/evaluation", report.to_map()), "evaluation")
        except SealedRefusal as refusal:
            if refusal.code != "sample-count-refused" or not report.sample_count:
                raise
            log.error("evaluation_refused", code=refusal.code, detail=refusal.detail)
            self._report(DeviceEvaluation(report.federation_id, report.version, 0, {}))

    def _evaluation_of(self, task: EvaluationTask, folder: TrainingFolder) -> DeviceEvaluation:
        """Return the report; no samples where the code holds none out, fails, or reports what is out of form."""
        federation_id, version = task.model.federation_id, task.model.version
        try:
            outcome = self._training.evaluate(TrainingTask(task.trainer_parameters, 0, version), folder)
            if outcome is not None:
                log.info("evaluated", version=version, samples=outcome.sample_count, metrics=dict(outcome.metrics))
                return DeviceEvaluation(federation_id, version, outcome.sample_count, dict(outcome.metrics))
        except (TrainingFailed, Refusal) as failure:
            if str(failure) == DISK_IS_FULL:
                raise OSError(errno.ENOSPC, DISK_IS_FULL) from failure
            log.error("evaluation_failed", version=version, reason=str(failure))
        return DeviceEvaluation(federation_id, version, 0, {})

    def _hand_in(self) -> bool:
        if not self._outgoing.hand_in():
            return False
        self._memory.remember_if_there_is_room(rounds_done=self._memory.state.rounds_done + 1)
        ROUNDS.add("handed-in")
        LAST_UPDATE.set(time.time())
        if (kept := self._folder.kept()) is not None:
            rest_was_delivered(self._memory.home, kept.federation_id)
        self._folder.drop()  # first: without an update in the outbox nothing would say that it was delivered
        self._memory.outbox.drop()
        return True

    def _appraised(self, assignment: Assignment) -> list[EnclaveClaims]:
        """Return what is believed of every process that the model is shared among; all have the same code and policy.

        Raises `Refusal("evidence-refused")`.
        """
        processes = [
            self._trust.appraise(
                evidence,
                round_id=assignment.round_id,
                federation_id=assignment.federation_id,
                now=self._session.server_time(),
                range_index=index,
                range_count=len(assignment.evidence),
            ).claims
            for index, evidence in enumerate(assignment.evidence)
        ]
        if len({(one.measurement, one.policy.digest()) for one in processes}) > 1:
            raise Refusal("evidence-refused", "The processes that share the model differ in their code or policy.")
        return processes


def _wait_seconds(answer: dict[str, Any]) -> float:
    """Return when to ask again for work: to the millisecond where the server expects a round soon."""
    if "ask_again_milliseconds" in answer:
        return unsigned_field(answer, "ask_again_milliseconds", 3_600_000) / 1000
    return float(unsigned_field(answer, "ask_again_seconds", 3600))

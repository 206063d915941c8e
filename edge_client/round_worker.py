"""One device's work: take a round, check its enclave, train, seal, sign, hand in, keep the receipt."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from edge_client.assignment import Assignment
from edge_client.backoff import Backoff, retrying
from edge_client.device_state import DeviceStateFile
from edge_client.enclave_trust import EnclaveTrust
from edge_client.hand_in import HandIn
from edge_client.handshaking import UnvouchedRefusal
from edge_client.http import Http, ServerUnreachable
from edge_client.identity_keeper import IdentityKeeper
from edge_client.model_download import ModelDownload
from edge_client.qkd import OFF, QkdSettings
from edge_client.session import DeviceSession
from edge_client.trainer import Trainer
from edge_client.update_sealing import seal_into_outbox
from qflare_protocol.attestation.evidence import EnclaveClaims
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import unsigned_field

log = structlog.get_logger(__name__)

TrainerFactory = Callable[[Mapping[str, Any]], Trainer]


class RoundWorker:
    """Works rounds for one device over one session; `make_trainer` builds its training code."""

    def __init__(
        self,
        http: Http,
        keeper: IdentityKeeper,
        memory: DeviceStateFile,
        make_trainer: TrainerFactory,
        backoff: Backoff | None = None,
        qkd: QkdSettings = OFF,
    ) -> None:
        self._memory = memory
        self._session = DeviceSession(http, keeper, memory, qkd=qkd)
        self._trust = EnclaveTrust(memory)
        self._make_trainer = make_trainer
        self._backoff = backoff or Backoff()
        self._waits_outside = False
        self._download = ModelDownload(http, self._session, memory, self._trust, self._backoff, self._asked)
        self._outgoing = HandIn(self._session, memory.outbox, self._asked)

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
        """Ask for work and do it; return whether an update was handed in, and when to ask again, seconds."""
        answer = self._asked(lambda: self._session.post("/api/work", {}), "ask for work")
        if answer.get("round") is None:
            return False, float(unsigned_field(answer, "ask_again_seconds", 3600))
        assignment = Assignment.from_wire(answer["round"])
        self._train(assignment)
        return self._hand_in(), 0.0

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

    def _train(self, assignment: Assignment) -> None:
        processes = self._appraised(assignment)
        base = self._download.fetch(assignment)
        started = time.monotonic()
        outcome = self._make_trainer(assignment.trainer_parameters).train(base, assignment.round_number)
        log.info(
            "trained", round=assignment.round_number, seconds=round(time.monotonic() - started, 2), **outcome.metrics
        )
        seal_into_outbox(self._memory.outbox, self._session.identity, assignment, processes, base, outcome)

    def _hand_in(self) -> bool:
        if not self._outgoing.hand_in():
            return False
        self._memory.remember(rounds_done=self._memory.state.rounds_done + 1)
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

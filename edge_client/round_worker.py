"""One device's work: take a round, check its enclave, train, seal, sign, hand in, keep the receipt."""

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import blake3
import numpy as np
import structlog

from edge_client.backoff import Backoff, retrying
from edge_client.device_state import DeviceStateFile
from edge_client.enclave_trust import EnclaveTrust
from edge_client.handshaking import UnvouchedRefusal
from edge_client.http import Http, ServerUnreachable
from edge_client.identity_keeper import IdentityKeeper
from edge_client.qkd import OFF, QkdSettings
from edge_client.range_sealing import seal_to_ranges
from edge_client.session import DeviceSession, SealedRefusal
from edge_client.trainer import Tensors, Trainer, TrainingOutcome
from qflare_protocol.attestation.evidence import SIGNATURE_ALGORITHM, EnclaveClaims
from qflare_protocol.chunked import open_chunks
from qflare_protocol.cose import Verifier, verify1
from qflare_protocol.encoding import frame
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import bytes_field, require_map, text_field, unsigned_field
from qflare_protocol.manifest import Manifest, manifest_digest, sign_manifest
from qflare_protocol.ranges import MAX_RANGES
from qflare_protocol.round_result import verify_result
from qflare_protocol.tensors import decode_tensors, layout_of, model_digest, require_layout
from qflare_protocol.update import UpdateContext

log = structlog.get_logger(__name__)

UPDATE_MEDIA_TYPE = "application/vnd.qflare.update"
MODEL_CONTEXT = b"model version"
FINAL_SUBMISSION_REFUSALS = frozenset(
    {
        "round-closed", "not-invited", "already-submitted", "base-model-mismatch", "enclave-key-mismatch",
        "update-too-large", "message-too-large", "session-limit-reached", "sample-count-refused",
        "digest-mismatch", "invalid-signature", "malformed-message",
    }
)  # fmt: skip

_ASSIGNMENT = frozenset(
    {"round_id", "round_number", "federation_id", "federation", "base_version", "base_model_digest", "evidence",
     "trainer", "trainer_parameters", "deadline", "signature_key"}
)  # fmt: skip
_MODEL = frozenset(
    {"federation_id", "version", "digest", "size_bytes", "blob_digest", "blob_bytes", "content_key",
     "provenance", "round_id", "evidence"}
)  # fmt: skip
_RECEIPT = frozenset({"round_id", "device_id", "manifest_digest", "ciphertext_digest", "received_at"})

TrainerFactory = Callable[[Mapping[str, Any]], Trainer]


@dataclass(frozen=True)
class Assignment:
    """A round that waits for this device; `signature_key` is the fingerprint of the key its roster names.

    `evidence` is that of each process that the model is shared among, in the order of their ranges.
    """

    round_id: bytes
    round_number: int
    federation_id: bytes
    federation: str
    base_version: int
    base_model_digest: bytes
    evidence: tuple[bytes, ...]
    trainer_parameters: dict[str, Any]
    signature_key: bytes

    @classmethod
    def from_wire(cls, value: Any) -> "Assignment":
        """Read an assignment. Raises `Refusal("malformed-message")`."""
        shared = isinstance(value, dict) and "range_evidence" in value
        members = require_map(value, _ASSIGNMENT | {"range_evidence"} if shared else _ASSIGNMENT, "assignment")
        further = members["range_evidence"] if shared else []
        if shared and not (isinstance(further, list) and 1 <= len(further) < MAX_RANGES):
            raise Refusal("malformed-message", f"The evidence of further ranges is a list of 1 to {MAX_RANGES - 1}.")
        parameters = members["trainer_parameters"]
        if not isinstance(parameters, dict):
            raise Refusal("malformed-message", "The trainer parameters must be a map.")
        return cls(
            bytes_field(members, "round_id", 16),
            unsigned_field(members, "round_number"),
            bytes_field(members, "federation_id", 16),
            text_field(members, "federation"),
            unsigned_field(members, "base_version"),
            bytes_field(members, "base_model_digest", 32),
            tuple(bytes_field({"evidence": one}, "evidence") for one in (members["evidence"], *further)),
            parameters,
            bytes_field(members, "signature_key", 32),
        )


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
        self._http, self._memory = http, memory
        self._session = DeviceSession(http, keeper, memory, qkd=qkd)
        self._trust = EnclaveTrust(memory)
        self._make_trainer = make_trainer
        self._backoff = backoff or Backoff()
        self._waits_outside = False

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
        if self._memory.kept_submission() is not None:
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
        self._memory.keep_submission(self._make_submission(assignment))
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

    def _make_submission(self, assignment: Assignment) -> bytes:
        processes = self._appraised(assignment)
        self._refuse_going_back(assignment)
        base = self._download_base(assignment)
        started = time.monotonic()
        outcome = self._make_trainer(assignment.trainer_parameters).train(base, assignment.round_number)
        log.info(
            "trained", round=assignment.round_number, seconds=round(time.monotonic() - started, 2), **outcome.metrics
        )
        return self._sealed_submission(assignment, processes, base, outcome)

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

    def _download_base(self, assignment: Assignment) -> Tensors:
        federation = uuid.UUID(bytes=assignment.federation_id)
        path = f"/api/global_model?federation={federation}&version={assignment.base_version}"
        answer = self._asked(lambda: self._session.get(path), "global model")
        members = require_map(answer, _MODEL, "global model")
        if (members["version"], members["digest"]) != (assignment.base_version, assignment.base_model_digest):
            raise Refusal("base-model-mismatch", "The server names another base model than the round's.")
        blob = retrying(lambda: self._download_blob(members), backoff=self._backoff, what="model blob")
        model = b"".join(open_chunks(bytes_field(members, "content_key", 32), (blob,), context=MODEL_CONTEXT))
        if model_digest(model) != assignment.base_model_digest:
            raise Refusal("digest-mismatch", "The model's bytes are not the ones the server names.")
        self._check_provenance(members, assignment)
        newest = self._memory.state.newest_versions | {assignment.federation_id.hex(): assignment.base_version}
        self._memory.remember(newest_versions=newest)
        return decode_tensors(model)

    def _refuse_going_back(self, assignment: Assignment) -> None:
        """Refuse an older version than one already trained from: whoever serves it hides the newer ones."""
        newest = self._memory.state.newest_versions.get(assignment.federation_id.hex(), 0)
        if assignment.base_version < newest:
            detail = f"The round starts from version {assignment.base_version}, but version {newest} has been seen."
            raise Refusal("base-model-mismatch", detail)

    def _download_blob(self, members: Mapping[str, Any]) -> bytes:
        """Download once. What arrives unsealed and is not what the sealed answer named is worth another try."""
        digest, size = bytes_field(members, "blob_digest", 32), unsigned_field(members, "blob_bytes")
        try:
            blob = self._http.download(f"/api/blobs/{digest.hex()}", maximum_bytes=size)
        except Refusal as refusal:
            raise ServerUnreachable(f"the model was not delivered, {refusal.code}: {refusal.detail}") from refusal
        if blake3.blake3(blob).digest() != digest:
            raise ServerUnreachable("The encrypted model arrived damaged.")
        return blob

    def _check_provenance(self, members: Mapping[str, Any], assignment: Assignment) -> None:
        """Check that a trusted enclave made this model; the first version is the operator's own."""
        if unsigned_field(members, "version") == 0:
            return
        appraisal = self._trust.appraise_maker(
            bytes_field(members, "evidence"),
            round_id=bytes_field(members, "round_id", 16),
            federation_id=assignment.federation_id,
            now=self._session.server_time(),
            first_model=assignment.federation_id.hex() not in self._memory.state.newest_versions,
        )
        verifier = Verifier(SIGNATURE_ALGORITHM, appraisal.claims.result_public_key)
        result = verify_result(bytes_field(members, "provenance", maximum=1 << 26), verifier)
        if result.model_digest != assignment.base_model_digest or result.federation_id != assignment.federation_id:
            raise Refusal("digest-mismatch", "The enclave signed another model than the server delivers.")

    def _sealed_submission(
        self, assignment: Assignment, processes: list[EnclaveClaims], base: Tensors, outcome: TrainingOutcome
    ) -> bytes:
        require_layout(layout_of(outcome.model), layout_of(base))
        delta = {name: np.asarray(outcome.model[name] - base[name], dtype=np.float32) for name in base}
        context = UpdateContext(
            federation_id=assignment.federation_id,
            round_id=assignment.round_id,
            device_id=self._session.identity.device_id,
            enclave_key_id=processes[0].key_id,
            base_model_digest=assignment.base_model_digest,
        )
        sealed, parts = seal_to_ranges(processes, context, delta)
        if len(sealed) > processes[0].policy.maximum_update_bytes:
            raise Refusal(
                "update-too-large", f"The sealed update has {len(sealed)} bytes, more than the policy allows."
            )
        manifest = Manifest(
            round_id=assignment.round_id,
            federation_id=assignment.federation_id,
            device_id=self._session.identity.device_id,
            base_model_digest=assignment.base_model_digest,
            sample_count=outcome.sample_count,
            metrics=outcome.metrics,
            ciphertext_digest=blake3.blake3(sealed).digest(),
            ciphertext_bytes=len(sealed),
            enclave_key_id=processes[0].key_id,
            parts=parts,
        )
        return frame(sign_manifest(manifest, self._session.identity.signer(assignment.signature_key))) + sealed

    def _hand_in(self) -> bool:
        """Hand in the kept submission until it has its receipt; False when its round takes it no more."""
        body = self._memory.kept_submission()
        if body is None:
            return False
        try:
            answer = self._asked(
                lambda: self._session.request("POST", "/api/submit_model", body, UPDATE_MEDIA_TYPE), "submission"
            )
        except Refusal as refusal:
            # What is not sealed may be anybody's word, and must not cost the update (protocol 8.2).
            if not isinstance(refusal, SealedRefusal) or refusal.code not in FINAL_SUBMISSION_REFUSALS:
                raise
            log.warning("submission_refused", code=refusal.code, detail=refusal.detail)
            self._memory.drop_submission()
            return False
        self._check_receipt(bytes_field(answer, "receipt"), body)
        self._memory.remember(rounds_done=self._memory.state.rounds_done + 1)
        self._memory.drop_submission()
        return True

    def _check_receipt(self, receipt: bytes, body: bytes) -> None:
        payload = require_map(
            verify1(self._session.identity.identity, receipt, purpose="update receipt"), _RECEIPT, "receipt"
        )
        manifest_bytes = int.from_bytes(body[:8], "big")
        if payload["manifest_digest"] != manifest_digest(body[8 : 8 + manifest_bytes]):
            raise Refusal("digest-mismatch", "The receipt is for another update than the one handed in.")
        log.info("update_received", receipt=payload["manifest_digest"].hex()[:16])

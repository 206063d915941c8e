"""Fetch a model version, to train from or to evaluate, and check who made it."""

import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import blake3
import structlog

from edge_client.assignment import WantedModel
from edge_client.backoff import Asked, Backoff, retrying
from edge_client.device_state import DeviceStateFile
from edge_client.enclave_trust import EnclaveTrust
from edge_client.http import Http, ServerUnreachable
from edge_client.session import DeviceSession
from edge_client.tensor_files import map_tensor_file
from qflare_protocol.attestation.evidence import SIGNATURE_ALGORITHM
from qflare_protocol.chunked import open_chunks
from qflare_protocol.cose import Verifier
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import bytes_field, require_map, unsigned_field
from qflare_protocol.round_result import MAX_BYTES, RoundResult, own_verdict, verify_result
from qflare_protocol.round_verdicts import VerdictProof

log = structlog.get_logger(__name__)

DOWNLOAD_PREFIX = "download."
PIECE_BYTES = 1 << 20
MODEL_CONTEXT = b"model version"
_MODEL = frozenset(
    {"federation_id", "version", "digest", "size_bytes", "blob_digest", "blob_bytes", "content_key",
     "provenance", "round_id", "evidence", "verdict"}
)  # fmt: skip


class ModelDownload:
    """Fetches base models over one session: through files, so that memory does not grow with the model.

    What has arrived of an encrypted model stays in the device's home over cuts and restarts.
    """

    def __init__(
        self,
        http: Http,
        session: DeviceSession,
        memory: DeviceStateFile,
        trust: EnclaveTrust,
        backoff: Backoff,
        asked: Asked,
    ) -> None:
        self._http, self._session, self._memory, self._trust = http, session, memory, trust
        self._backoff, self._asked = backoff, asked
        self._home = memory.home

    def fetch(self, wanted: WantedModel, into: Path) -> None:
        """Write the model, checked to be what a trusted enclave made, into a file that can be mapped.

        Raises `Refusal`: "base-model-mismatch" for another version or an older one than was trained from,
        "digest-mismatch", "evidence-refused", "invalid-signature", "invalid-tensors".
        """
        self._refuse_going_back(wanted)
        federation = uuid.UUID(bytes=wanted.federation_id)
        path = f"/api/global_model?federation={federation}&version={wanted.version}"
        answer = self._asked(lambda: self._session.get(path), "global model")
        members = require_map(answer, _MODEL, "global model")
        if (members["version"], members["digest"]) != (wanted.version, wanted.digest):
            raise Refusal("base-model-mismatch", "The server names another model than it asked to work on.")
        blob = retrying(lambda: self._download_blob(members), backoff=self._backoff, what="model blob")
        _open_model(blob, into, bytes_field(members, "content_key", 32), wanted.digest)
        map_tensor_file(into)
        self._check_provenance(members, wanted)
        newest = self._memory.state.newest_versions | {wanted.federation_id.hex(): wanted.version}
        self._memory.remember(newest_versions=newest)
        blob.unlink()

    def _refuse_going_back(self, wanted: WantedModel) -> None:
        """Refuse an older version than one already trained from: whoever serves it hides the newer ones."""
        newest = self._memory.state.newest_versions.get(wanted.federation_id.hex(), 0)
        if wanted.version < newest:
            detail = f"The server names version {wanted.version}, but version {newest} has been seen."
            raise Refusal("base-model-mismatch", detail)

    def _download_blob(self, members: Mapping[str, Any]) -> Path:
        """Download once. What arrives unsealed and is not what the sealed answer named is worth another try."""
        digest, size = bytes_field(members, "blob_digest", 32), unsigned_field(members, "blob_bytes")
        name = f"{DOWNLOAD_PREFIX}{digest.hex()}"
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        for other in self._home.glob(f"{DOWNLOAD_PREFIX}*"):
            if other.name != name:
                other.unlink()
        target = self._home / name
        try:
            self._http.download_into(target, f"/api/blobs/{digest.hex()}", size_bytes=size)
        except Refusal as refusal:
            raise ServerUnreachable(f"the model was not delivered, {refusal.code}: {refusal.detail}") from refusal
        if _digest_of(target) != digest:
            target.unlink()
            raise ServerUnreachable("The encrypted model arrived damaged.")
        return target

    def _check_provenance(self, members: Mapping[str, Any], wanted: WantedModel) -> None:
        """Check that a trusted enclave made this model; the first version is the operator's own."""
        if unsigned_field(members, "version") == 0:
            return
        appraisal = self._trust.appraise_maker(
            bytes_field(members, "evidence"),
            round_id=bytes_field(members, "round_id", 16),
            federation_id=wanted.federation_id,
            now=self._session.server_time(),
            first_model=wanted.federation_id.hex() not in self._memory.state.newest_versions,
        )
        verifier = Verifier(SIGNATURE_ALGORITHM, appraisal.claims.result_public_key)
        result = verify_result(bytes_field(members, "provenance", maximum=MAX_BYTES), verifier)
        if result.model_digest != wanted.digest or result.federation_id != wanted.federation_id:
            raise Refusal("digest-mismatch", "The enclave signed another model than the server delivers.")
        if members["verdict"] is not None:
            self._tell_verdict(result, VerdictProof.from_map(members["verdict"]))

    def _tell_verdict(self, result: RoundResult, proof: VerdictProof) -> None:
        """Say in the device's log what became of its update in the round that made the model, once that is proved."""
        verdict = own_verdict(result, proof, self._session.identity.device_id)
        log.info(
            "update_judged",
            round_id=str(uuid.UUID(bytes=result.round_id)),
            accepted=verdict.accepted,
            reason=verdict.reason,
        )


def _open_model(blob: Path, into: Path, content_key: bytes, expected_digest: bytes) -> None:
    """Open an encrypted model into a file. Raises `Refusal("digest-mismatch")` and "decryption-failed"."""
    hasher = blake3.blake3()
    descriptor = os.open(into, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        for chunk in open_chunks(content_key, _pieces_of(blob), context=MODEL_CONTEXT):
            hasher.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    if hasher.digest() != expected_digest:
        raise Refusal("digest-mismatch", "The model's bytes are not the ones the server names.")


def _digest_of(path: Path) -> bytes:
    hasher = blake3.blake3()
    for piece in _pieces_of(path):
        hasher.update(piece)
    return hasher.digest()


def _pieces_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece

"""Hand in the kept update until it has its receipt."""

from collections.abc import Callable

import structlog

from edge_client.backoff import Asked
from edge_client.measured import UPDATES
from edge_client.outbox import KeptUpdate, Outbox
from edge_client.piecewise_upload import MAX_PIECE_BYTES, PiecewiseUpload
from edge_client.session import DeviceSession, SealedRefusal
from qflare_protocol.cose import verify1
from qflare_protocol.encoding import frame
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import bytes_field, require_map
from qflare_protocol.manifest import manifest_digest

log = structlog.get_logger(__name__)

UPDATE_MEDIA_TYPE = "application/vnd.qflare.update"
FINAL_SUBMISSION_REFUSALS = frozenset(
    {
        "round-closed", "not-invited", "already-submitted", "base-model-mismatch", "enclave-key-mismatch",
        "update-too-large", "message-too-large", "session-limit-reached", "sample-count-refused",
        "digest-mismatch", "invalid-signature", "malformed-message", "policy-refused",
    }
)  # fmt: skip

_RECEIPT = frozenset({"round_id", "device_id", "manifest_digest", "ciphertext_digest", "received_at"})


class HandIn:
    """Hands in over one session: an update of at most `whole_bytes` in one request, a larger one in pieces.

    `refused` is told of an update that the server refuses for good, before it is dropped.
    """

    def __init__(
        self,
        session: DeviceSession,
        outbox: Outbox,
        asked: Asked,
        refused: Callable[[KeptUpdate, Refusal], None],
        *,
        whole_bytes: int = MAX_PIECE_BYTES,
    ) -> None:
        self._session, self._outbox, self._asked, self._whole_bytes = session, outbox, asked, whole_bytes
        self._refused = refused
        self._pieces = PiecewiseUpload(session, asked)

    def hand_in(self) -> bool:
        """Return whether the kept update has its receipt now; False when its round takes it no more.

        Raises `Refusal` for what no repetition mends, and then the update stays kept.
        """
        kept = self._outbox.kept()
        if kept is None:
            return False
        UPDATES.add("submitted")
        try:
            receipt = self._receipt_for(kept)
        except Refusal as refusal:
            # What is not sealed may be anybody's word, and must not cost the update (protocol 8.2).
            if not isinstance(refusal, SealedRefusal) or refusal.code not in FINAL_SUBMISSION_REFUSALS:
                raise
            UPDATES.add("refused")
            log.warning("submission_refused", code=refusal.code, detail=refusal.detail)
            self._refused(kept, refusal)
            self._outbox.drop()
            return False
        self._check_receipt(receipt, kept)
        UPDATES.add("accepted")
        return True

    def _receipt_for(self, kept: KeptUpdate) -> bytes:
        if kept.sealed_bytes > self._whole_bytes:
            return self._pieces.deliver(kept)
        return bytes_field(self._asked(lambda: self._submit(kept), "submission"), "receipt")

    def _submit(self, kept: KeptUpdate) -> dict[str, object]:
        with kept.open() as sealed:
            body = frame(kept.manifest) + sealed.read()
        return self._session.request("POST", "/api/submit_model", body, UPDATE_MEDIA_TYPE)

    def _check_receipt(self, receipt: bytes, kept: KeptUpdate) -> None:
        payload = require_map(
            verify1(self._session.identity.identity, receipt, purpose="update receipt"), _RECEIPT, "receipt"
        )
        if payload["manifest_digest"] != manifest_digest(kept.manifest):
            raise Refusal("digest-mismatch", "The receipt is for another update than the one handed in.")
        log.info("update_received", receipt=payload["manifest_digest"].hex()[:16])

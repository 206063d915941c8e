"""Upload a large update in pieces, going on where the server's bytes end."""

from collections.abc import Mapping
from typing import Any

import structlog

from edge_client.backoff import Asked
from edge_client.outbox import KeptUpdate
from edge_client.session import DeviceSession, SealedRefusal
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import bytes_field, whole_number

log = structlog.get_logger(__name__)

PIECE_MEDIA_TYPE = "application/vnd.qflare.update-piece"
MAX_PIECE_BYTES = 8 << 20
BEGIN_AGAIN = frozenset({"upload-offset-mismatch", "not-found"})
BEGINNINGS = 5
"""How often an upload is begun again without a single byte more at the server."""


class PiecewiseUpload:
    """Uploads over one session; memory holds one piece."""

    def __init__(self, session: DeviceSession, asked: Asked) -> None:
        self._session, self._asked = session, asked

    def deliver(self, kept: KeptUpdate) -> bytes:
        """Return the server's receipt for a kept update, as it came.

        The server is asked first how far an earlier process, or an earlier server, had come. Raises
        `Refusal` for what the server refuses and "malformed-message" for answers that lead nowhere.
        """
        furthest, beginnings = -1, 0
        while beginnings < BEGINNINGS:
            answer = self._asked(lambda: self._session.post("/api/uploads", {"manifest": kept.manifest}), "upload")
            if "receipt" in answer:
                return bytes_field(answer, "receipt")
            upload_id, step = bytes_field(answer, "upload_id", 16), _piece_bytes(answer)
            offset = _offset(answer, kept)
            beginnings = 0 if offset > furthest else beginnings + 1
            furthest = max(furthest, offset)
            log.info("upload_goes_on", offset=offset, total=kept.sealed_bytes)
            try:
                receipt, furthest = self._send_pieces(kept, upload_id, offset, step, furthest)
            except SealedRefusal as refusal:
                if refusal.code not in BEGIN_AGAIN:
                    raise
                log.info("upload_begins_again", because=refusal.code)
                continue
            if receipt is not None:
                return receipt
        raise Refusal("malformed-message", "The server's answers to the upload lead nowhere.")

    def _send_pieces(
        self, kept: KeptUpdate, upload_id: bytes, offset: int, step: int, furthest: int
    ) -> tuple[bytes | None, int]:
        """Send from `offset` on; return the receipt, or None where the server's end did not move, and its furthest."""
        with kept.open() as sealed:
            while True:
                sealed.seek(offset)
                piece, path = sealed.read(step), f"/api/uploads/{upload_id.hex()}?offset={offset}"
                answer = self._asked(
                    lambda path=path, piece=piece: self._session.request("PATCH", path, piece, PIECE_MEDIA_TYPE),  # type: ignore[misc]
                    "piece of an update",
                )
                if "receipt" in answer:
                    return bytes_field(answer, "receipt"), furthest
                moved = _offset(answer, kept)
                if moved <= offset:
                    return None, furthest
                offset, furthest = moved, max(furthest, moved)


def _offset(answer: Mapping[str, Any], kept: KeptUpdate) -> int:
    return whole_number(answer.get("offset"), 0, kept.sealed_bytes - 1, what="upload's offset")


def _piece_bytes(answer: Mapping[str, Any]) -> int:
    return min(whole_number(answer.get("piece_bytes"), 1, 1 << 40, what="size of a piece"), MAX_PIECE_BYTES)

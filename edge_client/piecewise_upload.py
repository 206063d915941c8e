"""Upload a large update in pieces, going on where the server's bytes end."""

from collections.abc import Mapping
from typing import IO, Any

import structlog

from edge_client.backoff import Asked
from edge_client.http import ServerUnreachable
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
    """Uploads over one session; memory holds one piece.

    Pieces go straight to the server's blob store where it names an address, and from its first failure on
    through the session.
    """

    def __init__(self, session: DeviceSession, asked: Asked) -> None:
        self._session, self._asked, self._direct = session, asked, True

    def deliver(self, kept: KeptUpdate) -> bytes:
        """Return the server's receipt for a kept update, as it came.

        The server is asked first how far an earlier process, or an earlier server, had come. Raises
        `Refusal` for what the server refuses and "malformed-message" for answers that lead nowhere.
        """
        furthest, beginnings = -1, 0
        while beginnings < BEGINNINGS:
            begin = {"manifest": kept.manifest} | ({"direct": True} if self._direct else {})
            answer = self._asked(lambda begin=begin: self._session.post("/api/uploads", begin), "upload")  # type: ignore[misc]
            if "receipt" in answer:
                return bytes_field(answer, "receipt")
            offset = _offset(answer, kept)
            beginnings = 0 if offset > furthest else beginnings + 1
            furthest = max(furthest, offset)
            log.info("upload_goes_on", offset=offset, total=kept.sealed_bytes)
            try:
                receipt, furthest = self._send_pieces(kept, answer, furthest)
            except SealedRefusal as refusal:
                if refusal.code not in BEGIN_AGAIN:
                    raise
                log.info("upload_begins_again", because=refusal.code)
                self._direct = False
                continue
            if receipt is not None:
                return receipt
        raise Refusal("malformed-message", "The server's answers to the upload lead nowhere.")

    def _send_pieces(self, kept: KeptUpdate, begun: Mapping[str, Any], furthest: int) -> tuple[bytes | None, int]:
        """Send from the offset begun at; return the receipt, or None where the end did not move, and its furthest."""
        upload_id, step = bytes_field(begun, "upload_id", 16), _piece_bytes(begun)
        answer, offset = begun, _offset(begun, kept)
        with kept.open() as sealed:
            while True:
                sealed.seek(offset)
                answer = self._send_piece(f"/api/uploads/{upload_id.hex()}?offset={offset}", sealed, step, answer)
                if "receipt" in answer:
                    return bytes_field(answer, "receipt"), furthest
                moved = _offset(answer, kept)
                if moved <= offset:
                    return None, furthest
                offset, furthest = moved, max(furthest, moved)

    def _send_piece(self, path: str, sealed: IO[bytes], step: int, answer: Mapping[str, Any]) -> dict[str, Any]:
        """Send the next piece of a file at the place and of the size that the last answer names."""
        if self._direct and "put_url" in answer:
            step = whole_number(answer.get("put_bytes"), 1, MAX_PIECE_BYTES, what="size of a piece")
        piece = body = sealed.read(step)
        if self._direct and "put_url" in answer and self._is_put(answer["put_url"], piece):
            path, body = f"{path}&stored={len(piece)}", b""
        return self._asked(lambda: self._session.request("PATCH", path, body, PIECE_MEDIA_TYPE), "piece of an update")

    def _is_put(self, address: object, piece: bytes) -> bool:
        try:
            self._session.put_at_store(str(address), piece)
        except (ServerUnreachable, Refusal) as failure:  # no word of the store's is the server's
            log.info("blob_store_not_used", because=str(failure))
            self._direct = False
        return self._direct


def _offset(answer: Mapping[str, Any], kept: KeptUpdate) -> int:
    return whole_number(answer.get("offset"), 0, kept.sealed_bytes - 1, what="upload's offset")


def _piece_bytes(answer: Mapping[str, Any]) -> int:
    return min(whole_number(answer.get("piece_bytes"), 1, 1 << 40, what="size of a piece"), MAX_PIECE_BYTES)

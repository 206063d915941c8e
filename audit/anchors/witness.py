"""An anchor that has a witness cosign checkpoints (C2SP tlog-witness, `add-checkpoint`; tlog-cosignature)."""

import re
from base64 import b64encode
from dataclasses import dataclass

import httpx

from audit.anchors.interface import AnchorError
from audit.services import consistency_proof
from qflare_protocol.checkpoint import Checkpoint, parse_verifier_key, verify_cosigned_by
from qflare_protocol.errors import Refusal

TIMEOUT_SECONDS = 15
_SIZE_MEDIA_TYPE = "text/x.tlog.size"
MAX_ANSWER_BYTES = 64 * 1024


@dataclass(frozen=True)
class Witness:
    """A witness at `url` whose verifier key (ML-DSA-44 cosignature) is known; the receipt is its signature lines."""

    url: str
    key: str
    transport: httpx.BaseTransport | None = None

    def publish(self, note: str) -> bytes:
        """Submit the note with a proof from what the witness has cosigned last. Raises `AnchorError`."""
        answer = self._add(note, 0)
        if answer.status_code == 409:
            answer = self._add(note, self._size_of(answer, note))
            if answer.status_code in (409, 422):
                raise AnchorError(f"The witness {self.url} has cosigned another log than this one.")
        if answer.status_code != 200:
            raise AnchorError(f"The witness {self.url} answered {answer.status_code} to add-checkpoint.")
        self.verify(answer.content, note)
        return answer.content

    def verify(self, receipt: bytes, note: str) -> None:
        """Check that the witness has cosigned this note. Raises `AnchorError`."""
        try:
            name, verifier = parse_verifier_key(self.key)
            verify_cosigned_by(note + receipt.decode(), verifier, name)
        except (Refusal, UnicodeDecodeError) as error:
            detail = error.detail if isinstance(error, Refusal) else "it is not text"
            raise AnchorError(f"The cosignature of the witness {self.url} does not hold: {detail}") from error

    def _add(self, note: str, old: int) -> httpx.Response:
        size = Checkpoint.parse(note.rpartition("\n\n")[0] + "\n").size
        proof = consistency_proof(old, size) if 0 < old < size else []
        lines = [f"old {old}", *(b64encode(value).decode("ascii") for value in proof), "", note]
        try:
            with httpx.Client(timeout=TIMEOUT_SECONDS, transport=self.transport) as client:
                answer = client.post(f"{self.url.rstrip('/')}/add-checkpoint", content="\n".join(lines).encode())
        except httpx.HTTPError as error:
            raise AnchorError(f"The witness {self.url} cannot be reached: {error}.") from error
        if len(answer.content) > MAX_ANSWER_BYTES:
            raise AnchorError(f"The witness {self.url} answered at endless length.")
        return answer

    def _size_of(self, answer: httpx.Response, note: str) -> int:
        """Return the size that the witness has cosigned last, which it states in a 409."""
        size = Checkpoint.parse(note.rpartition("\n\n")[0] + "\n").size
        media_type = answer.headers.get("Content-Type", "").partition(";")[0]
        if media_type != _SIZE_MEDIA_TYPE or not re.fullmatch(r"(0|[1-9][0-9]{0,17})\n", answer.text):
            raise AnchorError(f"The witness {self.url} does not state a size in its 409.")
        if int(answer.text) > size:
            raise AnchorError(f"The witness {self.url} has cosigned a longer log, of {int(answer.text)} entries.")
        return int(answer.text)

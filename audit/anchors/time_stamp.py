"""An anchor that has a time-stamp authority sign when a checkpoint existed (RFC 3161)."""

from dataclasses import dataclass
from pathlib import Path

import httpx
from cryptography import x509
from rfc3161_client import (
    HashAlgorithm,
    TimestampRequestBuilder,
    VerificationError,
    VerifierBuilder,
    decode_timestamp_response,
)

from audit.anchors.interface import AnchorError

TIMEOUT_SECONDS = 15
MAX_ANSWER_BYTES = 64 * 1024


@dataclass(frozen=True)
class TimeStampAuthority:
    """An authority at `url` whose root certificates lie in the PEM file `roots`; the receipt is its whole answer.

    Every authority of today signs with RSA or elliptic curves: the stamp is not safe against quantum computers.
    """

    url: str
    roots: Path
    transport: httpx.BaseTransport | None = None

    def publish(self, note: str) -> bytes:
        """Have the note stamped. Raises `AnchorError`."""
        builder = TimestampRequestBuilder().data(note.encode()).hash_algorithm(HashAlgorithm.SHA256)
        request = builder.nonce(nonce=True).cert_request(cert_request=True).build()
        headers = {"Content-Type": "application/timestamp-query"}
        try:
            with httpx.Client(timeout=TIMEOUT_SECONDS, transport=self.transport) as client:
                answer = client.post(self.url, content=request.as_bytes(), headers=headers)
        except httpx.HTTPError as error:
            raise AnchorError(f"The time-stamp authority {self.url} cannot be reached: {error}.") from error
        if answer.status_code != 200 or len(answer.content) > MAX_ANSWER_BYTES:
            raise AnchorError(f"The time-stamp authority {self.url} answered {answer.status_code}.")
        self._verify(answer.content, note, nonce=request.nonce)
        return answer.content

    def verify(self, receipt: bytes, note: str) -> None:
        """Check the stamp's signature, its certificates up to a root, and that it is of this note."""
        self._verify(receipt, note, nonce=None)

    def _verify(self, receipt: bytes, note: str, *, nonce: int | None) -> None:
        try:
            builder = VerifierBuilder(roots=x509.load_pem_x509_certificates(self.roots.read_bytes()), nonce=nonce)
            builder.build().verify_message(decode_timestamp_response(receipt), note.encode())
        except (VerificationError, ValueError, OSError) as error:
            raise AnchorError(f"The time stamp of {self.url} does not hold: {error}") from error

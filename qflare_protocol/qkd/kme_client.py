"""The client of ETSI GS QKD 014 V1.1.1: an SAE fetches keys from its own KME over mutual TLS.

One connection serves one request. Redirects are not followed and proxies not asked; an answer is
read up to a bound and up to a deadline, however slowly its bytes arrive.
"""

import http.client
import ssl
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from qflare_protocol.qkd import etsi014
from qflare_protocol.qkd.errors import QkdUnavailable
from qflare_protocol.qkd.etsi014 import DEFAULT_KEY_BITS, MAX_KEY_BITS, MAX_KEYS, MIN_KEY_BITS, KmeStatus, QkdKey

DEFAULT_TIMEOUT_SECONDS = 5.0
# Of TLS 1.2 only what has forward secrecy and an AEAD; TLS 1.3 has nothing else.
_TLS12_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


class KmeClient:
    """One SAE's way to its KME.

    `sae_certificate` and `sae_key` are PEM files, the key without a passphrase; `ca` is the PEM file
    of the only authority that is believed, and the host name of the URL must be the certificate's.
    `timeout` bounds a request from its connection on, in seconds, and before that the connection to each address
    of the host. Every failure is `QkdUnavailable`, from the constructor too.
    """

    def __init__(
        self,
        base_url: str,
        sae_certificate: Path,
        sae_key: Path,
        ca: Path,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> None:
        self._host, self._port = kme_address(base_url)
        self._tls = _tls_context(sae_certificate, sae_key, ca)
        self._timeout = timeout

    def status(self, peer_sae_id: str) -> KmeStatus:
        """Return what the KME says of the link to that SAE."""
        return etsi014.read_status(self._ask("GET", peer_sae_id, "status"))

    def enc_keys(self, peer_sae_id: str, number: int = 1, size_bits: int = DEFAULT_KEY_BITS) -> list[QkdKey]:
        """Return fresh keys as the master; the slave `peer_sae_id` can fetch each of them once by its id."""
        if not 1 <= number <= MAX_KEYS or not MIN_KEY_BITS <= size_bits <= MAX_KEY_BITS or size_bits % 8:
            raise QkdUnavailable(
                f"Ask for 1 to {MAX_KEYS} keys of {MIN_KEY_BITS} to {MAX_KEY_BITS} bits, a multiple of 8."
            )
        body = etsi014.write_key_request(etsi014.KeyRequest(number, size_bits))
        answer = self._ask("POST", peer_sae_id, "enc_keys", body)
        return etsi014.read_key_container(answer, number=number, size_bits=size_bits)

    def dec_keys(
        self, peer_sae_id: str, key_ids: Sequence[uuid.UUID], size_bits: int = DEFAULT_KEY_BITS
    ) -> list[QkdKey]:
        """Return, as the slave, the keys that the master `peer_sae_id` was given, in the order of their ids."""
        if not 1 <= len(key_ids) <= MAX_KEYS or len(set(key_ids)) != len(key_ids):
            raise QkdUnavailable(f"Ask for 1 to {MAX_KEYS} different key ids.")
        answer = self._ask("POST", peer_sae_id, "dec_keys", etsi014.write_key_ids(key_ids))
        keys = etsi014.read_key_container(answer, number=len(key_ids), size_bits=size_bits)
        by_id = {key.key_id: key for key in keys}
        if set(by_id) != set(key_ids):
            raise QkdUnavailable("The KME gave other keys than those whose ids were named.")
        return [by_id[key_id] for key_id in key_ids]

    def _ask(self, method: str, peer_sae_id: str, operation: str, body: bytes | None = None) -> bytes:
        path = f"/api/v1/keys/{quote(etsi014.check_sae_id(peer_sae_id), safe='')}/{operation}"
        try:
            status, answer = self._exchange(method, path, body)
        except ssl.SSLCertVerificationError as error:
            raise QkdUnavailable(f"The KME's certificate does not hold: {error.verify_message}.") from error
        except ssl.SSLError as error:
            raise QkdUnavailable(f"TLS with the KME failed: {error.reason or 'no reason given'}.") from error
        except (OSError, http.client.HTTPException) as error:
            raise QkdUnavailable(f"The KME cannot be reached: {type(error).__name__}.") from error
        if status != http.HTTPStatus.OK:
            raise QkdUnavailable(f"The KME refused with status {status}: {_reason_in(answer)}")
        return answer

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        deadline = time.monotonic() + self._timeout
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout, context=self._tls)
        headers = {"Accept": "application/json"} | ({"Content-Type": "application/json"} if body else {})
        try:
            connection.connect()
            tls_socket: Any = connection.sock  # a _DeadlineSocket: the context makes no other
            tls_socket.deadline = deadline
            connection.request(method, path, body=body, headers=headers)
            with connection.getresponse() as response:
                answer = response.read(etsi014.MAX_MESSAGE_BYTES + 1)
                if len(answer) > etsi014.MAX_MESSAGE_BYTES:
                    raise QkdUnavailable(f"The KME's answer is longer than {etsi014.MAX_MESSAGE_BYTES} bytes.")
                if response.length:
                    raise QkdUnavailable("The KME's answer was cut off.")
                return response.status, answer
        finally:
            connection.close()


def kme_address(base_url: str) -> tuple[str, int]:
    """Return host and port of a KME's URL, https://host or https://host:port. Raises `QkdUnavailable`."""
    try:
        parts = urlsplit(base_url)
        host, port = parts.hostname, parts.port or 443
    except ValueError:
        host, port = None, 0
    spare = host and (parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc)
    if not host or parts.scheme != "https" or spare:
        raise QkdUnavailable("The KME's address must be https://host or https://host:port and nothing more.")
    return host, port


class _DeadlineSocket(ssl.SSLSocket):
    """A TLS socket whose reads end at a deadline in all; the timeout alone starts anew with each byte."""

    deadline: float | None = None

    def recv_into(self, *arguments: Any, **options: Any) -> int:
        if self.deadline is not None:
            remaining = self.deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError("the deadline has passed")
            self.settimeout(remaining)
        return super().recv_into(*arguments, **options)


def _tls_context(certificate: Path, private_key: Path, ca: Path) -> ssl.SSLContext:
    """Return a context that checks host name and certificate against `ca` alone and shows our certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS12_CIPHERS)
    context.sslsocket_class = _DeadlineSocket
    try:
        context.load_verify_locations(cafile=ca)
    except OSError as error:
        raise QkdUnavailable(f"The KME's authority {ca} cannot be read as PEM.") from error
    try:
        # The passphrase is stated so that OpenSSL does not ask a terminal for one.
        context.load_cert_chain(certificate, private_key, password="")  # noqa: S106 - there is none
    except OSError as error:
        raise QkdUnavailable(
            f"The SAE's certificate {certificate} and its private key {private_key} cannot be used together."
        ) from error
    return context


def _reason_in(answer: bytes) -> str:
    try:
        return etsi014.read_error(answer).message
    except QkdUnavailable:
        return "it gave no reason."

"""Enrol this device: make its keys, prove them, and keep what the server confirms."""

from edge_client.backoff import Backoff, retrying
from edge_client.handshaking import succession_of
from edge_client.http import Http
from edge_client.key_store import DeviceIdentity
from qflare_protocol.device_keys import generate_device_keypair
from qflare_protocol.enrolment import EnrolmentClient, EnrolmentToken
from qflare_protocol.fields import bytes_field
from qflare_protocol.suites import DEFAULT_SUITE


def enroll_device(http: Http, server: str, token_text: str, name: str, *, suite: str = DEFAULT_SUITE) -> DeviceIdentity:
    """Use a one-time token and return the new identity; nothing is kept of a refused enrolment.

    Raises `Refusal` as docs/protocol.md lists for enrolment, `ServerUnreachable`.
    """
    token = EnrolmentToken.from_text(token_text)
    keys = generate_device_keypair(suite)
    exchange = EnrolmentClient(token, name, keys)
    challenge = http.post_cbor("/api/enroll", {"begin": exchange.begin})
    attempt, sealed_token = exchange.finish(bytes_field(challenge, "challenge"), succession_of(challenge))
    confirmation = _finish(http, attempt, sealed_token)
    enrolled = exchange.complete(confirmation)
    return DeviceIdentity(
        server, enrolled.device_id, enrolled.name, keys, enrolled.identity, enrolled.log_origin, enrolled.log_key
    )


def _finish(http: Http, attempt: bytes, sealed_token: bytes) -> bytes:
    """Send E3 until it is answered: the token dies at the first, the same E3 gets the same E4."""
    message = {"attempt": attempt, "sealed_token": sealed_token}
    answer = retrying(
        lambda: http.post_cbor("/api/enroll", message), backoff=Backoff(attempts=8), what="finish enrolment"
    )
    return bytes_field(answer, "confirmation")

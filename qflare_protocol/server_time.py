"""The server's signed time, for a device whose message was refused for its time (docs/protocol.md, "Clocks")."""

from qflare_protocol.cose import Signer, Verifier, sign1, verify1
from qflare_protocol.encoding import digest
from qflare_protocol.fields import require_map, unsigned_field


def sign_server_time(identity: Signer, *, bound_to: bytes, now: float) -> bytes:
    """Return the signed server time, milliseconds, bound to the message that was refused for its time."""
    return sign1(
        identity, {"server_time": int(now * 1000)}, purpose="server time", bound_to=digest("refused", bound_to)
    )


def read_server_time(server: Verifier, signed: bytes, *, bound_to: bytes) -> float:
    """Return the server's Unix time in seconds from a signed skew answer to one's own message.

    Raises `Refusal`: "invalid-signature" where another key signed it or it answers another message,
    "malformed-message".
    """
    payload = verify1(server, signed, purpose="server time", bound_to=digest("refused", bound_to))
    return unsigned_field(require_map(payload, frozenset({"server_time"}), "server time"), "server_time") / 1000


def request_reference(session_id: bytes, epoch: int, sequence: int) -> bytes:
    """Return what a signed server time is bound to when a sealed request is refused for its epoch."""
    return digest("epoch refusal", session_id, epoch.to_bytes(8, "big"), sequence.to_bytes(8, "big"))

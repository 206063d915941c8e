"""The server's signed time, for a message that it refuses for its time."""

import base64
from collections.abc import Sequence
from datetime import datetime

from keyring.services import server_identity
from qflare_protocol.errors import Refusal
from qflare_protocol.server_time import sign_server_time


def with_server_time(
    refusal: Refusal, suite: str, message: bytes, *, now: datetime, succession: Sequence[bytes] = ()
) -> Refusal:
    """Add the signed server time for a message that is refused for its time, and who signed it where that changed."""
    signed = sign_server_time(server_identity(suite), bound_to=message, now=now.timestamp())
    refusal.extensions["signed_server_time"] = base64.urlsafe_b64encode(signed).decode()
    if succession:
        refusal.extensions["identity_succession"] = [base64.urlsafe_b64encode(step).decode() for step in succession]
    return refusal

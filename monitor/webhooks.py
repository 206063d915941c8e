"""A webhook's message, signed as the Standard Webhooks specification 1.0 says, with HMAC-SHA256."""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime

import httpx
from django.conf import settings

TIMEOUT_SECONDS = 4


class NotDelivered(Exception):  # noqa: N818 - a receiver that does not answer is a normal outcome, not an error
    """The receiver did not take the message; the text says why and names no address."""


def signature(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """Return `v1,` and the base64 of HMAC-SHA256 over id, time and body, divided by full stops."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def headers_of(key: bytes, message_id: str, body: bytes, *, now: datetime) -> Mapping[str, str]:
    """Return the headers by which the receiver knows who sent this, when, and whether it has it already."""
    timestamp = int(now.timestamp())
    return {
        "Content-Type": "application/json",
        "User-Agent": "qflare-monitor",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(key, message_id, timestamp, body),
    }


def send(url: str, key: bytes, message_id: str, body: bytes, *, now: datetime) -> None:
    """Send a message. Raises `NotDelivered` for everything but a success of the receiver itself.

    A redirect is not followed, because it would send the message where no operator has said; the
    answer's body is not read.
    """
    if not url.startswith("https://") and not settings.QFLARE_INSECURE_HTTP:
        raise NotDelivered("plain HTTP is not allowed")
    headers = headers_of(key, message_id, body, now=now)
    try:
        with (
            httpx.Client(timeout=TIMEOUT_SECONDS, follow_redirects=False) as client,
            client.stream("POST", url, content=body, headers=headers) as answer,
        ):
            status = answer.status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NotDelivered(type(error).__name__) from error
    if not 200 <= status < 300:
        raise NotDelivered(f"status {status}")

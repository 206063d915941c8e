"""Framed messages between the sealed process and its courier: 4-byte length || deterministic CBOR map."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from qflare_protocol.encoding import decode, encode
from qflare_protocol.errors import Refusal

MAX_MESSAGE_BYTES = 1 << 26
MAX_REQUEST_BYTES = 1 << 29
MAX_DEVICES_OF_A_ROUND = 50_000
"""A request names every device of its round: with 1.4 kB of the roster, 2.8 kB of an update, or 5.3 kB where it brings
all metrics it may, and 0.2 kB of a carried row. So many fit, and stay below the most items of one encoding."""


class ChannelClosed(Exception):  # noqa: N818 - an event, not an error: the other side has gone
    """The other side has closed the channel."""


class Channel:
    """Send and receive maps over a byte stream given as two functions.

    `read` returns between 1 and n bytes, or none at the end; `write` writes some and returns how
    many, as os.read and os.write do. Messages have up to `reads` and `sends` bytes: requests may be longer.
    """

    def __init__(
        self,
        read: Callable[[int], bytes],
        write: Callable[[memoryview], int],
        *,
        reads: int = MAX_MESSAGE_BYTES,
        sends: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._read, self._write = read, write
        self._reads, self._sends = reads, sends

    @classmethod
    def over_descriptor(cls, descriptor: int) -> "Channel":
        """The sealed process's channel, over an inherited descriptor: what it reads is a request."""
        return cls(
            lambda size: os.read(descriptor, size), lambda data: os.write(descriptor, data), reads=MAX_REQUEST_BYTES
        )

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message. Raises `Refusal("message-too-large")`."""
        body = encode(dict(message))
        if len(body) > self._sends:
            raise Refusal("message-too-large", f"A channel message has at most {self._sends} bytes.")
        data = memoryview(len(body).to_bytes(4, "big") + body)
        while data:
            data = data[self._write(data) :]

    def receive(self) -> dict[str, Any]:
        """Return the next message. Raises `ChannelClosed`, or `Refusal("malformed-message")`."""
        length = int.from_bytes(self._exactly(4), "big")
        if length > self._reads:
            raise Refusal("malformed-message", f"A channel message has at most {self._reads} bytes.")
        message = decode(self._exactly(length), what="channel message", maximum_bytes=self._reads)
        if not isinstance(message, dict):
            raise Refusal("malformed-message", "A channel message is a map.")
        return message

    def _exactly(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size:
            part = self._read(min(size, 1 << 20))
            if not part:
                raise ChannelClosed
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

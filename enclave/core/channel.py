"""Framed messages between the sealed process and its courier: 4-byte length || deterministic CBOR map."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from qflare_protocol.encoding import decode, encode
from qflare_protocol.errors import Refusal

MAX_MESSAGE_BYTES = 1 << 26


class ChannelClosed(Exception):  # noqa: N818 - an event, not an error: the other side has gone
    """The other side has closed the channel."""


class Channel:
    """Send and receive maps over a byte stream given as two functions.

    `read` returns between 1 and n bytes, or none at the end; `write` writes some and returns how
    many, as os.read and os.write do.
    """

    def __init__(self, read: Callable[[int], bytes], write: Callable[[memoryview], int]) -> None:
        self._read = read
        self._write = write

    @classmethod
    def over_descriptor(cls, descriptor: int) -> "Channel":
        """A channel over an inherited descriptor."""
        return cls(lambda size: os.read(descriptor, size), lambda data: os.write(descriptor, data))

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message. Raises `Refusal("message-too-large")`."""
        body = encode(dict(message))
        if len(body) > MAX_MESSAGE_BYTES:
            raise Refusal("message-too-large", f"A channel message has at most {MAX_MESSAGE_BYTES} bytes.")
        data = memoryview(len(body).to_bytes(4, "big") + body)
        while data:
            data = data[self._write(data) :]

    def receive(self) -> dict[str, Any]:
        """Return the next message. Raises `ChannelClosed`, or `Refusal("malformed-message")`."""
        length = int.from_bytes(self._exactly(4), "big")
        if length > MAX_MESSAGE_BYTES:
            raise Refusal("malformed-message", f"A channel message has at most {MAX_MESSAGE_BYTES} bytes.")
        message = decode(self._exactly(length), what="channel message", maximum_bytes=MAX_MESSAGE_BYTES)
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

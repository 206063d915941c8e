"""Key epochs: one chain key per 5-minute bucket, and what of the past is still kept.

`ck[e+1] = HKDF-Expand(ck[e], "next epoch", e+1)` and ck[e] is then forgotten, so that a stolen
state opens nothing of an earlier epoch. Of the epoch just left only its traffic key stays, for a
grace of 30 seconds (docs/protocol.md, "Epochs").
"""

from dataclasses import dataclass, field, replace

from qflare_protocol.encoding import decode, encode
from qflare_protocol.errors import Refusal
from qflare_protocol.kdf import expand

BUCKET_SECONDS = 300
GRACE_SECONDS = 30


@dataclass(frozen=True)
class SessionLimits:
    """What one key exchange may protect; a fresh handshake is due when any of it is used up."""

    requests: int = 64
    transfer_bytes: int = 256 * 1024 * 1024
    epochs: int = 3
    lifetime_seconds: int = 3600


def bucket_of(time_seconds: float) -> int:
    """Return the number of the 5-minute bucket that holds a Unix time."""
    return int(time_seconds) // BUCKET_SECONDS


def _number(value: int) -> bytes:
    return value.to_bytes(8, "big")


@dataclass(frozen=True)
class EpochChain:
    """The keys of the current epoch and, during its grace, the traffic key of the one before."""

    epoch: int
    chain_key: bytes = field(repr=False)
    previous_traffic_key: bytes | None = field(default=None, repr=False)
    previous_until: float = 0.0

    def advance(self, epoch: int, *, now: float) -> "EpochChain":
        """Return the chain at `epoch`, which must not lie behind; keys in between are forgotten."""
        if epoch < self.epoch:
            raise ValueError("A chain never goes back.")
        chain = self
        while chain.epoch < epoch:
            following = chain.epoch + 1
            chain = EpochChain(
                following,
                expand(chain.chain_key, "next epoch", _number(following)),
                chain.derive_key("traffic"),
                following * BUCKET_SECONDS + GRACE_SECONDS,
            )
        return chain.without_stale_keys(now=now)

    def without_stale_keys(self, *, now: float) -> "EpochChain":
        """Return the chain without the previous traffic key once its grace is over."""
        if self.previous_traffic_key is not None and now >= self.previous_until:
            return replace(self, previous_traffic_key=None, previous_until=0.0)
        return self

    def traffic_key(self, epoch: int, *, now: float) -> bytes:
        """Return the key for a message of `epoch`: the current one, or the previous in its grace.

        Raises `Refusal("epoch-expired")` for every other epoch.
        """
        if epoch == self.epoch:
            return self.derive_key("traffic")
        if epoch == self.epoch - 1 and self.previous_traffic_key is not None and now < self.previous_until:
            return self.previous_traffic_key
        raise Refusal("epoch-expired", "The message's epoch is over; take the signed server time and send it again.")

    def derive_key(self, purpose: str) -> bytes:
        """Return the 32-byte key of this epoch for one purpose, such as "traffic" or "export"."""
        return expand(self.chain_key, f"epoch {purpose}", _number(self.epoch))

    def to_bytes(self) -> bytes:
        """Serialise for storage under a wrapping key."""
        return encode([self.epoch, self.chain_key, self.previous_traffic_key, int(self.previous_until)])

    @classmethod
    def from_bytes(cls, data: bytes) -> "EpochChain":
        """Read what `to_bytes` wrote."""
        epoch, chain_key, previous, until = decode(data, what="epoch chain")
        return cls(epoch, chain_key, previous, float(until))


def receive_epoch(chain: EpochChain, epoch: int, *, now: float) -> tuple[EpochChain, bytes]:
    """Return the chain moved to the server's clock and the traffic key for a message of `epoch`.

    The chain follows the larger of the server's bucket and the message's epoch, which may run ahead
    by one bucket at most. Raises `Refusal("epoch-expired")` for an epoch outside that window.
    """
    current = bucket_of(now)
    if epoch > current + 1:
        raise Refusal("epoch-expired", "The message's epoch lies ahead; take the signed server time and send it again.")
    moved = chain.advance(max(chain.epoch, current, epoch), now=now)
    return moved, moved.traffic_key(epoch, now=now)

"""Key epochs: one chain key per 5-minute bucket, and what of the past is still kept.

`ck[e+1] = HKDF-Expand(ck[e], "next epoch", e+1)` and ck[e] is then forgotten, so that a stolen
state opens nothing of an earlier epoch. A rekey (`qflare_protocol.rekey`) begins another generation
with a fresh root. Of an epoch or generation just left only its traffic key stays, for a grace of 30
seconds (docs/protocol.md, "Epochs").
"""

from dataclasses import dataclass, field, replace

from qflare_protocol.encoding import decode, encode
from qflare_protocol.errors import Refusal
from qflare_protocol.kdf import expand

BUCKET_SECONDS = 300
GRACE_SECONDS = 30
MAX_PAST_KEYS = 2


@dataclass(frozen=True)
class SessionLimits:
    """What one key exchange may protect before a rekey is due, and how long the whole session may live."""

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
class PastTrafficKey:
    """The traffic key of an epoch and generation that were left, good until a Unix time."""

    generation: int
    epoch: int
    key: bytes = field(repr=False)
    until: float


@dataclass(frozen=True)
class EpochChain:
    """The keys of the current epoch and, during their grace, the traffic keys of what was before.

    `ratchet_key` enters the next rekey; no chain key can be derived from it, nor it from one.
    """

    epoch: int
    chain_key: bytes = field(repr=False)
    ratchet_key: bytes = field(repr=False)
    generation: int = 0
    past: tuple[PastTrafficKey, ...] = ()

    @classmethod
    def begin(
        cls, root: bytes, epoch: int, *, generation: int = 0, past: tuple[PastTrafficKey, ...] = ()
    ) -> "EpochChain":
        """Return the first chain of a generation: its chain and ratchet keys come from the root (64 bytes)."""
        return cls(epoch, expand(root, "chain"), expand(root, "ratchet"), generation, past)

    def advance(self, epoch: int, *, now: float) -> "EpochChain":
        """Return the chain at `epoch`, which must not lie behind; keys in between are forgotten."""
        if epoch < self.epoch:
            raise ValueError("A chain never goes back.")
        chain = self
        while chain.epoch < epoch:
            following = chain.epoch + 1
            chain = replace(
                chain,
                epoch=following,
                chain_key=expand(chain.chain_key, "next epoch", _number(following)),
                past=chain.kept_past(until=following * BUCKET_SECONDS + GRACE_SECONDS),
            )
        return chain.without_stale_keys(now=now)

    def kept_past(self, *, until: float) -> tuple[PastTrafficKey, ...]:
        """Return the past keys with the current traffic key among them, the newest `MAX_PAST_KEYS`."""
        current = PastTrafficKey(self.generation, self.epoch, self.derive_key("traffic"), until)
        return (current, *self.past)[:MAX_PAST_KEYS]

    def without_stale_keys(self, *, now: float) -> "EpochChain":
        """Return the chain without the past traffic keys whose grace is over."""
        return replace(self, past=tuple(key for key in self.past if now < key.until))

    def traffic_key(self, epoch: int, generation: int, *, now: float) -> bytes:
        """Return the key for a message of an epoch and generation: the current ones, or past ones in their grace.

        Raises `Refusal("epoch-expired")` for every other pair.
        """
        if (epoch, generation) == (self.epoch, self.generation):
            return self.derive_key("traffic")
        for past in self.past:
            if (past.epoch, past.generation) == (epoch, generation) and now < past.until:
                return past.key
        raise Refusal("epoch-expired", "The message's epoch is over; take the signed server time and send it again.")

    def derive_key(self, purpose: str) -> bytes:
        """Return the 32-byte key of this epoch for one purpose, such as "traffic" or "export"."""
        return expand(self.chain_key, f"epoch {purpose}", _number(self.epoch))

    def to_bytes(self) -> bytes:
        """Serialise for storage under a wrapping key."""
        past = [[key.generation, key.epoch, key.key, int(key.until)] for key in self.past]
        return encode([self.epoch, self.chain_key, self.ratchet_key, self.generation, past])

    @classmethod
    def from_bytes(cls, data: bytes) -> "EpochChain":
        """Read what `to_bytes` wrote."""
        epoch, chain_key, ratchet_key, generation, past = decode(data, what="epoch chain")
        return cls(epoch, chain_key, ratchet_key, generation, tuple(PastTrafficKey(*key) for key in past))


def receive_epoch(chain: EpochChain, epoch: int, generation: int, *, now: float) -> tuple[EpochChain, bytes]:
    """Return the chain moved to the server's clock and the traffic key for a message of an epoch and generation.

    The chain follows the larger of the server's bucket and the message's epoch, which may run ahead
    by one bucket at most. Raises `Refusal("epoch-expired")` for an epoch outside that window and for a
    generation that is over or not yet begun.
    """
    current = bucket_of(now)
    if epoch > current + 1:
        raise Refusal("epoch-expired", "The message's epoch lies ahead; take the signed server time and send it again.")
    moved = chain.advance(max(chain.epoch, current, epoch), now=now)
    return moved, moved.traffic_key(epoch, generation, now=now)

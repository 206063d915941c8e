"""Which columns of a model a round is about, where its form is a random mask: the same for every device.

    seed  = digest("random mask", federation id, round id, policy digest)
    words = SHAKE256(frame(seed, number of the block as 8 bytes big-endian)), 4 bytes for each column, little-endian

(FIPS 202.) Of a block of 2^14 columns, or of the last one's fewer, those with the smallest words are chosen, of equal
words the first columns. Nobody chooses for himself: rules that compare updates column by column, and every distance
between updates, mean something only where all updates speak of the same columns.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qflare_protocol.encoding import digest, frame
from qflare_protocol.ranges import BLOCK_COLUMNS

_WORD_BYTES = 4
_POSITION_BITS = np.uint64(32)
_POSITION = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True)
class RandomMask:
    """A `fraction` of the columns, above 0 to 1, drawn from a seed of 64 bytes."""

    fraction: float
    seed: bytes

    @classmethod
    def of_round(cls, fraction: float, *, federation_id: bytes, round_id: bytes, policy_digest: bytes) -> "RandomMask":
        """Return the mask of one round under one policy; ids of 16 bytes, the digest of 64."""
        return cls(fraction, digest("random mask", federation_id, round_id, policy_digest))

    def chosen(self, block: int, width: int) -> NDArray[np.intp]:
        """Return, in order, which columns of the block with that number (from 0) and that many columns are chosen."""
        text = hashlib.shake_256(frame(self.seed, block.to_bytes(8, "big"))).digest(_WORD_BYTES * width)
        words = np.frombuffer(text, dtype="<u4").astype(np.uint64) << _POSITION_BITS
        places = words | np.arange(width, dtype=np.uint64)  # all different: equal words are in order of column
        count = chosen_of(width, self.fraction)
        smallest = places if count == width else np.partition(places, count)[:count]
        return np.sort(smallest & _POSITION).astype(np.intp)


def chosen_of(width: int, fraction: float) -> int:
    """Return how many of a block's columns are chosen: the fraction rounded down, at least one."""
    return max(1, math.floor(fraction * width))


def masked_size(size: int, fraction: float) -> int:
    """Return how many of `size` columns are chosen in all."""
    blocks, rest = divmod(size, BLOCK_COLUMNS)
    return blocks * chosen_of(BLOCK_COLUMNS, fraction) + (chosen_of(rest, fraction) if rest else 0)

"""Gaussian noise for differential privacy, from a secret key, so that a repeated round repeats its noise.

A second release of the same sum under fresh noise would halve the first one's: the key is made
inside, per round, and the inputs are recorded, so that a successor releases the very same numbers.
"""

import math
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from enclave.core.rules.part import Need, Part, Registry, parameter

NORMALS_PER_VALUE = 4
NOISE_STARTS_AT = 1
"""The first normal value of a round's seed goes to the count of the quantile clipping, those after it to the model."""

_BLOCKS_PER_VALUE = NORMALS_PER_VALUE * 8 // 16

Float64 = NDArray[np.float64]


class Noise(Part):
    """What is added to the sum of clipped updates."""

    needs = Need.COORDINATES

    def tolerates(self, rows: int) -> int:
        """Return all: it sees the aggregate only."""
        return rows


NOISES: Registry[Noise] = Registry("noise")


@NOISES.register
@dataclass(frozen=True)
class NoNoise(Noise):
    """Adds nothing."""

    name = "none"
    source = "no differential privacy"
    needs = Need.NOTHING


@NOISES.register
@dataclass(frozen=True)
class GaussianNoise(Noise):
    """The Gaussian mechanism on the sum of clipped updates, which is then divided by the expected cohort.

    `noise_multiplier` is the standard deviation over the clipping radius, of the release as a whole;
    `expected_cohort` is a public number that does not depend on who came.
    """

    name = "gaussian"
    source = "McMahan, Ramage, Talwar, Zhang: Learning Differentially Private Recurrent Language Models, ICLR 2018"

    noise_multiplier: float = parameter(1.0, 1e-3, 1e3)
    expected_cohort: int = parameter(100, 1, 10**7)


def standard_normals(key: bytes, start: int, count: int) -> Float64:
    """Return standard normal values number `start` to `start + count` of the stream of a 32-byte key.

    Each is the sum of four Box-Muller values over two, against attacks on floating-point noise
    (Holohan, Braghin: Secure Random Sampling in Differential Privacy, 2021). The uniform numbers are
    AES-256-CTR output with 53 bits each.
    """
    counter = (start * _BLOCKS_PER_VALUE).to_bytes(16, "big")
    stream = Cipher(algorithms.AES256(key), modes.CTR(counter)).encryptor().update(bytes(count * NORMALS_PER_VALUE * 8))
    words = np.frombuffer(stream, dtype="<u8").reshape(count, NORMALS_PER_VALUE) >> np.uint64(11)
    uniform = words.astype(np.float64) * 2.0**-53
    radius = np.sqrt(-2.0 * np.log1p(-uniform[:, :2]))
    angle = 2.0 * math.pi * uniform[:, 2:]
    values: Float64 = (radius * (np.cos(angle) + np.sin(angle))).sum(axis=1) / math.sqrt(NORMALS_PER_VALUE)
    return values

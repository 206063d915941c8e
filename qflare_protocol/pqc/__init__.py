"""Post-quantum algorithms by their FIPS and ISO names, served by whichever engine is present.

There is no fallback to weaker algorithms and none to random bytes: an algorithm that no engine
serves is refused with `algorithm-unavailable`.
"""

from qflare_protocol.pqc.interface import KemAlgorithm, KeyPair, SignatureAlgorithm
from qflare_protocol.pqc.registry import kem, signature

__all__ = ["KemAlgorithm", "KeyPair", "SignatureAlgorithm", "kem", "signature"]

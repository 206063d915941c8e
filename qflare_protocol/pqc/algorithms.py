"""The algorithms of QF/1 by their FIPS, ISO and IETF names, with their exact sizes in bytes.

The table says nothing about who serves an algorithm here: that is `registry`. Sizes are those of
docs/protocol.md, section 2. A private key is a seed where the algorithm has one.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class KemParameters:
    """A key encapsulation mechanism: sizes in bytes, and the parts of which its keys are put together.

    `public_key_parts` and `private_key_parts` are the lengths of parts that must not be all zeros, in
    their order; the empty tuple stands for one part, the whole key.
    """

    name: str
    private_key_bytes: int
    public_key_bytes: int
    ciphertext_bytes: int
    shared_secret_bytes: int
    public_key_parts: tuple[int, ...] = ()
    private_key_parts: tuple[int, ...] = ()


@dataclass(frozen=True)
class SignatureParameters:
    """A signature scheme: sizes in bytes and its COSE algorithm number."""

    name: str
    private_key_bytes: int
    public_key_bytes: int
    signature_bytes: int
    cose_algorithm: int


KEMS: dict[str, KemParameters] = {
    kem.name: kem
    for kem in (
        KemParameters("ML-KEM-768", 64, 1184, 1088, 32),
        KemParameters("ML-KEM-1024", 64, 1568, 1568, 32),
        # A public key is the seed of the matrix A and the packed matrix B.
        KemParameters("FrodoKEM-640-AES", 19888, 9616, 9752, 16, public_key_parts=(16, 9600)),
        KemParameters("FrodoKEM-976-AES", 31296, 15632, 15792, 24, public_key_parts=(16, 15616)),
        KemParameters("FrodoKEM-1344-AES", 43088, 21520, 21696, 32, public_key_parts=(16, 21504)),
        # A public key is the ML-KEM key and the X25519 key, or the point on P-384.
        KemParameters("X-Wing", 32, 1216, 1120, 32, public_key_parts=(1184, 32)),
        KemParameters("MLKEM1024-P384", 112, 1665, 1665, 32, public_key_parts=(1568, 97), private_key_parts=(64, 48)),
        KemParameters("Classic-McEliece-6960119", 13948, 1047319, 194, 32),
    )
}

SIGNATURES: dict[str, SignatureParameters] = {
    signature.name: signature
    for signature in (
        SignatureParameters("ML-DSA-44", 32, 1312, 2420, -48),
        SignatureParameters("ML-DSA-65", 32, 1952, 3309, -49),
        SignatureParameters("ML-DSA-87", 32, 2592, 4627, -50),
        # IANA has no number for SLH-DSA yet: one of the private range, below -65536 (RFC 9053, section 2.1).
        SignatureParameters("SLH-DSA-SHA2-128f", 64, 32, 17088, -70205),
    )
}

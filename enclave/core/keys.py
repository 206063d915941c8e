"""The round's private keys: made inside, leaving only wrapped, opened by a successor of the same code.

The wrapping key is HKDF-SHA3-512 over the round's sealing key (which never leaves the enclave host)
with the code measurement, the policy digest, the round and the federation: other code or another
policy derives another key.
"""

import os
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from qflare_protocol import hpke, pqc
from qflare_protocol.attestation.evidence import SIGNATURE_ALGORITHM, enclave_key_id
from qflare_protocol.cose import Signer
from qflare_protocol.encoding import decode, encode, frame, label
from qflare_protocol.errors import Refusal

NONCE_BYTES = 12
SEED_BYTES = 32
MAX_WRAPPED_BYTES = 1024


@dataclass(frozen=True)
class RoundKeys:
    """The HPKE private key that updates are sealed to, the signer of the result, and 32 bytes that seeds come from."""

    hpke_private: bytes = field(repr=False)
    hpke_public: bytes
    result_signer: Signer
    seed_key: bytes = field(repr=False)

    @property
    def key_id(self) -> bytes:
        """The 32-byte id of both public keys."""
        return enclave_key_id(self.hpke_public, self.result_signer.public)

    def seed(self, inputs: bytes) -> bytes:
        """Return 32 bytes that nobody outside can know and that the round's committed inputs fix.

        Buckets and noise are drawn from it, so that a repeated aggregation repeats them.
        """
        info = frame(label("round seed"), inputs)
        return HKDF(hashes.SHA3_512(), SEED_BYTES, salt=None, info=info).derive(self.seed_key)


@dataclass(frozen=True)
class WrappingContext:
    """What the wrapping key is derived for: sealing key (32 bytes), measurement and policy digest (64), ids (16)."""

    sealing_key: bytes = field(repr=False)
    measurement: bytes
    policy_digest: bytes
    federation_id: bytes
    round_id: bytes

    def cipher(self, purpose: bytes = label("round key wrap")) -> AESGCM:
        """Return AES-256-GCM under the key derived for what the label says."""
        info = frame(purpose, self.measurement, self.policy_digest, self.federation_id, self.round_id)
        return AESGCM(HKDF(hashes.SHA3_512(), 32, salt=None, info=info).derive(self.sealing_key))


def generate_round_keys() -> RoundKeys:
    """Make fresh keys for one round."""
    sealing = hpke.generate()
    result = pqc.signature(SIGNATURE_ALGORITHM).generate()
    signer = Signer(SIGNATURE_ALGORITHM, result.private, result.public)
    return RoundKeys(sealing.private, sealing.public, signer, os.urandom(SEED_BYTES))


def wrap_keys(keys: RoundKeys, context: WrappingContext) -> bytes:
    """Return the private keys encrypted for a successor with the same code, policy and round."""
    secret = encode(
        {"hpke_private": keys.hpke_private, "result_seed": keys.result_signer.private, "seed_key": keys.seed_key}
    )
    nonce = os.urandom(NONCE_BYTES)
    return nonce + context.cipher().encrypt(nonce, secret, None)


def unwrap_keys(wrapped: bytes, context: WrappingContext) -> RoundKeys:
    """Return the keys. Raises `Refusal("decryption-failed")` under other code, policy, round or sealing key."""
    try:
        secret = context.cipher().decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:MAX_WRAPPED_BYTES], None)
    except (InvalidTag, ValueError) as error:
        raise Refusal(
            "decryption-failed", "The round's wrapped keys do not open under this code, policy and sealing key."
        ) from error
    members: dict[str, Any] = decode(secret, what="wrapped keys")
    seed = members["result_seed"]
    signer = Signer(SIGNATURE_ALGORITHM, seed, pqc.signature(SIGNATURE_ALGORITHM).public_key(seed))
    private = members["hpke_private"]
    return RoundKeys(private, hpke.public_key(private), signer, members["seed_key"])

"""The steps of a case: each computes one value of the case from others, with the code of qflare_protocol.

A parameter that a function takes as a name says which value of the case to use; `m2.nonce` is the member
`nonce` of the payload of the signed structure `m2`. As a field of a hash a number is u8(number) and a text
its UTF-8 bytes.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from blake3 import blake3
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from qflare_protocol import encoding, hpke, kdf, pqc
from qflare_protocol.cose import Verifier, unverified_payload, verify1
from qflare_protocol.pqc import frodo

Values = Mapping[str, Any]


def value(values: Values, name: str) -> Any:
    """Return a value of the case, or a member of the payload of one of its signed structures."""
    structure, dot, member = name.partition(".")
    return unverified_payload(values[structure], purpose=structure)[member] if dot else values[structure]


def field(values: Values, name: str) -> bytes:
    """Return a value as it enters a frame."""
    found = value(values, name)
    if isinstance(found, int):
        return found.to_bytes(8, "big")
    return found.encode() if isinstance(found, str) else bytes(found)


def perform(step: Mapping[str, Any], values: Values) -> Any:
    """Return what the step gives; None where it only checks. Raises `Refusal` where a signature does not hold."""
    options = {name: option for name, option in step.items() if name not in ("function", "gives")}
    return FUNCTIONS[step["function"]](values, **options)


def _fields(values: Values, inputs: Sequence[str]) -> list[bytes]:
    return [field(values, name) for name in inputs]


def _frame(values: Values, *, inputs: Sequence[str]) -> bytes:
    return encoding.frame(*_fields(values, inputs))


def _labelled_frame(values: Values, *, label: str, inputs: Sequence[str]) -> bytes:
    return encoding.frame(encoding.label(label), *_fields(values, inputs))


def _digest(values: Values, *, label: str, inputs: Sequence[str], length: int = 64) -> bytes:
    return encoding.digest(label, *_fields(values, inputs))[:length]


def _extract(values: Values, *, salt: str, inputs: Sequence[str]) -> bytes:
    return kdf.extract(values[salt], *_fields(values, inputs))


def _expand(values: Values, *, key: str, label: str, inputs: Sequence[str] = (), length: int = 32) -> bytes:
    return kdf.expand(values[key], label, *_fields(values, inputs), length=length)


def _mac(values: Values, *, key: str, label: str, inputs: Sequence[str]) -> bytes:
    return kdf.mac(values[key], label, *_fields(values, inputs))


def _sign1(
    values: Values, *, structure: str, label: str, algorithm: str, key: str, bound_to: str | None = None
) -> None:
    """Check a stored signature: signing is randomised, so it cannot be computed again."""
    binding = values[bound_to] if bound_to else b""
    verify1(Verifier(algorithm, values[key]), values[structure], purpose=label, bound_to=binding)


def _public_key(values: Values, *, algorithm: str, private: str) -> bytes:
    return pqc.signature(algorithm).public_key(values[private])


def _generate(values: Values, *, algorithm: str, randomness: str) -> bytes:
    """The private key that FrodoKEM makes of s || seedSE || z."""
    return frodo.serve_kem(algorithm).generate_from(values[randomness]).private


def _decapsulate(values: Values, *, algorithm: str, private: str, ciphertext: str) -> bytes:
    return pqc.kem(algorithm).decapsulate(values[private], value(values, ciphertext))


def _ecdh(values: Values, *, private: str, point: str) -> bytes:
    scalar = ec.derive_private_key(int.from_bytes(values[private], "big"), ec.SECP384R1())
    return scalar.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), values[point]))


def _aes_256_gcm(values: Values, *, key: str, nonce: str, plaintext: str, aad: str | None = None) -> bytes:
    """The ciphertext with its tag of 16 bytes behind it."""
    return AESGCM(values[key]).encrypt(values[nonce], values[plaintext], values[aad] if aad else None)


def _slice(values: Values, *, input: str, begin: int, end: int | None = None) -> bytes:  # noqa: A002 - the file's word
    return bytes(values[input][begin:end])


def _member(values: Values, *, map: str, member: str) -> bytes:  # noqa: A002 - the file's word
    return bytes(encoding.decode(values[map], what=map)[member])


def _concatenate(values: Values, *, inputs: Sequence[str]) -> bytes:
    return b"".join(values[name] for name in inputs)


def _hkdf(values: Values, *, key: str, info: str, length: int) -> bytes:
    """Plain RFC 5869 over SHA3-512 without a salt."""
    return HKDF(hashes.SHA3_512(), length, salt=None, info=values[info]).derive(values[key])


def _open_hpke(values: Values, *, private: str, info: str, sealed: str) -> bytes:
    return hpke.open_sealed(values[private], values[sealed], info=values[info])


def _shake256(values: Values, *, input: str, length: int) -> bytes:  # noqa: A002 - the file's word
    return hashlib.shake_256(values[input]).digest(length)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "frame": _frame,
    "labelled frame": _labelled_frame,
    "digest": _digest,
    "extract": _extract,
    "expand": _expand,
    "mac": _mac,
    "sign1": _sign1,
    "public key": _public_key,
    "generate": _generate,
    "decapsulate": _decapsulate,
    "ECDH-P384": _ecdh,
    "AES-256-GCM": _aes_256_gcm,
    "slice": _slice,
    "member": _member,
    "concatenate": _concatenate,
    "HKDF-SHA3-512": _hkdf,
    "open HPKE": _open_hpke,
    "SHAKE256": _shake256,
    "SHA3-256": lambda values, *, input: hashlib.sha3_256(values[input]).digest(),  # noqa: A006
    "SHA3-512": lambda values, *, input: hashlib.sha3_512(values[input]).digest(),  # noqa: A006
    "SHA-256": lambda values, *, input: hashlib.sha256(values[input]).digest(),  # noqa: A006
    "BLAKE3": lambda values, *, input: blake3(values[input]).digest(),  # noqa: A006
}

"""HPKE to MLKEM1024-P384, every step of section 2 written out."""

from typing import Any

from qflare_protocol import hpke
from tests.vectors.vector_file import Case, Receiver, Refused, VectorFile

SUITE_ID = b"HPKE" + bytes.fromhex("005100110002")


def make() -> VectorFile:
    """Make the file."""
    rows = (("a content key", b"info of the update", bytes(range(32))), ("nothing, without info", b"", b""))
    cases = [_sealed(*row) for row in rows]
    purpose = "Messages with the private key and every value of the key schedule."
    return VectorFile(purpose, "2 Suites", cases, _refusals(cases[0]))


def _sealed(name: str, info: bytes, plaintext: bytes) -> Case:
    pair = hpke.generate()
    sealed = hpke.seal(pair.public, plaintext, info=info)
    case = Case(name, {"private": pair.private, "public": pair.public, "info": info, "sealed": sealed})
    _add_secrets(case)
    _add_schedule(case, info)
    case.values["plaintext"] = plaintext
    case.step("AES-256-GCM", "ciphertext", key="key", nonce="nonce", plaintext="plaintext")
    case.step("concatenate", "sealed", inputs=["mlkem_ciphertext", "ephemeral_point", "ciphertext"])
    assert case.values["sealed"] == sealed
    case.step("open HPKE", "plaintext", private="private", info="info", sealed="sealed")
    return case


def _add_secrets(case: Case) -> None:
    case.step("slice", "mlkem_private", input="private", begin=0, end=64)
    case.step("slice", "scalar", input="private", begin=64, end=112)
    case.step("slice", "recipient_point", input="public", begin=1568, end=1665)
    case.step("slice", "mlkem_ciphertext", input="sealed", begin=0, end=1568, stored=False)
    case.step("slice", "ephemeral_point", input="sealed", begin=1568, end=1665)
    opened = {"algorithm": "ML-KEM-1024", "private": "mlkem_private", "ciphertext": "mlkem_ciphertext"}
    case.step("decapsulate", "mlkem_secret", **opened)
    case.step("ECDH-P384", "ecdh_x", private="scalar", point="ephemeral_point")
    case.values["name"] = b"MLKEM1024-P384"
    inputs = ["mlkem_secret", "ecdh_x", "ephemeral_point", "recipient_point", "name"]
    case.step("concatenate", "shared_input", inputs=inputs)
    case.step("SHA3-256", "shared", input="shared_input")


def _add_schedule(case: Case, info: bytes) -> None:
    """`input` of section 2: what stands before the shared secret, it, and what stands behind it."""
    before = _lp(b"") + len(case.values["shared"]).to_bytes(2, "big")
    behind = b"HPKE-v1" + SUITE_ID + _lp(b"secret") + bytes.fromhex("006c00") + _lp(b"") + _lp(info)
    case.values |= {"before": before, "behind": behind}
    case.step("concatenate", "input", inputs=["before", "shared", "behind"])
    case.step("SHAKE256", "secret", input="input", length=108)
    case.step("slice", "key", input="secret", begin=0, end=32)
    case.step("slice", "nonce", input="secret", begin=32, end=44)


def _lp(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def _refusals(case: Case) -> list[Refused]:
    sealed, private = case.values["sealed"], case.values["private"]
    off_the_curve = sealed[:1568] + b"\x04" + bytes(96) + sealed[1665:]
    rows = [
        ("another info", "decryption-failed", {"info": b"info of another update"}),
        ("another recipient", "decryption-failed", {"private": hpke.generate().private}),
        ("another ML-KEM ciphertext", "decryption-failed", {"sealed": bytes([sealed[0] ^ 1]) + sealed[1:]}),
        ("another tag", "decryption-failed", {"sealed": sealed[:-1] + bytes([sealed[-1] ^ 1])}),
        ("a point off the curve", "decryption-failed", {"sealed": off_the_curve}),
        ("a message cut short", "decryption-failed", {"sealed": sealed[:1680]}),
        ("a private key cut short", "invalid-key", {"private": private[:-1]}),
        ("a private key with a seed of zeros", "invalid-key", {"private": bytes(64) + private[64:]}),
    ]
    refusals = [Refused(name, "recipient", code, row, of=case.name) for name, code, row in rows]
    zeros = {"public": bytes(1568) + case.values["recipient_point"]}
    return [*refusals, Refused("a public key with an ML-KEM part of zeros", "sender", "invalid-key", zeros, case.name)]


def _send(values: dict[str, Any]) -> None:
    sealed = hpke.seal(values["public"], values["plaintext"], info=values["info"])
    assert len(sealed) == len(values["sealed"]) == len(values["plaintext"]) + hpke.OVERHEAD_BYTES
    assert hpke.open_sealed(values["private"], sealed, info=values["info"]) == values["plaintext"]


def _receive(values: dict[str, Any]) -> None:
    opened = hpke.open_sealed(values["private"], values["sealed"], info=values["info"])
    assert (opened, hpke.public_key(values["private"])) == (values["plaintext"], values["public"])


RECEIVERS: dict[str, Receiver] = {"sender": _send, "recipient": _receive}

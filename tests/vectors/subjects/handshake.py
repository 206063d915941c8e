"""The handshake M1 to M4: plain and witnessed, with a QKD key, and after a rotation of the server's identity."""

import uuid
from typing import Any

from qflare_protocol import pqc
from qflare_protocol.checkpoint import verify_checkpoint
from qflare_protocol.cose import Signer, Verifier, sign1, unverified_payload
from qflare_protocol.handshake import ClientHandshake
from qflare_protocol.identity_succession import make_succession
from qflare_protocol.merkle import verify_consistency
from tests.vectors.parties import NOW, SUITE, device_keys, ephemeral_kem, new_signer, signer_of
from tests.vectors.subjects.checkpoint import small_log
from tests.vectors.subjects.handshake_exchange import RECEIVERS as SIDES
from tests.vectors.subjects.handshake_exchange import add_steps, exchanged
from tests.vectors.vector_file import Case, Receiver, Refused, VectorFile

PLAIN, WITH_QKD, ROTATED = "handshake with a checkpoint", "handshake with a QKD key", "identity rotated"


def make() -> VectorFile:
    """Make the file."""
    cases = [_plain(), _with_qkd(), _rotated()]
    purpose = "Whole handshakes: all private keys, M1 to M4, the secrets, the transcripts and what follows from them."
    refusals = [*_of_messages(cases[1].values), *_of_others(cases[2].values)]
    return VectorFile(purpose, "6 Session", cases, refusals)


def _plain() -> Case:
    log = small_log()
    values = exchanged(SUITE, new_signer(), log=log)
    case = Case(PLAIN, values)
    add_steps(case)
    return case


def _with_qkd() -> Case:
    qkd_key = bytes(range(100, 132))
    case = Case(WITH_QKD, exchanged(SUITE, new_signer(), qkd_key=qkd_key, qkd_key_id=uuid.UUID(int=7)))
    add_steps(case)
    return case


def _rotated() -> Case:
    pinned, identity = new_signer(), new_signer()
    statement = make_succession(pinned, identity, rotated_at=NOW - 1000)
    case = Case(ROTATED, exchanged(SUITE, identity, pinned=pinned, statement=statement))
    algorithm = case.values["signature_algorithm"]
    case.step("member", "S", map="statement", member="succession", stored=False)
    case.step("member", "A", map="statement", member="acceptance", stored=False)
    signed = {"label": "identity succession", "algorithm": algorithm, "key": "pinned_identity_public"}
    case.step("sign1", structure="S", **signed)
    case.step("digest", "S_digest", label="identity succession", inputs=["S"])
    signed = {"label": "identity acceptance", "algorithm": algorithm, "key": "server_identity_public"}
    case.step("sign1", structure="A", **signed, bound_to="S_digest")
    add_steps(case)
    return case


def _of_messages(values: dict[str, Any]) -> list[Refused]:
    other, server, device = new_signer(), signer_of(values, "server_identity"), device_keys(values).signer
    offer, answer = (unverified_payload(values[name], purpose=name) for name in ("m1", "m2"))
    another = ClientHandshake(bytes(16), device_keys(values), server.verifier, now=NOW, checkpoint=None).request
    strange = pqc.kem(ephemeral_kem(values)).encapsulate(answer["ephemeral_key"])[1]

    def m1(signer: Signer = device, **changes: Any) -> dict[str, Any]:
        return {"m1": sign1(signer, offer | changes, purpose="M1")}

    def m2(signer: Signer = server, **changes: Any) -> dict[str, Any]:
        return {"m2": sign1(signer, answer | changes, purpose="M2", bound_to=values["m1_digest"])}

    disguised, impostor = (Signer(other.algorithm, other.private, named.public) for named in (device, server))
    rows = [
        ("M1 signed by another key in the device's name", "server reads M1", "invalid-signature", m1(disguised)),
        ("M1 without the registered suite", "server reads M1", "suite-refused", m1(suites=["QF1-F640"])),
        ("M1 with an ephemeral key of zeros", "server reads M1", "invalid-key", m1(ephemeral_key=bytes(1568))),
        ("M1 two buckets early", "server reads M1", "clock-skew", {"now": NOW + 600}),
        ("M1 two buckets late", "server reads M1", "clock-skew", {"now": NOW - 301}),
        ("M2 to another M1", "device reads M2", "invalid-signature", {"m1": another}),
        ("M2 signed by another key in the server's name", "device reads M2", "invalid-signature", m2(impostor)),
        ("M2 with another suite", "device reads M2", "suite-refused", m2(suite="QF1-F640")),
        ("M2 with an ephemeral key of zeros", "device reads M2", "invalid-key", m2(ephemeral_key=bytes(1568))),
        ("M3 with another ciphertext", "server reads M3", "authentication-failed", {"m3_ciphertext": strange}),
        ("M3 with a ciphertext cut short", "server reads M3", "malformed-message", {"m3_ciphertext": strange[1:]}),
        ("M3 with a wrong confirmation", "server reads M3", "authentication-failed", {"m3_confirmation": bytes(64)}),
        ("M4 that repeats M3", "device reads M4", "server-not-authenticated", _echo(values)),
    ]  # fmt: skip
    return [Refused(*row, of=WITH_QKD) for row in rows]


def _echo(values: dict[str, Any]) -> dict[str, Any]:
    return {"m4_confirmation": values["m3_confirmation"]}


def _of_others(values: dict[str, Any]) -> list[Refused]:
    stranger, identity = new_signer(), signer_of(values, "server_identity")
    forged = make_succession(stranger, identity, rotated_at=NOW)
    rows = [
        ("another QKD key at the server", "server reads M3", "authentication-failed", {"qkd_key": b"p" * 32}, WITH_QKD),
        ("the succession is missing", "device reads M2", "invalid-signature", {"statement": b""}, ROTATED),
        ("a stranger's succession", "device reads M2", "server-not-authenticated", {"statement": forged}, ROTATED),
    ]
    return [Refused(*row) for row in rows]


def _device_witnesses(values: dict[str, Any]) -> None:
    """Section 6.6: the note is the log's, and the tree extends the one the device has seen."""
    answer = unverified_payload(values["m2"], purpose="M2")
    if "log_public" not in values:
        assert answer["checkpoint"] is None
        return
    log = Verifier("ML-DSA-44", values["log_public"])
    signed = verify_checkpoint(answer["checkpoint"].decode(), log, values["log_origin"]).checkpoint
    seen = (values["seen_size"], values["seen_root"])
    verify_consistency(*seen, signed.size, signed.root, answer["consistency_proof"])
    assert signed.size > values["seen_size"]


RECEIVERS: dict[str, Receiver] = SIDES | {"device witnesses": _device_witnesses}

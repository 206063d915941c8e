"""One handshake in any suite: how it is made, its steps, and both sides run on what is stored."""

import uuid
from typing import Any

from qflare_protocol import pqc
from qflare_protocol.cose import Signer, unverified_payload
from qflare_protocol.device_keys import DeviceKeys, generate_device_keypair
from qflare_protocol.epochs import SessionLimits
from qflare_protocol.handshake import (
    ClientHandshake,
    PendingHandshake,
    SeenCheckpoint,
    Terms,
    accept_response,
    answer_challenge,
    check_clock,
    read_challenge_request,
    verify_challenge_request,
)
from qflare_protocol.pqc import KeyPair
from qflare_protocol.qkd import QkdKey
from qflare_protocol.suites import suite_by_name
from tests.vectors.parties import (
    DEVICE_ID,
    NOW,
    SESSION_ID,
    device_keys,
    device_values,
    ephemeral_kem,
    played_again,
    registered_kem,
    registered_keys,
    signer_of,
    signer_values,
    verifier_of,
)
from tests.vectors.subjects.checkpoint import SmallLog
from tests.vectors.vector_file import Case, Receiver


def exchanged(
    suite: str,
    identity: Signer,
    *,
    pinned: Signer | None = None,
    log: SmallLog | None = None,
    qkd_key: bytes | None = None,
    qkd_key_id: uuid.UUID | None = None,
    keys: DeviceKeys | None = None,
    **further: Any,
) -> dict[str, Any]:
    """Shake hands with the real code and return everything that was drawn and sent."""
    keys = keys or generate_device_keypair(suite)
    values = device_values(keys) | signer_values("server_identity", identity)
    values |= {"pinned_identity_public": (pinned or identity).public, "now": NOW, "session_id": SESSION_ID}
    values |= {"device_id": DEVICE_ID, **further}
    if qkd_key and qkd_key_id:
        values |= {"qkd_key": qkd_key, "qkd_key_id": qkd_key_id.bytes}
    if log:
        values |= {"seen_size": log.seen.size, "seen_root": log.seen.root}
        values |= {"log_origin": log.origin, "log_public": log.signer.public}
    client, server = _client(values), pqc.kem(suite_by_name(suite).ephemeral_kem).generate()
    request = read_challenge_request(client.request)
    terms = Terms(
        SESSION_ID, NOW, SessionLimits(), log.note if log else None, log.proof if log else [], keys.signer.fingerprint
    )
    answer, pending = answer_challenge(
        client.request, request, registered_keys(values), terms, identity, ephemeral=server
    )
    pending = pending.with_qkd_key(qkd_key)
    _, ciphertext, confirmation = client.respond(answer, _succession(values))
    final, _ = accept_response(pending, ciphertext, confirmation)
    values |= {"device_ephemeral_private": client._ephemeral_private, "server_ephemeral_private": server.private}
    return values | {"m1": client.request, "m2": answer, "m3_ciphertext": ciphertext,
                     "m3_confirmation": confirmation, "m4_confirmation": final}  # fmt: skip


def add_steps(case: Case) -> None:
    """Add the steps of sections 6.1 to 6.4."""
    values = case.values
    algorithm = values["signature_algorithm"]
    for key in ("device_signature_public", "pinned_identity_public", "server_identity_public"):
        case.fingerprint(key)
    case.step("sign1", structure="m1", label="M1", algorithm=algorithm, key="device_signature_public")
    case.step("digest", "m1_digest", label="M1", inputs=["m1"])
    signed = {"algorithm": algorithm, "key": "server_identity_public", "bound_to": "m1_digest"}
    case.step("sign1", structure="m2", label="M2", **signed)
    case.step("digest", "m2_digest", label="M2", inputs=["m2"])
    for name, kem, private, ciphertext in (
        ("s1", ephemeral_kem(values), "device_ephemeral_private", "m2.ephemeral_ciphertext"),
        ("s2", registered_kem(values), "device_kem_private", "m2.registered_ciphertext"),
        ("s3", ephemeral_kem(values), "server_ephemeral_private", "m3_ciphertext"),
    ):
        case.step("decapsulate", name, algorithm=kem, private=private, ciphertext=ciphertext)
    case.step("digest", "transcript_half", label="M1 M2", inputs=["m1_digest", "m2_digest"])
    case.step("digest", "transcript", label="transcript", inputs=["transcript_half", "m3_ciphertext"])
    secrets = ["s1", "s2", "s3"] + (["qkd_key"] if "qkd_key" in values else [])
    case.step("extract", "root", salt="transcript", inputs=secrets)
    for side, gives in (("device", "m3_confirmation"), ("server", "m4_confirmation")):
        case.step("expand", f"confirm_{side}_key", key="root", label=f"confirm {side}", length=64)
        case.step("mac", gives, key=f"confirm_{side}_key", label=f"confirm {side}", inputs=["transcript"])
    case.step("expand", "chain_key", key="root", label="chain")
    case.step("expand", "ratchet_key", key="root", label="ratchet")


def _succession(values: dict[str, Any]) -> list[bytes]:
    return [values["statement"]] if values.get("statement") else []


def _client(values: dict[str, Any]) -> ClientHandshake:
    qkd = QkdKey(uuid.UUID(bytes=values["qkd_key_id"]), values["qkd_key"]) if "qkd_key" in values else None
    seen = SeenCheckpoint(values["seen_size"], values["seen_root"]) if "seen_size" in values else None
    pinned = verifier_of(values, "pinned_identity")
    return ClientHandshake(
        values["device_id"], device_keys(values), pinned, now=values["now"], checkpoint=seen, qkd=qkd
    )


def _responded(values: dict[str, Any]) -> tuple[ClientHandshake, tuple[bytes, bytes, bytes]]:
    """Take the device up behind its stored M1 and let it draw the stored M3."""
    client, answer = _client(values), unverified_payload(values["m2"], purpose="M2")
    client.request = values["m1"]
    client._ephemeral_private = values["device_ephemeral_private"]
    with played_again({answer["ephemeral_key"]: (values["s3"], values["m3_ciphertext"])}):
        return client, client.respond(values["m2"], _succession(values))


def _server_reads_m1(values: dict[str, Any]) -> None:
    request = read_challenge_request(values["m1"])
    verify_challenge_request(values["m1"], request, registered_keys(values))
    check_clock(request.bucket, now=values["now"])
    assert (request.device_id, request.suites) == (values["device_id"], [values["suite"]])
    assert request.signer == values["device_signature_fingerprint"]
    assert request.server_identity == values["pinned_identity_fingerprint"]
    assert request.qkd_key_id == values.get("qkd_key_id")


def _server_answers_m1(values: dict[str, Any]) -> None:
    request, expected = read_challenge_request(values["m1"]), unverified_payload(values["m2"], purpose="M2")
    drawn = {
        request.ephemeral_key: (values["s1"], expected["ephemeral_ciphertext"]),
        values["device_kem_public"]: (values["s2"], expected["registered_ciphertext"]),
    }
    note = expected["checkpoint"].decode() if expected["checkpoint"] else None
    terms = Terms(
        values["session_id"], values["now"], SessionLimits(*expected["limits"]), note, expected["consistency_proof"],
        values["device_signature_fingerprint"],
    )  # fmt: skip
    ephemeral = KeyPair(values["server_ephemeral_private"], expected["ephemeral_key"])
    with played_again(drawn, random_bytes=expected["nonce"]):
        message, pending = answer_challenge(
            values["m1"], request, registered_keys(values), terms, signer_of(values, "server_identity"),
            ephemeral=ephemeral,
        )  # fmt: skip
    pending = pending.with_qkd_key(values.get("qkd_key"))
    assert unverified_payload(message, purpose="M2") == expected
    assert (pending.ephemeral_secret, pending.registered_secret) == (values["s1"], values["s2"])


def _device_reads_m2(values: dict[str, Any]) -> None:
    _, sent = _responded(values)
    assert sent == (values["session_id"], values["m3_ciphertext"], values["m3_confirmation"])


def _server_reads_m3(values: dict[str, Any]) -> None:
    pending = PendingHandshake(
        values["suite"], values["transcript_half"], values["now"] // 300, values["s1"], values["s2"],
        values["server_ephemeral_private"], values.get("qkd_key"),
    )  # fmt: skip
    final, chain = accept_response(pending, values["m3_ciphertext"], values["m3_confirmation"])
    assert final == values["m4_confirmation"]
    assert (chain.chain_key, chain.ratchet_key) == (values["chain_key"], values["ratchet_key"])


def _device_reads_m4(values: dict[str, Any]) -> None:
    client, _ = _responded(values)
    session = client.establish(values["m4_confirmation"])
    assert (session.chain.chain_key, session.chain.ratchet_key) == (values["chain_key"], values["ratchet_key"])
    assert (session.session_id, session.suite) == (values["session_id"], values["suite"])
    assert session.server_identity == verifier_of(values, "server_identity")


RECEIVERS: dict[str, Receiver] = {
    "server reads M1": _server_reads_m1,
    "server answers M1": _server_answers_m1,
    "device reads M2": _device_reads_m2,
    "server reads M3": _server_reads_m3,
    "device reads M4": _device_reads_m4,
}

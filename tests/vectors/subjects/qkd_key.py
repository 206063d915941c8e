"""Q1 and Q2: which QKD key the next handshake is to name."""

import uuid
from typing import Any

from qflare_protocol.cose import sign1, unverified_payload
from qflare_protocol.qkd.key_request import (
    QkdKeyNotice,
    answer_qkd_key_request,
    make_qkd_key_request,
    read_qkd_key_notice,
    read_qkd_key_request,
    verify_qkd_key_request,
)
from tests.vectors.parties import DEVICE_ID, NOW, new_signer, signer_of, signer_values, verifier_of
from tests.vectors.vector_file import Case, Receiver, Refused, VectorFile

NAME = "QKD key"


def make() -> VectorFile:
    """Make the file."""
    device, server = new_signer(), new_signer()
    values: dict[str, Any] = {"signature_algorithm": device.algorithm, "device_id": DEVICE_ID, "now": NOW}
    values |= signer_values("device", device) | signer_values("server_identity", server)
    values |= {"device_sae_id": "sae-press-7", "server_sae_id": "sae-qflare", "key_id": uuid.UUID(int=7).bytes}
    values["expires_at"] = NOW + 1200
    q1 = make_qkd_key_request(DEVICE_ID, device, server.verifier, sae_id=values["device_sae_id"], now=NOW)
    case = Case(NAME, values | {"q1": q1, "q2": answer_qkd_key_request(q1, _notice(values), server)})
    algorithm = device.algorithm
    case.fingerprint("server_identity_public")
    case.step("sign1", structure="q1", label="QKD key request", algorithm=algorithm, key="device_public")
    case.step("digest", "q1_digest", label="QKD key request", inputs=["q1"])
    signed = {"algorithm": algorithm, "key": "server_identity_public", "bound_to": "q1_digest"}
    case.step("sign1", structure="q2", label="QKD key", **signed)
    purpose = "The request for a QKD key and its answer; handshake.json mixes such a key in."
    return VectorFile(purpose, "6.7 QKD keys", [case], _refusals(case.values))


def _notice(values: dict[str, Any]) -> QkdKeyNotice:
    return QkdKeyNotice(uuid.UUID(bytes=values["key_id"]), values["server_sae_id"], values["expires_at"])


def _refusals(values: dict[str, Any]) -> list[Refused]:
    other, device = new_signer(), signer_of(values, "device")
    asked = unverified_payload(values["q1"], purpose="QKD key request")
    again = make_qkd_key_request(DEVICE_ID, device, verifier_of(values, "server_identity"), sae_id="sae", now=NOW)
    forged = {"q1": sign1(other, asked, purpose="QKD key request")}
    unnamed = {"q1": sign1(device, asked | {"sae_id": ""}, purpose="QKD key request")}
    rows = [
        ("Q1 of another key", "server reads Q1", "invalid-signature", forged),
        ("Q1 without an SAE id", "server reads Q1", "malformed-message", unnamed),
        ("Q2 of another server", "device reads Q2", "invalid-signature",
         {"q2": answer_qkd_key_request(values["q1"], _notice(values), other)}),
        ("Q2 to another Q1", "device reads Q2", "invalid-signature", {"q1": again}),
    ]  # fmt: skip
    return [Refused(*row, of=NAME) for row in rows]


def _server_reads_q1(values: dict[str, Any]) -> None:
    request = read_qkd_key_request(values["q1"])
    verify_qkd_key_request(values["q1"], verifier_of(values, "device"))
    assert (request.device_id, request.sae_id) == (values["device_id"], values["device_sae_id"])
    assert (request.bucket, request.server_identity) == (values["now"] // 300, values["server_identity_fingerprint"])


def _device_reads_q2(values: dict[str, Any]) -> None:
    assert read_qkd_key_notice(values["q2"], values["q1"], verifier_of(values, "server_identity")) == _notice(values)


RECEIVERS: dict[str, Receiver] = {"server reads Q1": _server_reads_q1, "device reads Q2": _device_reads_q2}

"""Key rotation K1 to K4 inside a session."""

from typing import Any

from qflare_protocol.cose import Signer, sign1, unverified_payload
from qflare_protocol.device_keys import generate_device_keypair
from qflare_protocol.encoding import encode
from qflare_protocol.key_rotation import (
    RotationClient,
    RotationRequest,
    check_rotation_response,
    make_rotation_challenge,
    make_rotation_confirmation,
    read_rotation,
)
from tests.vectors.parties import (
    DEVICE_ID,
    NOW,
    SESSION_ID,
    SUITE,
    device_keys,
    device_values,
    new_signer,
    played_again,
    registered_kem,
    registered_keys,
    signer_of,
    signer_values,
    verifier_of,
)
from tests.vectors.vector_file import Case, Receiver, Refused, VectorFile

NAME, ATTEMPT = "key rotation", bytes(range(64, 80))
UNTIL = NOW + 86_400


def make() -> VectorFile:
    """Make the file."""
    old, new, server = generate_device_keypair(SUITE), generate_device_keypair(SUITE), new_signer()
    values = device_values(old, "old") | device_values(new, "new") | signer_values("server_identity", server)
    client = RotationClient(DEVICE_ID, SESSION_ID, old, new, server.verifier)
    public = registered_keys(values, "new")
    challenge = make_rotation_challenge(client.request, public, identity=server, attempt=ATTEMPT)
    client.respond(challenge.message)
    confirmation = make_rotation_confirmation(
        challenge.secret_state, public, identity=server, valid_from=NOW, predecessor_valid_until=UNTIL
    )
    values |= {"device_id": DEVICE_ID, "session_id": SESSION_ID, "attempt": ATTEMPT, "valid_from": NOW}
    values |= {"predecessor_valid_until": UNTIL, "B": client.request.begin, "Z": client.request.authorization}
    case = Case(NAME, values | {"C": challenge.message, "k4": confirmation, "kem_algorithm": registered_kem(values)})
    _add_steps(case)
    purpose = "A whole key rotation: old and new private keys, K1 to K4 and every value between."
    return VectorFile(purpose, "7.3 Key rotation", [case], _refusals(case.values))


def _add_steps(case: Case) -> None:
    algorithm, kem = case.values["signature_algorithm"], registered_kem(case.values)
    case.fingerprint("new_signature_public")
    case.fingerprint("new_kem_public", algorithm="kem_algorithm")
    signed = {"label": "key rotation", "algorithm": algorithm, "key": "new_signature_public"}
    case.step("sign1", structure="B", **signed, bound_to="session_id")
    case.step("digest", "B_digest", label="key rotation begin", inputs=["B"])
    signed = {"label": "key rotation authorization", "algorithm": algorithm, "key": "old_signature_public"}
    case.step("sign1", structure="Z", **signed, bound_to="B_digest")
    case.step("digest", "R", label="key rotation", inputs=["B", "Z"])
    signed = {"algorithm": algorithm, "key": "server_identity_public"}
    case.step("sign1", structure="C", label="key rotation challenge", **signed, bound_to="R")
    case.step("digest", "C_digest", label="key rotation challenge", inputs=["C"])
    case.step("digest", "T", label="key rotation transcript", inputs=["R", "C_digest"])
    case.step("decapsulate", "s", algorithm=kem, private="new_kem_private", ciphertext="C.ciphertext")
    case.step("extract", "extracted", salt="T", inputs=["s"])
    case.step("expand", "confirm_key", key="extracted", label="key rotation confirm", length=64)
    case.step("mac", "k3_confirmation", key="confirm_key", label="key rotation confirm", inputs=["T"])
    case.step("sign1", structure="k4", label="key rotation confirmation", **signed, bound_to="T")


def _refusals(values: dict[str, Any]) -> list[Refused]:
    other, new, old = new_signer(), signer_of(values, "new_signature"), signer_of(values, "old_signature")
    begin = unverified_payload(values["B"], purpose="key rotation")
    named = unverified_payload(values["Z"], purpose="key rotation authorization")
    challenge = unverified_payload(values["C"], purpose="key rotation challenge")
    confirmed = unverified_payload(values["k4"], purpose="key rotation confirmation")
    server = signer_of(values, "server_identity")

    def b(signer: Signer = new, **changes: Any) -> dict[str, Any]:
        bound_to = values["session_id"]
        return {"B": sign1(signer, begin | changes, purpose="key rotation", bound_to=bound_to)}

    def z(signer: Signer = old, **changes: Any) -> dict[str, Any]:
        bound_to = values["B_digest"]
        return {"Z": sign1(signer, named | changes, purpose="key rotation authorization", bound_to=bound_to)}

    def k4(signer: Signer = server, **changes: Any) -> dict[str, Any]:
        bound_to = values["T"]
        return {"k4": sign1(signer, confirmed | changes, purpose="key rotation confirmation", bound_to=bound_to)}

    forged = sign1(other, challenge, purpose="key rotation challenge", bound_to=values["R"])
    rows = [
        ("B not signed by the new key", "server reads K1", "invalid-signature", b(other)),
        ("B of another session", "server reads K1", "invalid-signature", {"session_id": bytes(16)}),
        ("B of another device", "server reads K1", "invalid-signature", {"device_id": bytes(16)}),
        ("B with a KEM key of zeros", "server reads K1", "invalid-key", b(kem_key=bytes(1568))),
        ("Z not signed by the old key", "server reads K1", "invalid-signature", z(other)),
        ("Z for another KEM key", "server reads K1", "invalid-signature", z(kem_key=bytes(32))),
        ("K2 of another server", "device reads K2", "invalid-signature", {"C": forged}),
        ("K3 that does not hold", "server reads K3", "key-rotation-refused", {"k3_confirmation": bytes(64)}),
        ("K4 of another server", "device reads K4", "invalid-signature", k4(other)),
        ("K4 for another key", "device reads K4", "key-rotation-refused", k4(signature_key=bytes(32))),
    ]
    return [Refused(*row, of=NAME) for row in rows]


def _request(values: dict[str, Any]) -> RotationRequest:
    return RotationRequest(values["B"], values["Z"])


def _server_reads_k1(values: dict[str, Any]) -> None:
    new = read_rotation(
        _request(values), device_id=values["device_id"], session_id=values["session_id"],
        registered=registered_keys(values, "old"),
    )  # fmt: skip
    assert new == registered_keys(values, "new")
    assert new.kem_fingerprint == values["new_kem_fingerprint"]
    assert new.verifier.fingerprint == values["new_signature_fingerprint"]


def _server_answers_k1(values: dict[str, Any]) -> None:
    expected = unverified_payload(values["C"], purpose="key rotation challenge")
    new, server = registered_keys(values, "new"), signer_of(values, "server_identity")
    with played_again({new.kem_public: (values["s"], expected["ciphertext"])}, random_bytes=expected["nonce"]):
        made = make_rotation_challenge(_request(values), new, identity=server, attempt=values["attempt"])
    assert unverified_payload(made.message, purpose="key rotation challenge") == expected


def _client(values: dict[str, Any]) -> RotationClient:
    client = RotationClient(
        values["device_id"], values["session_id"], device_keys(values, "old"), device_keys(values, "new"),
        verifier_of(values, "server_identity"),
    )  # fmt: skip
    client.request = _request(values)
    return client


def _device_reads_k2(values: dict[str, Any]) -> None:
    assert _client(values).respond(values["C"]) == (values["attempt"], values["k3_confirmation"])


def _server_reads_k3(values: dict[str, Any]) -> None:
    check_rotation_response(encode([values["T"], values["confirm_key"]]), values["k3_confirmation"])


def _device_reads_k4(values: dict[str, Any]) -> None:
    client = _client(values)
    client.respond(values["C"])
    assert client.complete(values["k4"]) == values["predecessor_valid_until"]


RECEIVERS: dict[str, Receiver] = {
    "server reads K1": _server_reads_k1,
    "server answers K1": _server_answers_k1,
    "device reads K2": _device_reads_k2,
    "server reads K3": _server_reads_k3,
    "device reads K4": _device_reads_k4,
}

"""Enrolment E1 to E4, with the identity key that the token pins and with its successor."""

from typing import Any

from qflare_protocol import pqc
from qflare_protocol.cose import Signer, sign1, unverified_payload
from qflare_protocol.device_keys import generate_device_keypair
from qflare_protocol.encoding import decode, encode
from qflare_protocol.enrolment import (
    EnrolmentClient,
    EnrolmentToken,
    make_challenge,
    make_confirmation,
    open_finish,
    read_begin,
)
from qflare_protocol.identity_succession import make_succession
from tests.vectors.parties import (
    DEVICE_ID,
    NOW,
    SUITE,
    device_keys,
    device_values,
    new_signer,
    played_again,
    registered_kem,
    registered_keys,
    signer_of,
    signer_values,
)
from tests.vectors.vector_file import Case, Receiver, Refused, VectorFile

NAME, ATTEMPT = "press 7, Köln", bytes(range(64, 80))


def make() -> VectorFile:
    """Make the file."""
    cases = [_exchange("enrolment"), _exchange("identity rotated since the token was made", rotated=True)]
    purpose = "Whole enrolments: token, all private keys, E1 to E4 and every value between."
    return VectorFile(purpose, "5 Enrolment", cases, _refusals(cases[0].values, cases[1]))


def _exchange(name: str, *, rotated: bool = False) -> Case:
    keys, pinned, log = generate_device_keypair(SUITE), new_signer(), new_signer()
    identity = new_signer() if rotated else pinned
    succession = [make_succession(pinned, identity, rotated_at=NOW)] if rotated else []
    token = EnrolmentToken.generate(pinned.fingerprint)
    client = EnrolmentClient(token, NAME, keys)
    begin = read_begin(client.begin)
    challenge = make_challenge(client.begin, begin, identity=identity, attempt=ATTEMPT, expires_at=NOW + 120)
    _, sealed = client.finish(challenge.message, succession)
    payload = {"device_id": DEVICE_ID, "name": NAME, "log_origin": "qflare/example", "log_key": log.public}
    confirmation = make_confirmation(challenge.secret_state, sealed, payload | {"enrolled_at": NOW}, identity=identity)
    values = device_values(keys) | signer_values("server_identity", identity)
    values |= {"pinned_identity_public": pinned.public, "log_public": log.public, "token": token.to_text()}
    values |= {"token_secret": token.secret, "name": NAME, "attempt": ATTEMPT, "zero_nonce": bytes(12)}
    values |= {"e1": client.begin, "e2": challenge.message, "e4": confirmation, "succession": succession}
    case = Case(name, values)
    _add_steps(case)
    return case


def _add_steps(case: Case) -> None:
    algorithm = case.values["signature_algorithm"]
    case.step("public key", "server_identity_public", algorithm=algorithm, private="server_identity_private")
    case.step("public key", "device_signature_public", algorithm=algorithm, private="device_signature_private")
    case.fingerprint("pinned_identity_public")
    lookup = {"label": "enrolment token lookup", "inputs": ["token_secret"]}
    case.step("digest", "lookup", **lookup, length=16)
    case.step("digest", "verifier", label="enrolment token verifier", inputs=["token_secret"])
    signed = {"algorithm": algorithm, "key": "device_signature_public"}
    case.step("sign1", structure="e1", label="enrol begin", **signed)
    case.step("digest", "e1_digest", label="enrol begin", inputs=["e1"])
    signed = {"algorithm": algorithm, "key": "server_identity_public"}
    case.step("sign1", structure="e2", label="enrol challenge", **signed, bound_to="e1_digest")
    case.step("digest", "e2_digest", label="enrol challenge", inputs=["e2"])
    opened = {"algorithm": registered_kem(case.values), "private": "device_kem_private"}
    case.step("decapsulate", "s", **opened, ciphertext="e2.ciphertext")
    case.step("digest", "T", label="enrol transcript", inputs=["e1_digest", "e2_digest"])
    case.step("extract", "extracted", salt="T", inputs=["s"])
    case.step("expand", "key", key="extracted", label="enrol token key")
    sealing = {"key": "key", "nonce": "zero_nonce", "plaintext": "token_secret", "aad": "T"}
    case.step("AES-256-GCM", "sealed_token", **sealing)
    case.step("digest", "finished", label="enrol finished", inputs=["T", "sealed_token"])
    case.step("sign1", structure="e4", label="enrol confirmation", **signed, bound_to="finished")


def _refusals(values: dict[str, Any], rotated: Case) -> list[Refused]:
    other, server = new_signer(), signer_of(values, "server_identity")
    challenge = unverified_payload(values["e2"], purpose="enrol challenge")
    begin = unverified_payload(values["e1"], purpose="enrol begin")
    device = device_keys(values).signer
    swapped = pqc.kem(registered_kem(values)).encapsulate(values["device_kem_public"])[1]

    def e1(signer: Signer = device, **changes: Any) -> dict[str, Any]:
        return {"e1": sign1(signer, begin | changes, purpose="enrol begin")}

    def e2(signer: Signer = server, **changes: Any) -> dict[str, Any]:
        bound_to = values["e1_digest"]
        return {"e2": sign1(signer, challenge | changes, purpose="enrol challenge", bound_to=bound_to)}

    confirmed = unverified_payload(values["e4"], purpose="enrol confirmation")
    unbound = sign1(server, confirmed, purpose="enrol confirmation", bound_to=values["T"])
    rows = [
        ("E1 signed by another key than it registers", "server reads E1", "invalid-signature", e1(other)),
        ("E1 with a KEM key of zeros", "server reads E1", "invalid-key", e1(kem_key=bytes(1568))),
        ("E2 of another server", "device reads E2", "server-not-authenticated", _pinning(other, values)),
        ("E2 signed by another key than it names", "device reads E2", "invalid-signature", e2(other)),
        ("E2 with a ciphertext cut short", "device reads E2", "malformed-message", e2(ciphertext=swapped[:-1])),
        ("E3 that does not open", "server opens E3", "enrolment-refused", {"sealed_token": bytes(48)}),
        ("E4 bound to another E3", "device reads E4", "invalid-signature", {"e4": unbound}),
    ]
    refusals = [Refused(*row, of="enrolment") for row in rows]
    missing = ("the succession is missing", "device reads E2", "server-not-authenticated", {"succession": []})
    return [*refusals, Refused(*missing, of=rotated.name)]


def _pinning(identity: Signer, values: dict[str, Any]) -> dict[str, Any]:
    """A token that pins another server than the one that answers."""
    token = EnrolmentToken(values["token_secret"], identity.fingerprint)
    return {"token": token.to_text(), "pinned_identity_fingerprint": identity.fingerprint}


def _server_reads_e1(values: dict[str, Any]) -> None:
    begin = read_begin(values["e1"])
    assert (begin.token_lookup, begin.name, begin.keys) == (values["lookup"], values["name"], registered_keys(values))


def _server_answers_e1(values: dict[str, Any]) -> None:
    expected = unverified_payload(values["e2"], purpose="enrol challenge")
    drawn = {values["device_kem_public"]: (values["s"], expected["ciphertext"])}
    with played_again(drawn, random_bytes=expected["nonce"]):
        challenge = make_challenge(
            values["e1"], read_begin(values["e1"]), identity=signer_of(values, "server_identity"),
            attempt=values["attempt"], expires_at=expected["expires_at"],
        )  # fmt: skip
    assert unverified_payload(challenge.message, purpose="enrol challenge") == expected
    assert decode(challenge.secret_state, what="state")[1] != values["key"]  # another signature, another transcript


def _client(values: dict[str, Any]) -> EnrolmentClient:
    token = EnrolmentToken.from_text(values["token"])
    assert (token.secret, token.identity_fingerprint) == (values["token_secret"], values["pinned_identity_fingerprint"])
    assert (token.lookup, token.verifier, token.to_text()) == (values["lookup"], values["verifier"], values["token"])
    client = EnrolmentClient(token, values["name"], device_keys(values))
    client.begin = values["e1"]
    return client


def _device_reads_e2(values: dict[str, Any]) -> None:
    finish = _client(values).finish(values["e2"], values["succession"])
    assert finish == (values["attempt"], values["sealed_token"])


def _server_opens_e3(values: dict[str, Any]) -> None:
    assert open_finish(encode([values["T"], values["key"]]), values["sealed_token"]) == values["token_secret"]


def _device_reads_e4(values: dict[str, Any]) -> None:
    client = _client(values)
    client.finish(values["e2"], values["succession"])
    enrolled = client.complete(values["e4"])
    assert (enrolled.device_id, enrolled.name, enrolled.log_key) == (DEVICE_ID, NAME, values["log_public"])
    assert enrolled.identity.public == values["server_identity_public"]


RECEIVERS: dict[str, Receiver] = {
    "server reads E1": _server_reads_e1,
    "server answers E1": _server_answers_e1,
    "device reads E2": _device_reads_e2,
    "server opens E3": _server_opens_e3,
    "device reads E4": _device_reads_e4,
}

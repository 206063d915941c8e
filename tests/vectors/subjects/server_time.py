"""The server's signed time, for an M1 and for a sealed request that were refused for their time."""

from typing import Any

from qflare_protocol.cose import Signer, sign1
from qflare_protocol.server_time import read_server_time, request_reference, sign_server_time
from tests.vectors.parties import NOW, SESSION_ID, new_signer, signer_values, verifier_of
from tests.vectors.vector_file import Case, Receiver, Refused, VectorFile

M1_CASE, REQUEST_CASE = "refused: M1", "refused: a sealed request"


def make() -> VectorFile:
    """Make the file."""
    server = new_signer()
    m1 = sign1(new_signer(), {"bucket": 0}, purpose="M1")
    first = _signed(M1_CASE, server, {"reference": m1}, m1)
    values = {"session_id": SESSION_ID, "epoch": NOW // 300 - 4, "sequence": 9}
    reference = request_reference(SESSION_ID, values["epoch"], 9)
    second = Case(REQUEST_CASE, dict(values))
    second.step("digest", "reference", label="epoch refusal", inputs=["session_id", "epoch", "sequence"])
    signed = _signed(REQUEST_CASE, server, second.values, reference)
    signed.steps = second.steps + signed.steps
    rows = [
        ("signed by another key", {"signed_server_time": sign_server_time(new_signer(), bound_to=m1, now=NOW)}),
        ("for another message", {"reference": m1[:-1]}),
    ]
    refusals = [Refused(name, "device", "invalid-signature", row, of=M1_CASE) for name, row in rows]
    early = {"signed_server_time": _of_payload(server, {"server_time": -1}, first.values["bound_to"])}
    refusals.append(Refused("a time before 1970", "device", "malformed-message", early, of=M1_CASE))
    purpose = "The signed time in a refusal of M1 and of a sealed request, bound to what was refused."
    return VectorFile(purpose, "6.5 Clocks", [first, signed], refusals)


def _signed(name: str, server: Signer, values: dict[str, Any], reference: bytes) -> Case:
    signed = sign_server_time(server, bound_to=reference, now=NOW + 0.25)
    named = {"signature_algorithm": server.algorithm, "server_time_milliseconds": NOW * 1000 + 250}
    case = Case(name, values | named | signer_values("server_identity", server) | {"signed_server_time": signed})
    case.step("digest", "bound_to", label="refused", inputs=["reference"])
    options = {"label": "server time", "algorithm": server.algorithm, "key": "server_identity_public"}
    case.step("sign1", structure="signed_server_time", **options, bound_to="bound_to")
    return case


def _of_payload(server: Signer, payload: dict[str, Any], bound_to: bytes) -> bytes:
    return sign1(server, payload, purpose="server time", bound_to=bound_to)


def _read(values: dict[str, Any]) -> None:
    if "epoch" in values:
        assert request_reference(values["session_id"], values["epoch"], values["sequence"]) == values["reference"]
    server = verifier_of(values, "server_identity")
    read = read_server_time(server, values["signed_server_time"], bound_to=values["reference"])
    assert read * 1000 == values["server_time_milliseconds"]


RECEIVERS: dict[str, Receiver] = {"device": _read}

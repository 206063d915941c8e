"""The signed result of a round, and the digest of its roster."""

from dataclasses import replace
from typing import Any

from qflare_protocol.carried_rows import CarriedRow, carried_digest
from qflare_protocol.cose import Signer, sign1
from qflare_protocol.encoding import encode
from qflare_protocol.round_result import (
    NORM_ABOVE_BOUND,
    RosterEntry,
    RoundResult,
    Scores,
    UpdateVerdict,
    result_digest,
    roster_digest,
    sign_result,
    verify_result,
)
from qflare_protocol.staleness import OlderBase
from tests.vectors.parties import FEDERATION_ID, ROUND_ID, new_signer, signer_values, verifier_of
from tests.vectors.vector_file import Case, Receiver, Refused, VectorFile

NAME = "three accepted, two rejected"
STALE = "two of the accepted to older models"
OLDER = (OlderBase(bytes([1]) * 32, 1), OlderBase(bytes([4]) * 32, 4))
CARRIED = [
    CarriedRow("centre", bytes(range(32)), bytes(range(32, 64))),
    CarriedRow("momentum", bytes(range(32)), bytes(32)),
]
DEVICES = [bytes([number]) * 16 for number in range(1, 6)]


def make() -> VectorFile:
    """Make the file."""
    signer = new_signer()
    result = _result(roster_digest(_roster(signer)))
    ages = [0, 1, 4, 0, 0]
    verdicts = tuple(replace(one, staleness=age) for one, age in zip(result.verdicts, ages, strict=True))
    stale = replace(result, verdicts=verdicts, older_bases=OLDER)
    cases = [_case(NAME, signer, result), _case(STALE, signer, stale)]
    purpose = (
        "A round's result as the enclave signs it, with its verdicts, and the digests of its roster and carried rows."
    )
    return VectorFile(purpose, "12 Round results", cases, _refusals(result, stale, signer))


def _roster(signer: Signer) -> list[RosterEntry]:
    return [RosterEntry(device, signer.verifier) for device in DEVICES]  # one key for all keeps the file small


def _case(name: str, signer: Signer, result: RoundResult) -> Case:
    roster = _roster(signer)
    rows = sorted([entry.device_id, entry.verifier.algorithm, entry.verifier.fingerprint] for entry in roster)
    carried = [[row.name, row.enclave_key_id, row.digest] for row in CARRIED]
    values: dict[str, Any] = {"signature_algorithm": signer.algorithm, **signer_values("result", signer)}
    values |= {"roster": encode(rows), "carried": encode(carried)}
    values |= {"devices": DEVICES, "payload": encode(result.to_map()), "result": sign_result(result, signer)}
    case = Case(name, values)
    case.step("digest", "roster_digest", label="round roster", inputs=["roster"])
    case.step("digest", "carried_digest", label="carried rows", inputs=["carried"])
    signed = {"label": "round result", "algorithm": signer.algorithm, "key": "result_public"}
    case.step("sign1", structure="result", **signed)
    case.step("digest", "result_digest", label="signed round result", inputs=["result"])
    return case


def _result(roster: bytes) -> RoundResult:
    scores = Scores(norm=1.25, norm_ratio=1.0, cosine=0.5, weight=0.25)
    far = Scores(norm=12.5, norm_ratio=10.0, cosine=0.0, weight=0.0)
    verdicts = [UpdateVerdict(device, device * 4, device * 2, accepted=True, scores=scores) for device in DEVICES[:3]]
    sentence = "The update's norm is above the bound over the median norm."
    rejected = (
        UpdateVerdict(DEVICES[3], DEVICES[3] * 4, DEVICES[3] * 2, False, NORM_ABOVE_BOUND, sentence, far),
        UpdateVerdict(DEVICES[4], DEVICES[4] * 4, None, False, "invalid-signature"),
    )
    return RoundResult(
        ROUND_ID, FEDERATION_ID, enclave_key_id=bytes(range(32)), base_model_digest=bytes(range(32, 64)),
        model_digest=bytes(range(64, 96)), model_bytes=4096, rule="weighted-mean", carried_in=carried_digest([]),
        carried_out=carried_digest(CARRIED), policy_digest=bytes(range(64)),
        roster_digest=roster, sample_total=480, verdicts=(*verdicts, *rejected),
    )  # fmt: skip


def _refusals(result: RoundResult, stale: RoundResult, signer: Signer) -> list[Refused]:
    payload, stranger, bases = result.to_map(), new_signer(), stale.to_map()["older_bases"]

    def signed(key: Signer = signer, **changes: Any) -> dict[str, Any]:
        return {"result": sign1(key, payload | changes, purpose="round result")}

    without_reason = [payload["verdicts"][3] | {"reason": None}]
    rows = [
        ("signed by another key", "invalid-signature", signed(stranger)),
        ("signed for another purpose", "invalid-signature",
         {"result": sign1(signer, payload, purpose="update manifest")}),
        ("no samples", "malformed-message", signed(sample_total=0)),
        ("a rejection without a reason", "malformed-message", signed(verdicts=without_reason)),
        ("an older model of no age", "malformed-message", signed(older_bases=[[bases[0][0], 0]])),
    ]  # fmt: skip
    return [Refused(name, "device reads the result", code, row, of=NAME) for name, code, row in rows]


def _read(values: dict[str, Any]) -> None:
    result = verify_result(values["result"], verifier_of(values, "result"))
    assert encode(result.to_map()) == values["payload"]
    assert [verdict.device_id for verdict in result.accepted] == values["devices"][:3]
    assert result_digest(values["result"]) == values["result_digest"]
    roster = [RosterEntry(device, verifier_of(values, "result")) for device in values["devices"]]
    assert carried_digest(CARRIED[::-1]) == result.carried_out == values["carried_digest"]
    assert roster_digest(roster[::-1]) == result.roster_digest == values["roster_digest"]


RECEIVERS: dict[str, Receiver] = {"device reads the result": _read}

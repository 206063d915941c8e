"""The signed result of a round, the verdicts that it names, and the digest of its roster."""

from dataclasses import asdict, replace
from typing import Any

from qflare_protocol.carried_rows import CarriedRow, carried_digest
from qflare_protocol.cose import Signer, sign1
from qflare_protocol.encoding import encode
from qflare_protocol.round_result import (
    JudgedRound,
    RosterEntry,
    RoundResult,
    SignedResult,
    commitment_to,
    own_verdict,
    result_digest,
    roster_digest,
    sign_result,
    verify_result,
)
from qflare_protocol.round_verdicts import (
    NORM_ABOVE_BOUND,
    Scores,
    UpdateVerdict,
    VerdictProof,
    verdict_proofs,
    verdicts_root,
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


SHOWN = 3
"""The device, from 0, whose proof stands in the file."""


def make() -> VectorFile:
    """Make the file."""
    signer, verdicts = new_signer(), _verdicts()
    result = _result(roster_digest(_roster(signer)), verdicts)
    late = tuple(replace(one, staleness=age) for one, age in zip(verdicts, [0, 1, 4, 0, 0], strict=True))
    stale = replace(result, older_bases=OLDER, **commitment_to(late))
    cases = [_case(NAME, signer, result, verdicts), _case(STALE, signer, stale, late)]
    purpose = (
        "A round's result as the enclave signs it, the verdicts that it names with the tree over them and one device's "
        "proof, and the digests of its roster and carried rows."
    )
    return VectorFile(purpose, "12 Round results", cases, _refusals(result, stale, signer, verdicts))


def _roster(signer: Signer) -> list[RosterEntry]:
    return [RosterEntry(device, signer.verifier) for device in DEVICES]  # one key for all keeps the file small


def _case(name: str, signer: Signer, result: RoundResult, verdicts: tuple[UpdateVerdict, ...]) -> Case:
    roster = _roster(signer)
    rows = sorted([entry.device_id, entry.verifier.algorithm, entry.verifier.fingerprint] for entry in roster)
    carried = [[row.name, row.enclave_key_id, row.digest] for row in CARRIED]
    leaves = [verdict.encoded() for verdict in verdicts]
    proof = verdict_proofs(leaves)[SHOWN]
    values: dict[str, Any] = {"signature_algorithm": signer.algorithm, **signer_values("result", signer)}
    values |= {"roster": encode(rows), "carried": encode(carried)}
    values |= {"devices": DEVICES, "payload": encode(result.to_map()), "result": sign_result(result, signer)}
    values |= {f"verdict_{index}": leaf for index, leaf in enumerate(leaves)}
    values |= {"verdict_count": len(leaves), "verdicts_root": result.verdicts_root, "zero": b"\x00", "one": b"\x01"}
    values |= {"shown_device": DEVICES[SHOWN], "shown_index": proof.index, "shown_path": list(proof.path)}
    case = Case(name, values)
    case.step("digest", "roster_digest", label="round roster", inputs=["roster"])
    case.step("digest", "carried_digest", label="carried rows", inputs=["carried"])
    _add_tree(case)
    signed = {"label": "round result", "algorithm": signer.algorithm, "key": "result_public"}
    case.step("sign1", structure="result", **signed)
    case.step("digest", "result_digest", label="signed round result", inputs=["result"])
    return case


def _add_tree(case: Case) -> None:
    """The root over five leaves: ((0, 1), (2, 3)), 4."""
    for index in range(len(DEVICES)):
        _hash(case, f"leaf_{index}", ["zero", f"verdict_{index}"])
    for node, left, right in (
        ("node_01", "leaf_0", "leaf_1"),
        ("node_23", "leaf_2", "leaf_3"),
        ("node_0123", "node_01", "node_23"),
        ("verdicts_root", "node_0123", "leaf_4"),
    ):
        _hash(case, node, ["one", left, right])


def _hash(case: Case, gives: str, inputs: list[str]) -> None:
    case.step("concatenate", f"{gives}_input", inputs=inputs, stored=False)
    case.step("SHA-256", gives, input=f"{gives}_input")


def _verdicts() -> tuple[UpdateVerdict, ...]:
    scores = Scores(norm=1.25, norm_ratio=1.0, cosine=0.5, weight=0.25)
    far = Scores(norm=12.5, norm_ratio=10.0, cosine=0.0, weight=0.0)
    sentence = "The update's norm is above the bound over the median norm."
    return (
        *(UpdateVerdict(device, device * 4, device * 2, accepted=True, scores=scores) for device in DEVICES[:3]),
        UpdateVerdict(DEVICES[3], DEVICES[3] * 4, DEVICES[3] * 2, False, NORM_ABOVE_BOUND, sentence, far),
        UpdateVerdict(DEVICES[4], DEVICES[4] * 4, None, False, "invalid-signature"),
    )


def _result(roster: bytes, verdicts: tuple[UpdateVerdict, ...]) -> RoundResult:
    return RoundResult(
        ROUND_ID, FEDERATION_ID, enclave_key_id=bytes(range(32)), base_model_digest=bytes(range(32, 64)),
        model_digest=bytes(range(64, 96)), model_bytes=4096, rule="weighted-mean", carried_in=carried_digest([]),
        carried_out=carried_digest(CARRIED), policy_digest=bytes(range(64)),
        roster_digest=roster, sample_total=480, **commitment_to(verdicts),
    )  # fmt: skip


def _refusals(
    result: RoundResult, stale: RoundResult, signer: Signer, verdicts: tuple[UpdateVerdict, ...]
) -> list[Refused]:
    payload, stranger, bases = result.to_map(), new_signer(), stale.to_map()["older_bases"]

    def signed(key: Signer = signer, **changes: Any) -> dict[str, Any]:
        return {"result": sign1(key, payload | changes, purpose="round result")}

    members = {name: value for name, value in asdict(verdicts[3]).items() if name != "staleness"}
    without_reason = encode(members | {"reason": None})
    other = verdict_proofs([verdict.encoded() for verdict in verdicts])[0]
    others_place = {"shown_index": other.index, "shown_path": list(other.path)}
    results = [
        ("signed by another key", "invalid-signature", signed(stranger)),
        ("signed for another purpose", "invalid-signature",
         {"result": sign1(signer, payload, purpose="update manifest")}),
        ("no samples", "malformed-message", signed(sample_total=0)),
        ("more accepted than there are", "malformed-message", signed(accepted_count=6)),
        ("an older model of no age", "malformed-message", signed(older_bases=[[bases[0][0], 0]])),
    ]  # fmt: skip
    proofs = [
        ("a verdict that was turned", "proof-refused", {"verdict_3": verdicts[0].encoded()}),
        ("the place of another verdict", "proof-refused", others_place),
        ("the verdict on another device", "proof-refused", {"verdict_3": other.leaf, **others_place}),
        ("a rejection without a reason", "malformed-message", _sole(without_reason, payload, signer)),
    ]
    return [
        *(Refused(name, "device reads the result", code, row, of=NAME) for name, code, row in results),
        *(Refused(name, "device reads its verdict", code, row, of=NAME) for name, code, row in proofs),
    ]


def _sole(leaf: bytes, payload: dict[str, Any], signer: Signer) -> dict[str, Any]:
    """Values of a result that names a single verdict, the device's own."""
    root = verdicts_root([leaf])
    single = payload | {"verdict_count": 1, "accepted_count": 0, "verdicts_root": root}
    return {
        "result": sign1(signer, single, purpose="round result"),
        "verdict_3": leaf, "shown_index": 0, "shown_path": [], "verdicts_root": root, "verdict_count": 1,
    }  # fmt: skip


def _read(values: dict[str, Any]) -> None:
    result = verify_result(values["result"], verifier_of(values, "result"))
    assert encode(result.to_map()) == values["payload"]
    assert (result.verdicts_root, result.verdict_count) == (values["verdicts_root"], values["verdict_count"])
    assert result_digest(values["result"]) == values["result_digest"]
    roster = [RosterEntry(device, verifier_of(values, "result")) for device in values["devices"]]
    assert carried_digest(CARRIED[::-1]) == result.carried_out == values["carried_digest"]
    assert roster_digest(roster[::-1]) == result.roster_digest == values["roster_digest"]


def _read_own(values: dict[str, Any]) -> None:
    result = verify_result(values["result"], verifier_of(values, "result"))
    proof = VerdictProof(values[f"verdict_{SHOWN}"], values["shown_index"], tuple(values["shown_path"]))
    assert own_verdict(result, proof, values["shown_device"]).reason == NORM_ABOVE_BOUND


def _read_all(values: dict[str, Any]) -> None:
    leaves = [values[f"verdict_{index}"] for index in range(values["verdict_count"])]
    made = SignedResult(values["result"], encode(leaves))
    judged = JudgedRound.verified(made, verifier_of(values, "result"))
    assert [verdict.device_id for verdict in judged.accepted] == values["devices"][:3]


RECEIVERS: dict[str, Receiver] = {
    "device reads the result": _read,
    "device reads its verdict": _read_own,
    "auditor reads the verdicts": _read_all,
}

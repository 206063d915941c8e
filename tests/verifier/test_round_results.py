"""What an enclave signed is held against what the log says was published."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qflare_protocol.attestation import enclave_key_id
from qflare_protocol.encoding import encode
from qflare_protocol.round_result import RoundResult, commitment_to, result_digest, sign_result
from qflare_protocol.round_verdicts import UpdateVerdict
from qflare_protocol.staleness import OlderBase
from tests.verifier.exports import BEGIN, LOG, STRANGER, Log, Told, holds, new_signer, put, verdict

ENCLAVE = new_signer()
SEALING_KEY = b"sealing key of the enclave"
VERDICTS = (
    UpdateVerdict(b"a" * 16, b"m" * 64, b"c" * 32, accepted=True),
    UpdateVerdict(b"b" * 16, b"n" * 64, None, accepted=False, reason="invalid-signature"),
    UpdateVerdict(b"c" * 16, b"o" * 64, b"d" * 32, accepted=True),
)
LEAVES = [verdict.encoded() for verdict in VERDICTS]
FEDERATION, ROUND = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"
RESULT = RoundResult(
    round_id=b"\x22" * 16, federation_id=b"\x11" * 16, enclave_key_id=enclave_key_id(SEALING_KEY, ENCLAVE.public),
    base_model_digest=b"0" * 32, model_digest=b"1" * 32, model_bytes=10, rule="mean", policy_digest=bytes(64),
    roster_digest=bytes(64), sample_total=3, carried_in=bytes(64), carried_out=bytes(64),
    **commitment_to(VERDICTS),
)  # fmt: skip
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes an export of one completed round; its arguments change what is in it."""

    def write(
        result: RoundResult = RESULT,
        signer: Any = ENCLAVE,
        drop: int | None = None,
        verdicts: Sequence[Any] = LEAVES,
        **changes: str,
    ) -> Path:
        signed = sign_result(result, signer)
        key_id = enclave_key_id(SEALING_KEY, ENCLAVE.public).hex()
        completed = {"round_id": ROUND, "model_digest": (b"1" * 32).hex(), **changes}
        completed["result_digest"] = result_digest(signed).hex()
        events = [
            Told("model.published", {"federation_id": FEDERATION, "model_digest": (b"0" * 32).hex()}),
            Told("enclave.prepared", {"key_id": key_id}),
            Told("model.published", {"federation_id": FEDERATION, "model_digest": (b"1" * 32).hex()}),
            Told("round.completed", completed),
        ]
        if drop is not None:
            events[drop] = Told()
        export = Log(events, [(4, BEGIN + 1)]).write(tmp_path)
        content = encode([signed, SEALING_KEY, ENCLAVE.public, "ML-DSA-44", verdicts])
        put(export / "results" / completed["result_digest"], content)
        return export

    return write


def test_a_result_that_agrees_with_the_log_is_counted(write: Write) -> None:
    report = holds(write())
    assert (report.results, report.findings.counts) == (1, {})


def test_a_result_of_updates_to_an_older_model_is_counted(write: Write) -> None:
    older = (OlderBase(b"0" * 32, 1),)
    report = holds(write(replace(RESULT, base_model_digest=b"1" * 32, older_bases=older)))
    assert (report.results, report.findings.counts) == (1, {})


def test_a_result_that_is_not_in_the_export_is_told(write: Write) -> None:
    export = write()
    next((export / "results").iterdir()).unlink()
    report = holds(export)
    assert (report.results, report.findings.counts) == (0, {"missing-result": 1})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"signer": STRANGER}, "is signed by another key"),
        ({"verdicts": LEAVES[:2]}, "stands for other verdicts"),
        ({"verdicts": LEAVES[::-1]}, "stands for other verdicts"),
        ({"verdicts": [LEAVES[0], LEAVES[2], LEAVES[2]]}, "stands for other verdicts"),
        ({"verdicts": [b"junk"]}, "The round result"),
        ({"verdicts": 7}, "is none"),
        ({"result": replace(RESULT, accepted_count=3)}, "stands for other verdicts"),
        ({"drop": 1}, "is signed by an enclave that no entry before it names"),
        ({"drop": 0}, "names as base_model_digest one that no entry before 3 publishes"),
        ({"drop": 2}, "names as model_digest one that no entry before 3 publishes"),
        ({"model_digest": "00" * 32}, "made another model than the entry says was published"),
        ({"round_id": FEDERATION}, "is the result of another round"),
        ({"result": replace(RESULT, enclave_key_id=bytes(32))}, "is signed by an enclave that no entry"),
        ({"result": replace(RESULT, model_digest=b"2" * 32)}, "made another model"),
        ({"result": replace(RESULT, federation_id=bytes(16))}, "names as model_digest one that no entry"),
        ({"result": replace(RESULT, older_bases=(OlderBase(b"2" * 32, 1),))}, "took updates to an older model that no"),
    ],
)
def test_a_result_that_does_not_agree_is_named(write: Write, changes: dict[str, Any], said: str) -> None:
    kind, sentence = verdict(write(**changes))
    assert (kind, said in sentence) == ("result", True), sentence


def test_a_result_changed_in_the_export_is_named(write: Write) -> None:
    export = write()
    path = next((export / "results").iterdir())
    other = sign_result(replace(RESULT, sample_total=4), ENCLAVE)
    put(path, encode([other, SEALING_KEY, ENCLAVE.public, "ML-DSA-44", LEAVES]))
    assert "does not have the digest that the entry states" in verdict(export)[1]
    put(path, b"junk")
    assert verdict(export)[0] == "result"
    put(path, encode([other, SEALING_KEY, LOG.public]))
    assert verdict(export)[0] == "result"


def test_an_entry_that_does_not_say_what_its_kind_has_to_is_named(tmp_path: Path) -> None:
    export = Log([Told("round.completed", {"round_id": ROUND})], [(1, BEGIN + 1)]).write(tmp_path)
    assert verdict(export) == ("malformed", "Entry 0 (round.completed) does not say what its kind has to.")

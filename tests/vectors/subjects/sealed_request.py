"""Sealed requests and their answers, with every value between, and what is a retry and what is not."""

from typing import Any

from qflare_protocol.encoding import encode
from qflare_protocol.sealed_request import (
    Authorization,
    MessageNumber,
    RequestOpener,
    SealedAnswer,
    Target,
    open_answer,
    seal_answer,
    seal_request,
)
from tests.vectors.parties import NOW, SESSION_ID, played_again
from tests.vectors.vector_file import Case, Receiver, Refused, VectorFile

TRAFFIC_KEY, SALT, ANSWER_SALT = bytes(range(32)), bytes(range(200, 216)), bytes(range(216, 232))
CBOR, PROBLEM = "application/cbor", "application/problem+json"
WORK = encode({"round": None, "ask_again_seconds": 5})
REFUSAL = b'{"type":"urn:qflare:problem:no-model","title":"The federation has no model version yet.","status":404}'
NUMBER = ["session_id", "generation", "epoch", "sequence"]

ROWS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("work", {"method": "POST", "path": "/api/work", "content_type": CBOR, "body": encode({}),
              "status": 200, "answer_type": CBOR, "answer": WORK}),
    ("no body, a query, a refusal", {
        "method": "GET", "path": "/api/global_model?federation=30313233-3435-3637-3839-3a3b3c3d3e3f&version=2",
        "content_type": "", "body": b"", "status": 404, "answer_type": PROBLEM, "answer": REFUSAL}),
    ("generation 2, large numbers", {"method": "POST", "path": "/api/submit_model", "body": bytes(range(256)) * 3,
                                     "content_type": "application/vnd.qflare.update", "status": 200,
                                     "answer_type": CBOR, "answer": encode({"receipt": bytes(40)}),
                                     "generation": 2, "epoch": 999_999_999_999, "sequence": 999_999_999_999_999}),
)  # fmt: skip


def make() -> VectorFile:
    """Make the file."""
    cases = [_sealed(name, row) for name, row in ROWS]
    purpose = "Requests and answers: inputs, key, nonce, authenticated data, header and body; retries."
    return VectorFile(purpose, "8 Sealed requests", [*cases, _retries(cases[0].values)], _refusals(cases))


def _sealed(name: str, row: dict[str, Any]) -> Case:
    values = {"traffic_key": TRAFFIC_KEY, "session_id": SESSION_ID, "generation": 0, "epoch": NOW // 300}
    values |= {"sequence": 1, "salt": SALT, "answer_salt": ANSWER_SALT, **row}
    case = Case(name, values | {"length": len(row["body"]), "answer_length": len(row["answer"])})
    case.values["status_bytes"] = row["status"].to_bytes(2, "big")
    _add_request(case)
    _add_answer(case)
    return case


def _add_request(case: Case) -> None:
    number = [*NUMBER, "salt"]
    case.step("expand", "material", key="traffic_key", label="request", inputs=number, length=44)
    case.step("slice", "key", input="material", begin=0, end=32)
    case.step("slice", "nonce", input="material", begin=32, end=44)
    target = ["method", "path", "content_type", "length"]
    case.step("labelled frame", "aad", label="request", inputs=[*number, *target])
    case.step("AES-256-GCM", "sealed", key="key", nonce="nonce", plaintext="body", aad="aad")
    case.step("slice", "sealed_body", input="sealed", begin=0, end=case.values["length"])
    case.step("slice", "tag", input="sealed", begin=case.values["length"])
    case.values["header"] = Authorization(_number(case.values), case.values["tag"]).to_header()


def _add_answer(case: Case) -> None:
    number = [*NUMBER, "answer_salt"]
    case.step("expand", "answer_material", key="traffic_key", label="answer", inputs=number, length=44)
    case.step("slice", "answer_key", input="answer_material", begin=0, end=32)
    case.step("slice", "answer_nonce", input="answer_material", begin=32, end=44)
    stated = ["tag", "status_bytes", "answer_type", "answer_length"]
    case.step("labelled frame", "answer_aad", label="answer", inputs=[*number, *stated])
    sealing = {"key": "answer_key", "nonce": "answer_nonce", "plaintext": "answer", "aad": "answer_aad"}
    case.step("AES-256-GCM", "sealed_answer", **sealing)


def _retries(values: dict[str, Any]) -> Case:
    """The same bytes are the same request; the same sequence number sealed anew is another one."""
    members = ("traffic_key", "method", "path", "content_type", "length", "header", "sealed_body")
    again = MessageNumber(values["session_id"], values["generation"], values["epoch"], 1, ANSWER_SALT)
    authorization, body = seal_request(values["traffic_key"], again, _target(values), values["body"])
    retry = {"retry_header": values["header"], "retry_body": values["sealed_body"]}
    other = {"reused_header": authorization.to_header(), "reused_body": body}
    return Case("a retry, and a sequence number used again", {name: values[name] for name in members} | retry | other)


HEADER_CHANGES = (
    ("a leading zero", "generation=0", "generation=00"),
    ("no generation", "generation=0, ", ""),
    ("sequence 0", "sequence=1,", "sequence=0,"),
    ("a sign", "sequence=1,", "sequence=+1,"),
    ("no space after a comma", ", epoch", ",epoch"),
    ("another scheme", "QFLARE1", "qflare1"),
    ("upper-case digits", "salt=c8c9", "salt=C8C9"),
    ("a salt cut short", "salt=c8", "salt="),
)


def _refusals(cases: list[Case]) -> list[Refused]:
    work, query = cases[0].values, cases[1].values
    rows = [
        (f"the header with {name}", "malformed-message", {"header": work["header"].replace(*change)})
        for name, *change in HEADER_CHANGES
    ]
    changed = "request-not-authentic"
    rows += [
        ("another method", changed, {"method": "PUT"}),
        ("another path", changed, {"path": "/api/session/close"}),
        ("another content type", changed, {"content_type": "application/json"}),
        ("another length", changed, {"length": 2}),
        ("another body", changed, {"sealed_body": bytes([work["sealed_body"][0] ^ 1])}),
        ("another tag", changed, {"header": work["header"][:-32] + "0" * 32}),
        ("another epoch", changed, {"header": work["header"].replace(f"{NOW // 300}", f"{NOW // 300 + 1}")}),
        ("another traffic key", changed, {"traffic_key": bytes(31) + b"\x01"}),
    ]
    refusals = [Refused(name, "server opens the request", code, row, "work") for name, code, row in rows]
    without_query = Refused("the query left out", "server opens the request", changed, {"path": "/api/global_model"})
    without_query.of = cases[1].name
    answers = [
        ("another status", {"status": 500}),
        ("another content type", {"answer_type": PROBLEM}),
        ("another salt", {"answer_salt": SALT}),
        ("another body", {"sealed_answer": bytes(len(work["sealed_answer"]))}),
        ("cut short", {"sealed_answer": work["sealed_answer"][:15]}),
        ("the answer to another request", {"header": query["header"]}),
    ]
    code = "answer-not-authentic"
    refusals += [Refused(f"answer: {name}", "device opens the answer", code, row, "work") for name, row in answers]
    return [*refusals, without_query]


def _number(values: dict[str, Any]) -> MessageNumber:
    return MessageNumber(*(values[name] for name in (*NUMBER, "salt")))


def _target(values: dict[str, Any]) -> Target:
    return Target(values["method"], values["path"], values["content_type"], values["length"])


def _opened(values: dict[str, Any], header: str = "header", body: str = "sealed_body") -> tuple[bytes, bytes]:
    opener = RequestOpener(values["traffic_key"], Authorization.from_header(values[header]), _target(values))
    plain = opener.update(values[body])
    opener.finish()
    return plain, opener.request_digest


def _device_seals(values: dict[str, Any]) -> None:
    if "body" in values:
        made = seal_request(values["traffic_key"], _number(values), _target(values), values["body"])
        assert (made[0].to_header(), made[1]) == (values["header"], values["sealed_body"])


def _server_opens(values: dict[str, Any]) -> None:
    if "body" in values:
        assert _opened(values)[0] == values["body"]


def _server_answers(values: dict[str, Any]) -> None:
    if "body" in values:
        authorization = Authorization.from_header(values["header"])
        with played_again(random_bytes=values["answer_salt"]):
            made = seal_answer(
                values["traffic_key"], authorization, values["status"], values["answer_type"], values["answer"]
            )
        assert made.body == values["sealed_answer"]


def _device_opens(values: dict[str, Any]) -> None:
    if "body" in values:
        stated = (values["status"], values["answer_type"], values["answer_salt"], values["sealed_answer"])
        authorization = Authorization.from_header(values["header"])
        assert open_answer(values["traffic_key"], authorization, SealedAnswer(*stated)) == values["answer"]


def _replay_window(values: dict[str, Any]) -> None:
    if "retry_header" in values:
        first, retry = _opened(values), _opened(values, "retry_header", "retry_body")
        reused = _opened(values, "reused_header", "reused_body")
        assert first == retry
        assert (first[0], first[1] != reused[1]) == (reused[0], True)


RECEIVERS: dict[str, Receiver] = {
    "device seals the request": _device_seals,
    "server opens the request": _server_opens,
    "server seals the answer": _server_answers,
    "device opens the answer": _device_opens,
    "server knows a retry": _replay_window,
}

"""The error catalogue of QF/1: every refusal a peer can meet, with its HTTP status and public title.

Over HTTP a refusal is an RFC 9457 problem details object whose `type` is `TYPE_PREFIX` and the
code. The code is stable; the detail sentence may change.
"""

from dataclasses import dataclass
from typing import Any

TYPE_PREFIX = "urn:qflare:problem:"


@dataclass(frozen=True)
class Problem:
    """One row of the catalogue."""

    code: str
    status: int
    title: str


_ROWS = (
    # What arrived could not be read.
    ("malformed-message", 400, "The message is not well-formed."),
    ("length-required", 411, "The request must state its Content-Length."),
    ("message-too-large", 413, "The message is larger than this endpoint accepts."),
    ("unsupported-media-type", 415, "The media type is not accepted here."),
    ("not-acceptable", 406, "No acceptable media type can be produced."),
    ("not-found", 404, "There is nothing here that this caller may see."),
    ("method-not-allowed", 405, "The method is not allowed here."),
    ("range-not-satisfiable", 416, "The range begins behind the end."),
    ("conflict", 409, "The request conflicts with the current state."),
    ("rate-limited", 429, "Too many requests; ask again later."),
    ("internal-error", 500, "The server failed; the failure is recorded."),
    ("service-unavailable", 503, "A part this request needs is not available; ask again later."),
    ("permission-denied", 403, "This caller may not do that."),
    ("approval-required", 409, "It takes two persons."),
    # Cryptography.
    ("invalid-key", 400, "A key has the wrong length or form."),
    ("invalid-signature", 401, "A signature does not verify."),
    ("decryption-failed", 400, "The ciphertext does not open."),
    ("algorithm-unavailable", 501, "No engine here serves the algorithm."),
    ("suite-refused", 403, "No offered suite is acceptable."),
    # Enrolment.
    ("token-unknown", 403, "The enrolment token is not known."),
    ("token-used", 403, "The enrolment token has already been used."),
    ("token-expired", 403, "The enrolment token has expired."),
    ("token-revoked", 403, "The enrolment token has been revoked."),
    ("token-name-mismatch", 403, "The enrolment token was issued for another device name."),
    ("enrolment-refused", 403, "The proof of possession does not hold."),
    ("device-name-taken", 409, "A device of that name is already enrolled."),
    ("key-already-registered", 409, "That key is already registered."),
    ("server-not-authenticated", 401, "The server could not prove the identity this device pins."),
    # Handshake and session.
    ("authentication-failed", 401, "The device could not be authenticated."),
    ("device-suspended", 403, "The device is suspended."),
    ("handshake-expired", 409, "The challenge has expired; start a new handshake."),
    ("handshake-used", 409, "The challenge has already been answered; start a new handshake."),
    ("clock-skew", 409, "The device clock is too far from the server clock."),
    ("session-expired", 401, "The session has ended; start a new handshake."),
    ("session-limit-reached", 401, "The session has used its key allowance; start a new handshake."),
    ("rekey-refused", 409, "The rekey does not fit this session; start a new handshake."),
    ("key-rotation-required", 403, "The device has to register new keys first."),
    ("key-rotation-refused", 403, "The new keys were not registered."),
    ("qkd-required", 403, "The device's group demands a QKD key in every handshake."),
    ("qkd-key-refused", 409, "The QKD key is unknown, used or expired; ask for another."),
    ("qkd-unavailable", 503, "No QKD key can be had at the moment."),
    ("epoch-expired", 409, "The message belongs to an epoch that is over or not yet begun."),
    ("request-not-authentic", 401, "The sealed request does not open under its session."),
    ("sequence-too-old", 409, "The sequence number is behind the replay window."),
    ("sequence-reused", 409, "The sequence number was used for another request."),
    ("answer-not-authentic", 502, "The sealed answer does not open under its session."),
    # Rounds and updates.
    ("no-model", 404, "The federation has no model version yet."),
    ("round-closed", 409, "The round no longer accepts updates."),
    ("not-invited", 403, "The device has no part in this round."),
    ("base-model-mismatch", 409, "The update was trained from another model version."),
    ("enclave-key-mismatch", 409, "The update is sealed to another enclave key than the round's."),
    ("digest-mismatch", 400, "The bytes received do not match the signed digest or size."),
    ("upload-offset-mismatch", 409, "The piece does not begin where the upload ends."),
    ("update-too-large", 413, "The update is larger than the federation accepts."),
    ("sample-count-refused", 422, "The sample count is not a whole number within the policy's bounds."),
    ("already-submitted", 409, "The device has already submitted another update to this round."),
    ("invalid-tensors", 422, "The tensors do not have the names, shapes, types or values of the base model."),
    ("privacy-budget-spent", 409, "The federation's privacy budget is spent."),
    ("policy-refused", 422, "The aggregation policy is not acceptable."),
    # Enclave, evidence, log.
    ("evidence-refused", 403, "The enclave's evidence does not satisfy the pinned policy."),
    ("enclave-failed", 503, "The sealed enclave process failed."),
    ("carried-rows-lost", 503, "What the federation carries from round to round does not open."),
    ("sealing-refused", 503, "The platform refused a protection that the enclave's policy demands."),
    ("too-few-updates", 422, "There are fewer acceptable updates than the policy's minimum."),
    ("proof-refused", 409, "A log proof does not verify."),
    ("log-inconsistent", 409, "The log is not an extension of the checkpoint this peer has seen."),
)

CATALOGUE: dict[str, Problem] = {code: Problem(code, status, title) for code, status, title in _ROWS}


@dataclass(frozen=True)
class AuditEvent:
    """An event that outlives the transaction a refusal rolls back: kind, actor and JSON payload."""

    kind: str
    actor: str
    payload: dict[str, Any]


class Refusal(Exception):  # noqa: N818 - "refusal" is the word of the house; it reads as what it is
    """A typed refusal: a catalogue code, a sentence for the caller, and members for the problem object.

    `extensions` become further members of the RFC 9457 object and must be JSON values that carry no
    secret. Raises `KeyError` when the code is not in the catalogue: an unlisted refusal is a defect.
    """

    def __init__(self, code: str, detail: str, /, **extensions: Any) -> None:
        super().__init__(f"{code}: {detail}")
        self.problem = CATALOGUE[code]
        self.code = code
        self.detail = detail
        self.extensions = extensions
        self.audit_event: AuditEvent | None = None

    def with_event(self, kind: str, *, actor: str, **payload: Any) -> "Refusal":
        """Return this refusal with the audit event that whoever answers it records on its own."""
        self.audit_event = AuditEvent(kind, actor, payload)
        return self

    def as_problem_details(self) -> dict[str, Any]:
        """Return the RFC 9457 members: type, title, status, detail and the extensions."""
        return {
            "type": TYPE_PREFIX + self.code,
            "title": self.problem.title,
            "status": self.problem.status,
            "detail": self.detail,
            **self.extensions,
        }

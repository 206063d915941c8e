"""What the processes of one round that share a model say to one another, through hands that may not read it.

A message is sealed under a key derived from the round's sealing key with measurement, policy digest,
federation and round, as the round's private keys are wrapped: only sealed processes of the same code on
the enclave host derive it. Kind, sending range and the round's inputs are authenticated with it, so a
message of another round, of other updates or of another step does not open.
"""

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from enclave.core.first_pass import Reading, Sight
from enclave.core.keys import NONCE_BYTES, WrappingContext
from enclave.core.rules.combination import Combination, CoordinateCombination, LinearCombination
from enclave.core.rules.coordinate_rules import CoordinateRule
from enclave.core.rules.pipeline import Pipeline
from enclave.core.rules.span import Matrix
from enclave.core.second_pass import Plan
from qflare_protocol.carried_rows import CarriedRow
from qflare_protocol.encoding import decode, encode, frame, label
from qflare_protocol.errors import Refusal

MAX_MESSAGE_BYTES = 1 << 26
READING, SIGHT, SECOND_READING, DECISION, SLICE = "reading", "sight", "second reading", "decision", "slice"


@dataclass(frozen=True)
class RangeSeal:
    """Seals and opens the messages of one round; `inputs` is the 64-byte digest of what all its processes work on."""

    context: WrappingContext = field(repr=False)
    inputs: bytes

    def seal(self, kind: str, sender: int, content: dict[str, Any]) -> bytes:
        """Return the sealed message. Raises `Refusal("message-too-large")`."""
        plaintext = encode(content)
        if len(plaintext) > MAX_MESSAGE_BYTES:
            raise Refusal("message-too-large", "A round of that many updates cannot be shared among ranges.")
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher().encrypt(nonce, plaintext, self._place(kind, sender))

    def open(self, message: bytes, kind: str, sender: int) -> dict[str, Any]:
        """Return the content of that range's message of that kind. Raises `Refusal("enclave-failed")`."""
        nonce, ciphertext = message[:NONCE_BYTES], message[NONCE_BYTES:]
        try:
            plaintext = self._cipher().decrypt(nonce, ciphertext, self._place(kind, sender))
        except (InvalidTag, ValueError) as error:
            raise Refusal("enclave-failed", f"What should be the {kind} of range {sender} is none of it.") from error
        content: dict[str, Any] = decode(plaintext, what=kind, maximum_bytes=MAX_MESSAGE_BYTES)
        return content

    def _cipher(self) -> AESGCM:
        return self.context.cipher(label("range message"))

    def _place(self, kind: str, sender: int) -> bytes:
        return frame(kind.encode(), sender.to_bytes(8, "big"), self.inputs)


def matrices_to_list(matrices: list[Matrix]) -> list[Any]:
    """Return square matrices for CBOR; of one that has nothing beside its diagonal that alone."""
    return [[len(matrix), _needed(matrix).astype("<f8").tobytes()] for matrix in matrices]


def matrices_from_list(rows: list[Any]) -> list[Matrix]:
    """Return the matrices again, bit by bit."""
    matrices = []
    for size, data in rows:
        numbers = np.frombuffer(data, dtype="<f8").astype(np.float64)
        matrices.append(np.diag(numbers) if len(numbers) == size else numbers.reshape(size, size))
    return matrices


def _needed(matrix: Matrix) -> Matrix:
    beside = matrix.copy()
    np.fill_diagonal(beside, 0.0)
    return matrix if beside.any() else np.diag(matrix)


def reading_to_map(reading: Reading) -> dict[str, Any]:
    """Return a reading for CBOR."""
    refusals = [[row, refusal.code, refusal.detail] for row, refusal in sorted(reading.refusals.items())]
    return {"segments": matrices_to_list(reading.segments), "refusals": refusals}


def reading_from_map(members: dict[str, Any]) -> Reading:
    """Return the reading again."""
    refusals = {row: Refusal(code, detail) for row, code, detail in members["refusals"]}
    return Reading(matrices_from_list(members["segments"]), refusals)


def sight_to_list(sight: Sight) -> list[Any]:
    """Return a sight for CBOR."""
    return [list(sight.rows), sight.pivot]


def sight_from_list(value: list[Any]) -> Sight:
    """Return the sight again."""
    return Sight(tuple(value[0]), value[1])


def carried_to_list(rows: list[CarriedRow] | tuple[CarriedRow, ...]) -> list[Any]:
    """Return descriptions of sealed rows for CBOR."""
    return [[row.name, row.enclave_key_id, row.digest] for row in rows]


def carried_from_list(rows: list[Any]) -> list[CarriedRow]:
    """Return the descriptions again."""
    return [CarriedRow(*row) for row in rows]


def plan_to_map(plan: Plan) -> dict[str, Any]:
    """Return a plan for CBOR."""
    return {
        "kept": list(plan.kept),
        "combination": _combination_to_map(plan.combination),
        "noise_deviation": plan.noise_deviation,
        "next_radius": plan.next_radius,
        "seed": plan.seed,
    }


def plan_from_map(members: dict[str, Any], pipeline: Pipeline) -> Plan:
    """Return the plan again, for the pipeline that made it."""
    combination = _combination_from_map(members["combination"], pipeline)
    return Plan(
        tuple(members["kept"]), combination, members["noise_deviation"], members["next_radius"], members["seed"]
    )


def _combination_to_map(combination: Combination) -> dict[str, Any]:
    members: dict[str, Any] = {"rows": list(combination.rows)}
    if isinstance(combination, CoordinateCombination):
        width = combination.mixing.shape[1]
        return members | {
            "mixing": [width, combination.mixing.astype("<f8").tobytes()],
            "tolerated": combination.tolerated,
        }
    assert isinstance(combination, LinearCombination)  # noqa: S101 - there are two kinds of combinations
    return members | {"weights": list(combination.weights), "reads_centre": combination.reads_centre}


def _combination_from_map(members: dict[str, Any], pipeline: Pipeline) -> Combination:
    rows = tuple(members["rows"])
    if "weights" in members:
        return LinearCombination(rows, tuple(members["weights"]), members["reads_centre"])
    width, mixing = members["mixing"]
    assert isinstance(pipeline.rule, CoordinateRule)  # noqa: S101 - the same policy made both
    matrix = np.frombuffer(mixing, dtype="<f8").reshape(-1, width).astype(np.float64)
    return CoordinateCombination(rows, matrix, pipeline.rule, members["tolerated"])

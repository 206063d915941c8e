"""One round's aggregation in two streaming passes; no step holds n whole updates.

The set of inputs is recorded; pass 1 reads all candidates in lock step and accumulates their Gram
matrix; the screening decides on it; the decision is recorded; only then verdicts may leave, and pass
2 reads base model and accepted updates and gives out the new model. Rows stand in order of device
id, so the same inputs give the same bits.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from time import perf_counter
from typing import Protocol

import blake3
import numpy as np

from enclave.core.combine import add_weighted, columns_per_range, sample_weights
from enclave.core.first_pass import FirstPass
from enclave.core.inputs import Candidate, check_manifests, detail_of
from enclave.core.keys import RoundKeys
from enclave.core.requests import AggregateRequest
from enclave.core.screening import ScreenedUpdate, screen
from enclave.core.streams import Row, open_base_model, open_delta
from qflare_protocol.encoding import digest, encode
from qflare_protocol.errors import Refusal
from qflare_protocol.manifest import manifest_digest
from qflare_protocol.round_result import (
    SCREENING_REASONS,
    RoundResult,
    Scores,
    UpdateVerdict,
    roster_digest,
    sign_result,
)
from qflare_protocol.tensors import TensorLayout, encode_header

BASE_MODEL = -1
"""The source number of the base model; updates are numbered from 0."""

SIGNIFICANT_DIGITS = 6


class Courier(Protocol):
    """What the aggregation needs from outside; the sealed process reaches it over its channel."""

    def pieces(self, source: int, reading: int) -> Iterator[bytes]:
        """Yield the bytes of a source from the start, for its 1st or 2nd reading."""

    def write_model(self, piece: bytes) -> None:
        """Take the next piece of the new model."""

    def report_step(self, name: str, seconds: float) -> None:
        """Take note of how long a step took."""


class Record(Protocol):
    """What binds the round to one set of inputs and one decision; see `enclave.core.host.DecisionRecord`."""

    def commit_inputs(self, inputs: bytes) -> None:
        """Keep the 64-byte digest of the inputs. Raises `Refusal("conflict")` where another stands."""

    def commit_decision(self, decision: bytes) -> None:
        """Keep the 64-byte digest of the decision. Raises `Refusal("conflict")` where another stands."""


class Aggregation:
    """One round's request, its keys, the courier that brings the bytes, and the record that binds the round."""

    def __init__(self, request: AggregateRequest, keys: RoundKeys, courier: Courier, record: Record) -> None:
        self._request = request
        self._keys = keys
        self._courier = courier
        self._record = record
        self._started = perf_counter()

    def run(self) -> bytes:
        """Return the signed `RoundResult`; the new model has gone to the courier before.

        Raises `Refusal`: "too-few-updates" (with the verdicts), "conflict" for other inputs or another
        decision than the recorded ones, "enclave-failed" when a source changes between its readings,
        and for a base model that is not the request's "digest-mismatch" or "invalid-tensors".
        """
        candidates, verdicts = check_manifests(self._request, self._keys.key_id)
        self._require_enough(candidates, verdicts, "have a manifest that holds")
        self._record.commit_inputs(self._inputs())
        layout = self._check_base_model()
        self._step_done("check")
        survivors, screened, failed = self._screen(candidates, layout)
        accepted = [one for one, seen in zip(survivors, screened, strict=True) if seen.reason is None]
        verdicts = sorted(
            [*verdicts, *failed, *_screening_verdicts(survivors, screened)],
            key=lambda verdict: (verdict.device_id, verdict.manifest_digest),
        )
        self._record.commit_decision(self._decision(verdicts))
        self._require_enough(accepted, verdicts, "are acceptable")
        self._step_done("decide")
        model_digest = self._combine(accepted, layout)
        self._step_done("combine")
        return sign_result(self._result(accepted, verdicts, layout, model_digest), self._keys.result_signer)

    def _step_done(self, name: str) -> None:
        now = perf_counter()
        self._courier.report_step(name, now - self._started)
        self._started = now

    def _check_base_model(self) -> TensorLayout:
        row = open_base_model(self._courier.pieces(BASE_MODEL, 1), self._request.base_model_digest)
        row.skip(columns_per_range(1))
        row.finish()
        return row.layout

    def _open(self, candidate: Candidate, layout: TensorLayout, reading: int) -> Row:
        pieces = self._courier.pieces(candidate.source, reading)
        return open_delta(candidate, self._keys.hpke_private, layout, pieces)

    def _screen(
        self, candidates: Sequence[Candidate], layout: TensorLayout
    ) -> tuple[list[Candidate], list[ScreenedUpdate], list[UpdateVerdict]]:
        first = FirstPass(candidates, lambda candidate: self._open(candidate, layout, 1), layout.size)
        gram = first.run()
        self._step_done("read")
        failed = [
            candidates[index].verdict(refusal.code, detail_of(refusal), None)
            for index, refusal in first.refusals.items()
        ]
        return [candidates[index] for index in first.survivors], screen(gram, self._request.policy), failed

    def _require_enough(self, left: Sequence[Candidate], verdicts: Sequence[UpdateVerdict], which: str) -> None:
        minimum = self._request.policy.minimum_updates
        if len(left) < minimum:
            raise Refusal(
                "too-few-updates",
                f"{len(left)} updates {which}; the policy's minimum is {minimum}.",
                verdicts=[_public_verdict(verdict) for verdict in verdicts],
            )

    def _inputs(self) -> bytes:
        """Return the digest of all that the decision rests on, in an order that does not depend on arrival."""
        request = self._request
        return digest(
            "round inputs",
            request.federation_id,
            request.round_id,
            self._keys.key_id,
            request.policy.digest(),
            roster_digest(request.roster),
            request.base_model_digest,
            encode(sorted([update.device_id, manifest_digest(update.manifest)] for update in request.updates)),
        )

    def _decision(self, verdicts: Sequence[UpdateVerdict]) -> bytes:
        return digest("round decision", self._inputs(), encode([asdict(verdict) for verdict in verdicts]))

    def _combine(self, accepted: Sequence[Candidate], layout: TensorLayout) -> bytes:
        """Give the new model out piece by piece and return its digest."""
        try:
            return self._second_pass(accepted, layout)
        except Refusal as refusal:
            raise Refusal("enclave-failed", f"The new model could not be made: {refusal.detail}") from refusal

    def _second_pass(self, accepted: Sequence[Candidate], layout: TensorLayout) -> bytes:
        base = open_base_model(self._courier.pieces(BASE_MODEL, 2), self._request.base_model_digest)
        rows = [base, *(self._open(candidate, layout, 2) for candidate in accepted)]
        weights = sample_weights([candidate.manifest.sample_count for candidate in accepted])
        hasher = blake3.blake3()
        for piece in _model_pieces(rows, weights, layout):
            hasher.update(piece)
            self._courier.write_model(piece)
        for row in rows:
            row.finish()
        return hasher.digest()

    def _result(
        self,
        accepted: Sequence[Candidate],
        verdicts: Sequence[UpdateVerdict],
        layout: TensorLayout,
        model_digest: bytes,
    ) -> RoundResult:
        request = self._request
        return RoundResult(
            round_id=request.round_id,
            federation_id=request.federation_id,
            enclave_key_id=self._keys.key_id,
            base_model_digest=request.base_model_digest,
            model_digest=model_digest,
            model_bytes=layout.container_bytes,
            rule=request.policy.rule,
            policy_digest=request.policy.digest(),
            roster_digest=roster_digest(request.roster),
            sample_total=sum(candidate.manifest.sample_count for candidate in accepted),
            verdicts=tuple(verdicts),
        )


def _model_pieces(rows: Sequence[Row], weights: Sequence[float], layout: TensorLayout) -> Iterator[bytes]:
    yield encode_header(layout)
    columns = columns_per_range(len(rows))
    block = np.empty((len(rows), columns), dtype=np.float32)
    for start in range(0, layout.size, columns):
        width = min(columns, layout.size - start)
        for index, row in enumerate(rows):
            row.read_into(block[index, :width])
        yield add_weighted(block[0, :width], list(block[1:, :width]), weights).astype("<f4").tobytes()


def _screening_verdicts(survivors: Sequence[Candidate], screened: Sequence[ScreenedUpdate]) -> list[UpdateVerdict]:
    accepted = [one for one, seen in zip(survivors, screened, strict=True) if seen.reason is None]
    weights = sample_weights([candidate.manifest.sample_count for candidate in accepted])
    weight_of = {candidate.device_id: weight for candidate, weight in zip(accepted, weights, strict=True)}
    verdicts = []
    for candidate, seen in zip(survivors, screened, strict=True):
        scores = _scores(seen, weight_of.get(candidate.device_id, 0.0))
        detail = None if seen.reason is None else SCREENING_REASONS[seen.reason]
        verdicts.append(candidate.verdict(seen.reason, detail, scores))
    return verdicts


def _scores(seen: ScreenedUpdate, weight: float) -> Scores:
    """Return the scores to six digits: what lies below may differ between processors' BLAS kernels."""
    values = (seen.norm, seen.norm_ratio, seen.cosine, weight)
    return Scores(*(float(f"{value:.{SIGNIFICANT_DIGITS}g}") for value in values))


def _public_verdict(verdict: UpdateVerdict) -> dict[str, str | bool | None]:
    return {"device_id": verdict.device_id.hex(), "accepted": verdict.accepted, "reason": verdict.reason}

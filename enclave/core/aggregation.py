"""One round's aggregation in two streaming passes; no step holds a whole update or a whole model.

The set of inputs is recorded; pass 1 reads all candidates in lock step and accumulates the products
of their rows; the pipeline decides on those; the decision is recorded; only then verdicts may leave,
and pass 2 reads base model, updates and carried rows and gives out the new model and the rows that
the federation carries on. Rows stand in order of device id, so the same inputs give the same bits.
"""

from collections.abc import Sequence
from dataclasses import asdict
from time import perf_counter
from typing import Protocol

import numpy as np

from enclave.core.carried import CarriedSeal
from enclave.core.first_pass import FirstPass, Seen
from enclave.core.inputs import Candidate, check_manifests
from enclave.core.keys import RoundKeys
from enclave.core.requests import AggregateRequest
from enclave.core.rows import SealedRows
from enclave.core.rules.pipeline import Decision, Pipeline, needs_gram
from enclave.core.second_pass import Outputs, SecondPass
from enclave.core.sources import BASE_MODEL, Courier, Sources
from enclave.core.verdicts import pipeline_verdicts, public_verdict
from qflare_protocol.carried_rows import CarriedRow, carried_digest
from qflare_protocol.encoding import digest, encode
from qflare_protocol.errors import Refusal
from qflare_protocol.manifest import manifest_digest
from qflare_protocol.round_result import RoundResult, UpdateVerdict, roster_digest, sign_result
from qflare_protocol.tensors import TensorLayout

__all__ = ["BASE_MODEL", "Aggregation", "Courier", "Record"]


class Record(Protocol):
    """What binds the round to one set of inputs and one decision; see `enclave.core.host.DecisionRecord`."""

    def commit_inputs(self, inputs: bytes) -> None:
        """Keep the 64-byte digest of the inputs. Raises `Refusal("conflict")` where another stands."""

    def commit_decision(self, decision: bytes) -> None:
        """Keep the 64-byte digest of the decision. Raises `Refusal("conflict")` where another stands."""


class Aggregation:
    """One round's request, its keys and seal, the courier that brings the bytes, and the record that binds it."""

    def __init__(
        self, request: AggregateRequest, keys: RoundKeys, seal: CarriedSeal, courier: Courier, record: Record
    ) -> None:
        self._request = request
        self._pipeline = Pipeline.of(request.policy)
        self._keys = keys
        self._seal = seal
        self._courier = courier
        self._record = record
        self._sources = Sources(request, keys, seal, courier)
        self._started = perf_counter()

    def run(self) -> bytes:
        """Return the signed `RoundResult`; the new model and the carried rows have gone to the courier before.

        Raises `Refusal`: "too-few-updates" (with the verdicts), "conflict" for other inputs or another
        decision than the recorded ones, "enclave-failed" when a source changes between its readings,
        "carried-rows-lost" for a carried row that does not open, "policy-refused" for a pipeline that
        does not hold, and for a base model that is not the request's "digest-mismatch" or
        "invalid-tensors".
        """
        candidates, verdicts = check_manifests(self._request, self._keys.key_id)
        self._require_enough(candidates, verdicts, "have a manifest that holds")
        inputs = self._inputs()
        self._record.commit_inputs(inputs)
        layout, seed = self._check_base_model(), self._keys.seed(inputs)
        self._step_done("check")
        seen = FirstPass(self._sources, self._pipeline, layout).run(candidates, seed)
        self._step_done("read")
        decision, verdicts = self._decide(seen, [*verdicts, *seen.verdicts])
        self._record.commit_decision(digest("round decision", inputs, encode([asdict(one) for one in verdicts])))
        if decision is None:
            raise self._too_few(len(seen.survivors), verdicts, "can be read")
        accepted = [seen.survivors[index] for index in decision.kept]
        self._require_enough(accepted, verdicts, "are acceptable")
        if decision.shortfall:
            raise self._too_few(len(accepted), verdicts, decision.shortfall)
        self._step_done("decide")
        second = SecondPass(
            self._sources, self._courier, self._seal, self._pipeline, layout, key_id=self._keys.key_id, seed=seed
        )
        outputs = second.run(seen.survivors, decision)
        self._step_done("combine")
        return sign_result(self._result(accepted, verdicts, layout, outputs), self._keys.result_signer)

    def _step_done(self, name: str) -> None:
        now = perf_counter()
        self._courier.report_step(name, now - self._started)
        self._started = now

    def _check_base_model(self) -> TensorLayout:
        row = self._sources.base_model()
        for block in SealedRows([lambda: row], row.layout.size).blocks([0]):
            if not np.isfinite(block).all():
                raise Refusal("invalid-tensors", "The base model holds NaN or infinity.")
        return row.layout

    def _decide(self, seen: Seen, verdicts: Sequence[UpdateVerdict]) -> tuple[Decision | None, list[UpdateVerdict]]:
        """Return the decision and every verdict in order; no decision where too few updates can be read."""
        decision, judged = None, [survivor.verdict(None, None, None) for survivor in seen.survivors]
        if len(seen.survivors) >= self._request.policy.minimum_updates:
            decision = self._pipeline.decide(seen.rows)
            with_cosines = needs_gram(self._pipeline)
            judged = pipeline_verdicts(
                seen.survivors, decision, with_scores=not self._pipeline.private, with_cosines=with_cosines
            )
        return decision, sorted([*verdicts, *judged], key=lambda one: (one.device_id, one.manifest_digest))

    def _require_enough(self, left: Sequence[Candidate], verdicts: Sequence[UpdateVerdict], which: str) -> None:
        if len(left) < self._request.policy.minimum_updates:
            raise self._too_few(len(left), verdicts, which)

    def _too_few(self, left: int, verdicts: Sequence[UpdateVerdict], which: str) -> Refusal:
        return Refusal(
            "too-few-updates",
            f"{left} updates {which}; the policy's minimum is {self._request.policy.minimum_updates}.",
            verdicts=[public_verdict(verdict) for verdict in verdicts],
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
            carried_digest(request.carried),
        )

    def _carried_after(self, made: Sequence[CarriedRow]) -> bytes:
        after = {row.name: row for row in (*self._request.carried, *made)}
        return carried_digest(list(after.values()))

    def _result(
        self,
        accepted: Sequence[Candidate],
        verdicts: Sequence[UpdateVerdict],
        layout: TensorLayout,
        outputs: Outputs,
    ) -> RoundResult:
        request = self._request
        return RoundResult(
            round_id=request.round_id,
            federation_id=request.federation_id,
            enclave_key_id=self._keys.key_id,
            base_model_digest=request.base_model_digest,
            model_digest=outputs.model_digest,
            model_bytes=layout.container_bytes,
            rule=request.policy.rule.name,
            policy_digest=request.policy.digest(),
            roster_digest=roster_digest(request.roster),
            sample_total=sum(candidate.manifest.sample_count for candidate in accepted),
            carried_in=carried_digest(request.carried),
            carried_out=self._carried_after(outputs.carried),
            verdicts=tuple(verdicts),
        )

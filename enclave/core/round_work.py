"""What every process of a round begins with, and how a round is decided, whoever has read its rows."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Protocol

import numpy as np

from enclave.core.carried import RADIUS, CarriedSeal
from enclave.core.extent import Extent
from enclave.core.first_pass import Seen, rows_of
from enclave.core.inputs import Candidate, check_manifests, range_inputs, round_inputs
from enclave.core.keys import RoundKeys
from enclave.core.requests import AggregateRequest
from enclave.core.rows import SealedRows
from enclave.core.rules.pipeline import Decision, Pipeline, needs_gram
from enclave.core.rules.span import Matrix
from enclave.core.second_pass import Plan
from enclave.core.sources import Courier, Sources
from enclave.core.verdicts import pipeline_verdicts, public_verdict
from qflare_protocol.carried_rows import CarriedRow, carried_digest
from qflare_protocol.encoding import digest, encode
from qflare_protocol.errors import Refusal
from qflare_protocol.ranges import Columns
from qflare_protocol.round_result import RoundResult, SignedResult, commitment_to, roster_digest, sign_judged
from qflare_protocol.round_verdicts import UpdateVerdict
from qflare_protocol.tensors import TensorLayout
from qflare_protocol.update_shape import UpdateShape


class Record(Protocol):
    """What binds the round to one set of inputs and one decision; see `enclave.core.host.DecisionRecord`."""

    def commit_inputs(self, inputs: bytes) -> None:
        """Keep the 64-byte digest of the inputs. Raises `Refusal("conflict")` where another stands."""

    def commit_decision(self, decision: bytes) -> None:
        """Keep the 64-byte digest of the decision. Raises `Refusal("conflict")` where another stands."""


@dataclass(frozen=True)
class Decided:
    """A round's decision: what is combined of whose rows, every verdict in order, the samples of those accepted."""

    plan: Plan
    survivors: tuple[Candidate, ...]
    verdicts: tuple[UpdateVerdict, ...]
    sample_total: int


class RoundWork:
    """One request, its keys and seal, the courier that brings the bytes, and the record that binds it.

    `index` is the range that the process works on, `key_ids` are those of all ranges' processes in order;
    of one process alone its own.
    """

    def __init__(
        self,
        request: AggregateRequest,
        keys: RoundKeys,
        seal: CarriedSeal,
        courier: Courier,
        record: Record,
        *,
        index: int = 0,
        key_ids: Sequence[bytes] = (),
    ) -> None:
        self._started = perf_counter()
        self.request, self.keys, self.seal, self.courier, self.record = request, keys, seal, courier, record
        self.pipeline = Pipeline.of(request.policy)
        self.sources = Sources(request, keys, seal, courier)
        self.index, self.key_ids = index, tuple(key_ids) or (keys.key_id,)
        if self.key_ids[index] != keys.key_id:
            raise Refusal("enclave-failed", "The process holds the keys of another range.")
        self.candidates, self.refused = check_manifests(request, self.key_ids)
        self.round_inputs = round_inputs(request, self.key_ids)
        self.inputs = range_inputs(request, self.round_inputs, index)

    def begin(self) -> None:
        """Commit the inputs. Raises `Refusal`: "too-few-updates" before, "conflict" where others are committed."""
        self._require_enough(len(self.candidates), self.refused, "have a manifest that holds")
        self.record.commit_inputs(self.inputs)

    def extent(self) -> Extent:
        """Read the base model and return the process's range of it.

        Raises `Refusal`: "digest-mismatch" or "invalid-tensors" where it is not the request's,
        "policy-refused" where its ranges are not as many as its processes, or parameters are named that it has not.
        """
        row = self.sources.base_model()
        size = row.layout.size
        for block in SealedRows([lambda: row], Columns(0, size, size)).blocks([0]):
            if not np.isfinite(block).all():
                raise Refusal("invalid-tensors", "The base model holds NaN or infinity.")
        place = {"federation_id": self.request.federation_id, "round_id": self.request.round_id}
        shape = UpdateShape.of(self.request.policy, row.layout, **place)
        return Extent.of(shape, self.index, len(self.key_ids), self.request.policy.ranges)

    def step_done(self, name: str) -> None:
        """Tell the courier how long the step took that has ended now."""
        now = perf_counter()
        self.courier.report_step(name, now - self._started)
        self._started = now

    def decide(self, seen: Seen, again: Sequence[Matrix]) -> Decided:
        """Decide, and commit the decision before it is known to anybody.

        Raises `Refusal`: "too-few-updates" (with the verdicts), "conflict" for another decision than before.
        """
        seed = self.keys.seed(self.inputs)
        decision, verdicts = self._decision(seen, again, seed)
        self.record.commit_decision(digest("round decision", self.inputs, encode([asdict(one) for one in verdicts])))
        if decision is None:
            raise self._too_few(len(seen.survivors), verdicts, "can be read")
        accepted = [seen.survivors[index] for index in decision.kept]
        self._require_enough(len(accepted), verdicts, "are acceptable")
        if decision.shortfall:
            raise self._too_few(len(accepted), verdicts, decision.shortfall)
        plan = Plan(tuple(decision.kept), decision.combination, decision.noise_deviation, decision.next_radius, seed)
        samples = sum(candidate.manifest.sample_count for candidate in accepted)
        return Decided(plan, tuple(seen.survivors), tuple(verdicts), samples)

    def _decision(
        self, seen: Seen, again: Sequence[Matrix], seed: bytes
    ) -> tuple[Decision | None, list[UpdateVerdict]]:
        """Return the decision and every verdict in order; no decision where too few updates can be read."""
        decision, judged = None, [survivor.verdict(None, None, None) for survivor in seen.survivors]
        if len(seen.survivors) >= self.request.policy.minimum_updates:
            radius = self.sources.carried_number(RADIUS)
            decision = self.pipeline.decide(rows_of(self.pipeline, seen, again, seed=seed, radius=radius))
            with_cosines = needs_gram(self.pipeline)
            judged = pipeline_verdicts(
                seen.survivors, decision, with_scores=not self.pipeline.private, with_cosines=with_cosines
            )
        verdicts = [*self.refused, *seen.verdicts, *judged]
        return decision, sorted(verdicts, key=lambda one: (one.device_id, one.manifest_digest))

    def _require_enough(self, left: int, verdicts: Sequence[UpdateVerdict], which: str) -> None:
        if left < self.request.policy.minimum_updates:
            raise self._too_few(left, verdicts, which)

    def _too_few(self, left: int, verdicts: Sequence[UpdateVerdict], which: str) -> Refusal:
        return Refusal(
            "too-few-updates",
            f"{left} updates {which}; the policy's minimum is {self.request.policy.minimum_updates}.",
            verdicts=[public_verdict(verdict) for verdict in verdicts],
        )

    def signed_result(
        self,
        decided: Decided,
        layout: TensorLayout,
        model_digest: bytes,
        *,
        carried: Sequence[CarriedRow],
        made: Sequence[CarriedRow],
    ) -> SignedResult:
        """Return the signed result; `carried` are the rows that the round was given, `made` those it left."""
        request = self.request
        after = {row.name: row for row in (*carried, *made)}
        result = RoundResult(
            round_id=request.round_id,
            federation_id=request.federation_id,
            enclave_key_id=self.keys.key_id,
            base_model_digest=request.base_model_digest,
            model_digest=model_digest,
            model_bytes=layout.container_bytes,
            rule=request.policy.rule.name,
            policy_digest=request.policy.digest(),
            roster_digest=roster_digest(request.roster),
            sample_total=decided.sample_total,
            carried_in=carried_digest(carried),
            carried_out=carried_digest(list(after.values())),
            older_bases=request.older_bases,
            **commitment_to(decided.verdicts),
        )
        return sign_judged(result, decided.verdicts, self.keys.result_signer)

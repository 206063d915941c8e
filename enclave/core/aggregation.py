"""One round's aggregation in two streaming passes; no step holds a whole update or a whole model.

The set of inputs is recorded; pass 1 reads all candidates in lock step and accumulates the products
of their rows; the pipeline decides on those; the decision is recorded; only then verdicts may leave,
and pass 2 reads base model, updates and carried rows and gives out the new model and the rows that
the federation carries on. Rows stand in order of device id, so the same inputs give the same bits.
Where the rows cannot change how they are combined, pass 1 makes the model too, sealed until the
decision is recorded (`enclave.core.foreseen`), and pass 2 is spared.

Here one process does it all; `enclave.core.fan_out` shares the same steps out by ranges of the model.
"""

from enclave.core.carried import CarriedSeal
from enclave.core.extent import Extent
from enclave.core.first_pass import RangeReader, see
from enclave.core.foreseen import ForeseenModel
from enclave.core.keys import RoundKeys
from enclave.core.requests import AggregateRequest
from enclave.core.round_work import Decided, Record, RoundWork
from enclave.core.second_pass import Outputs, SecondPass
from enclave.core.sources import BASE_MODEL, Courier
from enclave.core.staleness import sample_weights
from qflare_protocol.round_result import SignedResult

__all__ = ["BASE_MODEL", "Aggregation", "Courier", "Record"]


class Aggregation:
    """One round's request, its keys and seal, the courier that brings the bytes, and the record that binds it."""

    def __init__(
        self, request: AggregateRequest, keys: RoundKeys, seal: CarriedSeal, courier: Courier, record: Record
    ) -> None:
        self._work = RoundWork(request, keys, seal, courier, record)

    def run(self) -> SignedResult:
        """Return the signed result with its verdicts; the model and the carried rows have gone to the courier before.

        Raises `Refusal`: "too-few-updates" (with the verdicts), "conflict" for other inputs or another
        decision than the recorded ones, "enclave-failed" when a source changes between its readings,
        "carried-rows-lost" for a carried row that does not open, "policy-refused" for a pipeline that
        does not hold, and for a base model that is not the request's "digest-mismatch" or
        "invalid-tensors".
        """
        work = self._work
        work.begin()
        extent = work.extent()
        work.step_done("check")
        foreseen = self._foreseen(extent)
        reader = RangeReader(work.sources, work.pipeline, extent, work.candidates)
        seen = see(work.pipeline, work.candidates, [reader.read(foreseen.take if foreseen else None)])
        again = [] if seen.sight is None else reader.read_again(seen.sight)
        work.step_done("read")
        decided = work.decide(seen, again)
        work.step_done("decide")
        outputs = self._outputs(extent, decided, foreseen)
        work.step_done("combine")
        return work.signed_result(
            decided, extent.layout, outputs.model_digest, carried=work.request.carried, made=outputs.carried
        )

    def _foreseen(self, extent: Extent) -> ForeseenModel | None:
        """Return what makes the model while the updates are read, where they cannot change how they are combined."""
        work = self._work
        combination = work.pipeline.foreseen(sample_weights(work.candidates, work.request.policy))
        if combination is None:
            return None
        return ForeseenModel(combination, work.sources, extent, work.courier)

    def _outputs(self, extent: Extent, decided: Decided, foreseen: ForeseenModel | None) -> Outputs:
        """Give out the decided model and the rows to carry; the model is read for only where it is not there yet."""
        work = self._work
        model_digest = None if foreseen is None else foreseen.release(decided.plan.combination)
        if model_digest is not None:
            return Outputs(model_digest, [])
        second = SecondPass(work.sources, work.courier, work.seal, work.pipeline, extent, key_id=work.keys.key_id)
        return second.run(decided.survivors, decided.plan)

"""One round's aggregation shared out by ranges of the model, each with a sealed process and keys of its own.

    read        range i     what its range of all rows comes to
    decide      range 0     of all readings the decision, or the sight in which all ranges read again
    read again  range i     the same of differences from one row
    combine     range i     its slice of the new model and of the carried rows, sealed
    conclude    range 0     the new model and the signed result

Every step is a process of its own, and what one says to another is sealed (`enclave.core.range_messages`),
so that any step can be done again by any worker of the enclave host. A range records its inputs before it
reads and what it has seen before that leaves; of the readings of all ranges only one decision can follow,
and the round's record holds it. Sums are made by the same segments in the same order as by one process:
the model is the same bit for bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from enclave.core.extent import Extent
from enclave.core.first_pass import RangeReader, see
from enclave.core.inputs import Candidate
from enclave.core.keys import WrappingContext
from enclave.core.range_messages import (
    DECISION,
    READING,
    SECOND_READING,
    SIGHT,
    SLICE,
    RangeSeal,
    carried_from_list,
    carried_to_list,
    matrices_from_list,
    matrices_to_list,
    plan_from_map,
    plan_to_map,
    reading_from_map,
    reading_to_map,
    sight_from_list,
    sight_to_list,
)
from enclave.core.round_work import Decided, RoundWork
from enclave.core.rows import SealedRows
from enclave.core.second_pass import MODEL, SecondPass, model_of_slices
from qflare_protocol.carried_rows import CarriedRow
from qflare_protocol.encoding import digest, encode
from qflare_protocol.errors import Refusal
from qflare_protocol.round_result import SignedResult
from qflare_protocol.round_verdicts import UpdateVerdict, encode_verdicts, leaves_of


@dataclass(frozen=True)
class Said:
    """What a step says to the next one: the kind of message, and the message."""

    kind: str
    message: bytes


class RangeWork:
    """The steps of one range; those of the round as a whole are range 0's."""

    def __init__(self, work: RoundWork, context: WrappingContext) -> None:
        self._work = work
        self._ranges = len(work.key_ids)
        self._seal = RangeSeal(context, work.round_inputs)
        if self._ranges == 1:
            raise Refusal("enclave-failed", "A round of one range is aggregated by one process.")

    def read(self) -> Said:
        """Read the range; the record keeps which updates failed, so that there is one reading of it."""
        reading = self._reader().read()
        content = reading_to_map(reading) | {"carried": carried_to_list(self._work.request.carried)}
        refused = encode(content["refusals"])
        self._work.record.commit_decision(digest("range reading", self._work.inputs, refused))
        return self._say(READING, content)

    def read_again(self, message: bytes) -> Said:
        """Read the range as differences from the row that range 0 named."""
        named = self._seal.open(message, SIGHT, 0)["sight"]
        segments = self._reader().read_again(sight_from_list(named))
        return self._say(SECOND_READING, {"sight": named, "segments": matrices_to_list(segments)})

    def decide(self, readings: Sequence[bytes], second_readings: Sequence[bytes]) -> Said:
        """Return the decision on the readings of all ranges, or the sight in which they are to read again."""
        work = self._work
        work.begin()
        opened = self._opened(readings, READING)
        seen = see(work.pipeline, work.candidates, [reading_from_map(one) for one in opened])
        if seen.sight is not None and not second_readings:
            return self._say(SIGHT, {"sight": sight_to_list(seen.sight)})
        again = []
        if seen.sight is not None:
            closer = self._opened(second_readings, SECOND_READING)
            if any(one["sight"] != sight_to_list(seen.sight) for one in closer):
                raise Refusal("enclave-failed", "A range has read again in another sight.")
            again = [segment for one in closer for segment in matrices_from_list(one["segments"])]
        decided = work.decide(seen, again)
        carried = [row for one in opened for row in one["carried"]]
        return self._say(DECISION, _decided_to_map(decided) | {"carried": carried})

    def combine(self, message: bytes) -> Said:
        """Give out the range's slices as sealed rows, and say what they are."""
        work, (decided, content) = self._work, self._decision(message)
        work.begin()
        extent = work.extent()
        second = SecondPass(work.sources, work.courier, work.seal, work.pipeline, extent, key_id=work.keys.key_id)
        outputs = second.run(decided.survivors, decided.plan)
        work.step_done("combine")
        return self._say(SLICE, {"decision": _digest_of(content), "rows": carried_to_list(outputs.carried)})

    def conclude(self, message: bytes, slices: Sequence[bytes]) -> SignedResult:
        """Give the new model out of the slices, which the request names as carried rows; return the signed result."""
        work, (decided, content) = self._work, self._decision(message)
        made = self._made(slices, _digest_of(content))
        models = [row for row in made if row.name.partition("@")[0] == MODEL]
        if list(work.request.carried) != models:
            raise Refusal("enclave-failed", "The slices of the new model are not those that the ranges made.")
        extent = work.extent()
        rows = [self._slice_rows(sibling) for sibling in extent.siblings(work.request.policy.ranges)]
        model_digest = model_of_slices(work.sources, extent.shape, rows, work.courier)
        work.step_done("conclude")
        carried = [row for row in made if row not in models]
        return work.signed_result(
            decided,
            extent.layout,
            model_digest,
            carried=carried_from_list(content["carried"]),
            made=carried,
        )

    def _reader(self) -> RangeReader:
        self._work.begin()
        extent = self._work.extent()
        return RangeReader(self._work.sources, self._work.pipeline, extent, self._work.candidates)

    def _slice_rows(self, extent: Extent) -> SealedRows:
        opener = self._work.sources.carried(MODEL, extent)
        if opener is None:
            raise Refusal("enclave-failed", f"The slice of range {extent.index} is missing.")
        return SealedRows([opener], extent.columns)

    def _made(self, slices: Sequence[bytes], decision: bytes) -> list[CarriedRow]:
        opened = self._opened(slices, SLICE)
        if any(one["decision"] != decision for one in opened):
            raise Refusal("enclave-failed", "A slice was made by another decision.")
        return [row for one in opened for row in carried_from_list(one["rows"])]

    def _decision(self, message: bytes) -> tuple[Decided, dict[str, Any]]:
        content = self._seal.open(message, DECISION, 0)
        return self._decided_from_map(content), content

    def _decided_from_map(self, members: dict[str, Any]) -> Decided:
        candidates: dict[bytes, Candidate] = {one.device_id: one for one in self._work.candidates}
        return Decided(
            plan_from_map(members["plan"], self._work.pipeline),
            tuple(candidates[device_id] for device_id in members["survivors"]),
            tuple(map(UpdateVerdict.decoded, leaves_of(members["verdicts"]))),
            members["sample_total"],
        )

    def _opened(self, messages: Sequence[bytes], kind: str) -> list[dict[str, Any]]:
        """Return what every range has said, in order."""
        if len(messages) != self._ranges:
            raise Refusal("enclave-failed", f"There are {len(messages)} messages of {self._ranges} ranges.")
        return [self._seal.open(message, kind, index) for index, message in enumerate(messages)]

    def _say(self, kind: str, content: dict[str, Any]) -> Said:
        return Said(kind, self._seal.seal(kind, self._work.index, content))


def _decided_to_map(decided: Decided) -> dict[str, Any]:
    return {
        "plan": plan_to_map(decided.plan),
        "survivors": [survivor.device_id for survivor in decided.survivors],
        "verdicts": encode_verdicts(decided.verdicts),
        "sample_total": decided.sample_total,
    }


def _digest_of(decision: dict[str, Any]) -> bytes:
    return digest("range decision", encode(decision))

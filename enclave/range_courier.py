"""The courier of rounds whose model several sealed processes share: one process for each step of each range.

What the steps say to one another is sealed by them and for them; here it is carried.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from enclave.core.fan_out import Said
from enclave.core.requests import OF_THE_ROUND, AggregateRequest, RangeRequest
from enclave.courier import EnclaveHost, ignore_step, result_of, run_request
from enclave.round_given import RoundGiven
from qflare_protocol.errors import Refusal
from qflare_protocol.round_result import SignedResult


@dataclass(frozen=True)
class RangeTask:
    """One step of `enclave.core.fan_out`, for a range, with the key ids of all and what earlier steps have said."""

    step: str
    range_index: int
    key_ids: Sequence[bytes]
    messages: Sequence[bytes] = ()
    second_readings: Sequence[bytes] = ()

    def asked_of(self, round_: AggregateRequest) -> dict[str, object]:
        """Return the channel message."""
        request = RangeRequest(
            round_,
            self.step,
            self.range_index,
            tuple(self.key_ids),
            tuple(self.messages),
            tuple(self.second_readings),
        )
        return request.to_map()


def take_nothing(output: str, piece: bytes) -> None:
    """Take an output of a step that has none. Raises `Refusal("enclave-failed")`."""
    raise Refusal("enclave-failed", f"The sealed process gives out {output} where nothing was asked for.")


def run_range_step(
    host: EnclaveHost,
    given: RoundGiven,
    task: RangeTask,
    *,
    write_output: Callable[[str, bytes], None] = take_nothing,
    on_step: Callable[[str, float], None] = ignore_step,
) -> Said:
    """Run one step but the last and return what it says.

    `given` has the wrapped keys of the range and the rows that it carries. Called again after whatever
    crash it comes to the same. Raises `Refusal` as `courier.aggregate_round` does.
    """
    record = None if task.step in OF_THE_ROUND else task.range_index
    answer = run_request(host, given, task.asked_of, range_index=record, write_output=write_output, on_step=on_step)
    if answer["kind"] != "said":
        raise Refusal("enclave-failed", "The sealed process failed: it gave a result where none was asked for.")
    return Said(answer["what"], answer["message"])


def conclude_ranges(
    host: EnclaveHost, given: RoundGiven, task: RangeTask, *, write_output: Callable[[str, bytes], None]
) -> SignedResult:
    """Run the last step, which gives out the new model, and return the signed result with its verdicts.

    `given` has the wrapped keys of range 0 and the slices of the model for carried rows. Raises `Refusal`
    as `courier.aggregate_round` does.
    """
    return result_of(run_request(host, given, task.asked_of, write_output=write_output))

"""Model versions: their lineage, what is measured of them, where they come from, and two side by side."""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from django.db.models import Prefetch, Q, QuerySet

from audit.models import Checkpoint, Entry
from enclave.models import EnclaveInstance
from qflare_protocol.attestation.evidence import SIGNATURE_ALGORITHM
from qflare_protocol.cose import Verifier, unverified_payload
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import bytes_field
from qflare_protocol.round_result import MAX_BYTES, PURPOSE, RoundResult, verify_result
from qflare_protocol.round_verdicts import UpdateVerdict
from qflare_site.console.figures.learning import number_or_none
from training.models import ModelVersion, Participation, ParticipationState, Round, RoundState
from training.verdict_proofs import verdict_proofs_of

VERDICTS_SHOWN = 200
LARGE = ("provenance", "wrapped_content_key", "restored_from__provenance", "restored_from__wrapped_content_key")
NOT_SIGNED = "No enclave signed it: it is the model that the federation began with."
ANOTHER_MODEL = "The signed result is about another model than this one: somebody changed the database."
VERDICTS_MISSING = "Verdicts that the result names are missing here: somebody changed the database."
NO_ENCLAVE = "The enclave that it names is not known here, so nobody can check its signature here."


def versions_with_lineage() -> QuerySet[ModelVersion]:
    """Return the versions without their large columns, each with the round that made it and that round's base."""
    made_by = Round.objects.select_related("base_version").only(
        "number", "resulting_version_id", "base_version__number"
    )
    rows = ModelVersion.objects.select_related("federation", "restored_from").defer(*LARGE)
    return rows.prefetch_related(Prefetch("produced_by", queryset=made_by))


@dataclass(frozen=True)
class VersionRow:
    """One version in a list, and the round that made it."""

    version: ModelVersion
    round: Round | None

    @classmethod
    def of(cls, version: ModelVersion) -> "VersionRow":
        """Read the round beside the version; the first version and a restored one have none."""
        return cls(version, getattr(version, "produced_by", None))

    @property
    def parent(self) -> ModelVersion | None:
        """The version that it continues: its round's base, or the one it restores."""
        return self.round.base_version if self.round else self.version.restored_from

    @property
    def accuracy(self) -> Any:
        """The accuracy on the server's held-out data, where it is measured."""
        return number_or_none(self.version.metrics.get("accuracy"))

    @property
    def loss(self) -> Any:
        """The loss on the server's held-out data, where it is measured."""
        return number_or_none(self.version.metrics.get("loss"))


@dataclass(frozen=True)
class MetricRow:
    """One metric by who measured it: the evaluator here, the devices on their own data, the devices in training."""

    name: str
    held_out: float | None
    devices: float | None
    training: float | None


def metric_rows(version: ModelVersion) -> list[MetricRow]:
    """Return every metric that anybody measured of a version, by name."""
    sources: list[Mapping[str, Any]] = [version.metrics, version.device_metrics, version.reported_metrics]
    names = sorted(set(chain.from_iterable(sources)))
    return [MetricRow(name, *(number_or_none(source.get(name)) for source in sources)) for name in names]


def read_metrics(version: ModelVersion) -> dict[str, Any]:
    """Return a version's metrics; alive until its evaluator is done."""
    version.refresh_from_db(
        fields=("metrics", "reported_metrics", "evaluations", "evaluation_sums", "evaluated_at", "evaluation_error")
    )
    waits = bool(version.federation.evaluator) and version.evaluated_at is None and not version.evaluation_error
    rows = metric_rows(version)
    return {"version": version, "metrics": rows, "unmeasured": _unmeasured(version, waits), "live": waits}


def _unmeasured(version: ModelVersion, waits: bool) -> str:
    """Return why there is no metric, as far as the database tells."""
    if waits:
        return "The evaluator measures it now."
    nobody = "no device has evaluated it."
    if version.evaluation_error:
        return f"There is no metric: the evaluation failed, and {nobody}"
    if version.federation.evaluator:
        return f"The federation’s evaluator gave no metric of it, and {nobody}"
    return f"Nobody has measured it: the federation names no evaluator, and {nobody}"


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from: the enclave's result, whether its signature holds, and where the log has it.

    `fault` says what is wrong, or why there is nothing to check; empty where the signature was checked and holds.
    `verdicts` are the first 200 on updates, each proved under the result; none where `verdicts_fault` says why.
    """

    result: RoundResult | None
    fault: str
    enclave: EnclaveInstance | None = None
    entry: Entry | None = None
    checkpoint: Checkpoint | None = None
    verdicts: Sequence[UpdateVerdict] = ()
    verdicts_fault: str = ""


def read_provenance(version: ModelVersion) -> Provenance:
    """Check the signature under a version's result with the key of its enclave, and find its log entry."""
    if version.provenance is None:
        return Provenance(None, NOT_SIGNED)
    signed = bytes(version.provenance)
    try:
        named = unverified_payload(signed, purpose=PURPOSE, maximum_bytes=MAX_BYTES)
        enclave = _enclave_of(bytes_field(named, "enclave_key_id", 32))
        if enclave is None:
            return Provenance(None, NO_ENCLAVE)
        result = verify_result(signed, Verifier(SIGNATURE_ALGORITHM, bytes(enclave.result_public_key)))
        if result.model_digest != bytes(version.digest):
            return Provenance(None, ANOTHER_MODEL)
    except Refusal as refusal:
        return Provenance(None, f"The signed result does not hold: {refusal.detail}")
    entry = entry_of(version)
    return Provenance(result, "", enclave, entry, _first_checkpoint_over(entry), *_verdicts(result))


def _verdicts(result: RoundResult) -> tuple[Sequence[UpdateVerdict], str]:
    """Return the first verdicts and no fault, or none where the rows that keep them do not hold."""
    try:
        proofs = list(verdict_proofs_of(uuid.UUID(bytes=result.round_id), most=VERDICTS_SHOWN))
        if [proof.index for proof in proofs] != list(range(min(result.verdict_count, VERDICTS_SHOWN))):
            return (), VERDICTS_MISSING
        return [proof.verdict_under(result.verdicts_root, result.verdict_count) for proof in proofs], ""
    except Refusal as refusal:
        return (), f"The verdicts kept here are not those that were signed: {refusal.detail}"


def _enclave_of(key_id: bytes) -> EnclaveInstance | None:
    shown = EnclaveInstance.objects.only("attester", "tier", "key_id", "result_public_key", "prepared_at")
    return shown.filter(key_id=key_id).first()


def entry_of(version: ModelVersion) -> Entry | None:
    """Return the log's entry of the round that made the model; None before it is in the log.

    It is looked up by what its event tells, so that None too where that is erased (`audit.models.Event`).
    """
    made = version.restored_from or version
    names = Q(event__payload__federation_id=str(version.federation_id), event__payload__version=made.number)
    return Entry.objects.filter(names, event__kind="round.completed").select_related("event").first()


def _first_checkpoint_over(entry: Entry | None) -> Checkpoint | None:
    return None if entry is None else Checkpoint.objects.filter(size__gt=entry.index).order_by("size", "id").first()


@dataclass(frozen=True)
class Difference:
    """One metric of two versions; `change` is the second less the first, None where either is missing."""

    name: str
    first: float | None
    second: float | None

    @property
    def change(self) -> float | None:
        """By how much the second is more than the first."""
        return None if self.first is None or self.second is None else self.second - self.first


@dataclass(frozen=True)
class Participants:
    """The devices whose updates are in two models, counted."""

    first: int
    second: int
    both: int


@dataclass(frozen=True)
class Comparison:
    """Two versions of one federation side by side; `rounds` completed after the first up to the second."""

    first: VersionRow
    second: VersionRow
    metrics: list[Difference]
    rounds: int
    participants: Participants

    @property
    def same_model(self) -> bool:
        """Whether both are the very same weights, as after a roll back."""
        return bytes(self.first.version.digest) == bytes(self.second.version.digest)

    @property
    def size_change(self) -> int:
        """By how many bytes the second is larger."""
        return self.second.version.size_bytes - self.first.version.size_bytes

    @property
    def rows(self) -> tuple[VersionRow, VersionRow]:
        """Both, in order."""
        return self.first, self.second


def compare_versions(first: ModelVersion, second: ModelVersion) -> Comparison:
    """Compare two versions of one federation."""
    earlier, later = sorted((first.number, second.number))
    between = Round.objects.filter(federation=first.federation_id, state=RoundState.COMPLETED)
    rows = VersionRow.of(first), VersionRow.of(second)
    return Comparison(
        *rows,
        metrics=list(_differences(metric_rows(first), metric_rows(second))),
        rounds=between.filter(resulting_version__number__gt=earlier, resulting_version__number__lte=later).count(),
        participants=_participants(*(row.round for row in rows)),
    )


_MEASURED = {"held_out": "on the server’s data", "devices": "on the devices’ data", "training": "in training"}


def _differences(first: list[MetricRow], second: list[MetricRow]) -> Iterable[Difference]:
    before, after = ({row.name: row for row in rows} for rows in (first, second))
    for name in sorted(before.keys() | after.keys()):
        for member, words in _MEASURED.items():
            values = [getattr(rows.get(name), member, None) for rows in (before, after)]
            if values != [None, None]:
                yield Difference(f"{name} {words}", *values)


def _participants(first: Round | None, second: Round | None) -> Participants:
    made = [_contributors(round_) for round_ in (first, second)]
    return Participants(len(made[0]), len(made[1]), len(made[0] & made[1]))


def _contributors(round_: Round | None) -> set[Any]:
    accepted = Participation.objects.filter(round=round_, state=ParticipationState.ACCEPTED)
    return set(accepted.order_by().values_list("device_id", flat=True)) if round_ else set()

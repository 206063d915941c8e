"""What the enclave measured of updates: by device and round, and within one round."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db.models import Case, Count, Q, When

from qflare_site.console.figures.addresses import device_address, participation_address
from qflare_site.console.figures.rounds import NO_ROUND, RoundRead, last_rounds
from qflare_site.console.plots.drawing import SERIES, TONES, Drawing, LegendItem, Point, Series, Style
from qflare_site.console.plots.figure import Cell, Column, Figure, Table
from qflare_site.console.plots.forms import StripCell, scatter_plot, strip
from qflare_site.console.plots.scales import Scale, fixed_scale, log_scale, number_scale, spans_decades
from qflare_site.console.sentences import in_words
from training.models import Participation
from training.models import ParticipationState as State

DEVICES_SHOWN = 30
STRIP_ROUNDS = 24
UPDATES_SHOWN = 2000


@dataclass(frozen=True)
class _Part:
    """A device's part in a round, as much of it as these figures need."""

    id: int
    round_id: UUID
    device_id: UUID
    device: str
    state: str
    reason: str
    scores: Mapping[str, Any]

    def score(self, name: str) -> float | None:
        """Return a score of the enclave, None where the round measured none (privacy, or no directions)."""
        value = self.scores.get(name)
        return None if value is None else float(value)

    @property
    def word(self) -> str:
        """The outcome in words."""
        label = str(State(self.state).label)
        return f"{label}: {in_words(self.reason)}" if self.reason else label


_PART_COLUMNS = ("id", "round_id", "device_id", "device__name", "state", "reason", "scores")


def score_strip(federation_id: UUID) -> Figure:
    """Return the cosine of each device's updates over the last 24 rounds, and which of them were rejected.

    Sources: `Participation.scores["cosine"]`, the cosine of the update to the consensus of the others as the enclave
    measured it, and `Participation.state`. At most 30 devices: those with the most rejections first, then by name.
    """
    rounds = last_rounds(federation_id, shown=STRIP_ROUNDS)
    devices = _most_rejected(rounds)
    parts = _parts(Q(round__in=[one.id for one in rounds], device__in=[key for key, _ in devices]))
    judged = [part for part in parts if part.state in (State.ACCEPTED, State.REJECTED)]
    cells = _strip_cells(judged, rounds, devices)
    rows = [(name, device_address(key)) for key, name in devices]
    drawing = strip(rows, [str(one.number) for one in rounds], cells, _STRIP_LEGEND) if cells else None
    return Figure(
        "scores",
        "Scores by device and round",
        f"How far each update of the last {STRIP_ROUNDS} rounds points the same way as the others’ (cosine); "
        f"up to {DEVICES_SHOWN} devices, those with most rejections first.",
        drawing,
        _strip_table(rounds, devices, judged),
        "The enclave has judged no update of this federation yet." if rounds else NO_ROUND,
    )


_STRIP_LEGEND = (
    LegendItem("Accepted; the larger, the closer to the others", Style("series-1", "square"), False),
    LegendItem("Accepted, not measured", Style("neutral", "square"), False),
    LegendItem("Rejected", TONES["danger"], False),
)


def _most_rejected(rounds: Iterable[RoundRead]) -> list[tuple[UUID, str]]:
    parts = Participation.objects.filter(round__in=[one.id for one in rounds]).order_by()
    rejections = Count("id", filter=Q(state=State.REJECTED))
    counted = parts.values("device_id", "device__name").annotate(rejections=rejections)
    shown = counted.order_by("-rejections", "device__name")[:DEVICES_SHOWN]
    return [(row["device_id"], row["device__name"]) for row in shown]


def _parts(condition: Q) -> list[_Part]:
    rejected_first = Case(When(state=State.REJECTED, then=0), default=1)
    rows = Participation.objects.filter(condition).order_by(rejected_first, "id").values_list(*_PART_COLUMNS)
    return [_Part(*row) for row in rows[: max(UPDATES_SHOWN, DEVICES_SHOWN * STRIP_ROUNDS)]]


def _strip_cells(parts: Iterable[_Part], rounds: list[RoundRead], devices: list[tuple[UUID, str]]) -> list[StripCell]:
    columns = {one.id: (place, one.number) for place, one in enumerate(rounds)}
    rows = {key: place for place, (key, _) in enumerate(devices)}
    return [_strip_cell(part, rows[part.device_id], *columns[part.round_id]) for part in parts]


def _strip_cell(part: _Part, row: int, column: int, number: int) -> StripCell:
    cosine = part.score("cosine")
    title = f"{part.device}, round {number}: {part.word}, cosine {_score_words(cosine)}"
    href = participation_address(part.id)
    if part.state == State.REJECTED:
        return StripCell(row, column, 1.0, TONES["danger"], title, href)
    style = SERIES[0] if cosine is not None else TONES["neutral"]
    return StripCell(row, column, 0.6 if cosine is None else max(cosine, 0.0), style, title, href)


def _strip_table(rounds: list[RoundRead], devices: list[tuple[UUID, str]], parts: Iterable[_Part]) -> Table:
    by_place = {(part.device_id, part.round_id): part for part in parts}
    return Table(
        (Column("Device", number=False), *(Column(str(one.number)) for one in rounds)),
        tuple(
            (Cell(name, device_address(key)), *(_part_cell(by_place.get((key, one.id))) for one in rounds))
            for key, name in devices
        ),
    )


def _part_cell(part: _Part | None) -> Cell:
    if part is None:
        return Cell("–")
    rejected = "rejected " if part.state == State.REJECTED else ""
    return Cell(f"{rejected}{_score_words(part.score('cosine'))}", participation_address(part.id))


def norm_by_cosine(round_id: UUID) -> Figure:
    """Return the updates of a round by direction and length, the rejected marked; at most 2,000.

    Sources: `Participation.scores["cosine"]` and `["norm"]` (L2), as the enclave measured them. Rounds under
    differential privacy keep their scores inside, and policies that look at no direction have no cosine.
    """
    judged = [part for part in _parts(Q(round=round_id)) if part.scores]
    placed = [part for part in judged if part.score("cosine") is not None and part.score("norm") is not None]
    return Figure(
        "norms",
        "Norm by cosine",
        "Each update of the round: length (L2 norm) over direction (cosine to the others’ consensus), as the enclave "
        "measured them.",
        _scatter(placed) if placed else None,
        _score_table(placed),
        "The policy looks at no direction, so there is no cosine to show." if judged else _UNSCORED,
    )


_UNSCORED = (
    "No update of this round has scores: it is not aggregated yet, or its policy adds noise for differential privacy "
    "and keeps scores inside the enclave."
)


def _scatter(placed: Sequence[_Part]) -> Drawing:
    cosines = fixed_scale(-1.0, 1.0, 0.5)
    return scatter_plot(_by_verdict(placed), cosines, _norm_scale(placed), names=("cosine", "norm"))


def _by_verdict(parts: Sequence[_Part]) -> list[Series]:
    """Return the accepted and the rejected; these are drawn last, so that nothing hides them."""
    verdicts = ((State.ACCEPTED, TONES["success"]), (State.REJECTED, TONES["danger"]))
    series = [
        Series(state.label, style, tuple(_score_point(part) for part in parts if part.state == state))
        for state, style in verdicts
    ]
    return [one for one in series if one.points]


def _score_point(part: _Part) -> Point:
    cosine, norm = part.score("cosine"), part.score("norm")
    title = f"{part.device}: {part.word}, cosine {_score_words(cosine)}, norm {_score_words(norm)}"
    return Point(cosine or 0.0, norm, title, participation_address(part.id))


def _norm_scale(parts: Iterable[_Part]) -> Scale:
    norms = [norm for part in parts if (norm := part.score("norm")) is not None]
    return log_scale(norms) if spans_decades(norms) else number_scale(norms, from_zero=True)


def _score_table(parts: Iterable[_Part]) -> Table:
    columns = (Column("Device", number=False), Column("Verdict", number=False), Column("Cosine"), Column("Norm"))
    ordered = sorted(parts, key=lambda part: (part.state != State.REJECTED, part.device))
    return Table(
        columns,
        tuple(
            (
                Cell(part.device, device_address(part.device_id)),
                Cell(part.word, participation_address(part.id)),
                Cell(_score_words(part.score("cosine"))),
                Cell(_score_words(part.score("norm"))),
            )
            for part in ordered
        ),
    )


def _score_words(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"

"""The last rounds of a federation, which most figures have along their lower edge."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from qflare_site.console.figures.addresses import round_address
from qflare_site.console.plots.figure import Cell, Column
from qflare_site.console.plots.scales import Scale, category_scale
from training.models import Round

ROUNDS_SHOWN = 40
NO_ROUND = "This federation has opened no round yet. Its first one appears here as soon as it is opened."


@dataclass(frozen=True)
class RoundRead:
    """One round, with the columns that a figure asked for besides."""

    id: UUID
    number: int
    columns: dict[str, Any]

    @property
    def href(self) -> str:
        """The page of the round."""
        return round_address(self.id)


def last_rounds(federation_id: UUID, *columns: str, shown: int = ROUNDS_SHOWN) -> list[RoundRead]:
    """Return the last rounds in order, with these columns, in one query."""
    rows = Round.objects.filter(federation=federation_id).order_by("-number").values("id", "number", *columns)[:shown]
    return [RoundRead(row["id"], row["number"], row) for row in reversed(rows)]


def round_scale(rounds: list[RoundRead]) -> Scale:
    """Return the horizontal axis: each round at its place from 0 on, named by its number."""
    return category_scale([str(one.number) for one in rounds])


ROUND_COLUMN = Column("Round")


def round_cell(one: RoundRead) -> Cell:
    """Return the cell that names a round and leads to it."""
    return Cell(str(one.number), one.href)

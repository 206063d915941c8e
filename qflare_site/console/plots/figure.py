"""A figure: a plot under its name, and the numbers it was drawn from."""

from dataclasses import dataclass

from qflare_site.console.plots.drawing import Drawing


@dataclass(frozen=True)
class Column:
    """A column of the numbers; those of `number` are set to the right."""

    name: str
    number: bool = True


@dataclass(frozen=True)
class Cell:
    """What stands in a row and a column, and the page of the row it tells of."""

    words: str
    href: str = ""


@dataclass(frozen=True)
class Table:
    """The numbers; each row has a cell for each column, and the first names the row."""

    columns: tuple[Column, ...] = ()
    rows: tuple[tuple[Cell, ...], ...] = ()

    @property
    def cells(self) -> list[list[tuple[Column, Cell]]]:
        """The rows, each cell with its column."""
        return [list(zip(self.columns, row, strict=True)) for row in self.rows]


@dataclass(frozen=True)
class Figure:
    """One figure of a page.

    - slug: begins the ids of its parts, unlike all others on the page.
    - shows: in one sentence, what is drawn, over what range and from where.
    - drawing: None where there is nothing to draw; then `empty` says why, and what would change that.
    """

    slug: str
    title: str
    shows: str
    drawing: Drawing | None
    table: Table
    empty: str

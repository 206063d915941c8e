"""Columns that admins of several apps show alike."""

from collections.abc import Callable
from typing import Any

from django.template.loader import render_to_string
from unfold.decorators import display

from operator_admin.tones import tone_of

SHORT_HEX_DIGITS = 16

Column = Callable[[Any, Any], Any]


def hex_column(field: str, description: str) -> Column:
    """Return a column that shows the first bytes of a binary field in hexadecimal."""

    @display(description=description)
    def column(_admin: Any, row: Any) -> str:
        value = getattr(row, field)
        if value is None:
            return "-"
        text = bytes(value).hex()
        return text if len(text) <= SHORT_HEX_DIGITS else f"{text[:SHORT_HEX_DIGITS]}…"

    return column


def state_label(state: str, word: str | None = None) -> str:
    """Return a state in word and colour, as markup for a list and a page alike."""
    label: str = render_to_string("unfold/helpers/label.html", {"type": tone_of(state), "text": word or state})
    return label


def state_column(
    read: Callable[[Any], tuple[str, str]], *, ordering: str | None = None, description: str = "State"
) -> Column:
    """Return a column that shows a state in word and colour; `read` gives the state and the word of a row."""

    @display(description=description, ordering=ordering)
    def column(_admin: Any, row: Any) -> str:
        return state_label(*read(row))

    return column


def stored_state(row: Any) -> tuple[str, str]:
    """Return state and word of a row whose column `state` has choices."""
    return row.state, row.get_state_display()


def live_or_retired(row: Any) -> tuple[str, str]:
    """Return state and word of a row that is live until `retired_at` is set."""
    return ("live", "Live") if row.retired_at is None else ("retired", "Retired")

"""What is printed: a table for people, JSON for scripts."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

WIDEST = 60


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Print rows: these columns as a table, or whole as a JSON list."""
    if as_json:
        _print_json(list(rows))
        return
    if not rows:
        sys.stdout.write("nothing\n")
        return
    table = [list(columns), *([_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[place]) for line in table) for place in range(len(columns))]
    for line in table:
        sys.stdout.write("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() + "\n")


def print_row(row: Mapping[str, Any], *, as_json: bool) -> None:
    """Print one row, a member a line, or as a JSON object."""
    if as_json:
        _print_json(row)
        return
    width = max(map(len, row))
    for name, value in row.items():
        sys.stdout.write(f"{name.ljust(width)}  {_cell(value, widest=None)}\n")


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _cell(value: Any, widest: int | None = WIDEST) -> str:
    if value in (None, "", {}, []):
        return "-"
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
    return text if widest is None or len(text) <= widest else f"{text[: widest - 1]}…"

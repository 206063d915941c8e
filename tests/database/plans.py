"""What PostgreSQL would do for each statement of a piece of code."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.db import connection


@dataclass(frozen=True)
class SeqScan:
    """A statement for which the planner reads a whole table."""

    table: str
    sql: str


@contextmanager
def scans_of(tables: set[str]) -> Iterator[list[SeqScan]]:
    """Collect the sequential scans of these tables in the plans of all statements made inside."""
    found: list[SeqScan] = []

    def explain(execute: Any, sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
        if not many and sql.startswith(("SELECT", "UPDATE", "DELETE", "INSERT", "WITH")):
            with connection.connection.cursor() as cursor:
                plan = cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}", params).fetchone()[0]
            plan = json.loads(plan) if isinstance(plan, str) else plan
            found.extend(SeqScan(table, sql) for table in sorted(_scanned(plan[0]["Plan"]) & tables))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(explain):
        yield found


def _scanned(node: dict[str, Any]) -> set[str]:
    own = {node["Relation Name"]} if node["Node Type"] == "Seq Scan" else set()
    return own.union(*(_scanned(child) for child in node.get("Plans", ())))

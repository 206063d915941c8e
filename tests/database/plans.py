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


def _reads_all(node: dict[str, Any]) -> bool:
    """Whether a node goes through a table: row after row, or along an index that no condition bounds.

    The second is told of filters on a payload alone: nearly no row may pass one, where others stop it early.
    """
    along = "Index" in node["Node Type"] and "Relation Name" in node and "Index Cond" not in node
    return node["Node Type"] == "Seq Scan" or (along and "payload" in node.get("Filter", ""))


@contextmanager
def scans_of(tables: set[str]) -> Iterator[list[SeqScan]]:
    """Collect the scans of these whole tables in the plans of all statements made inside."""
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
    own = {node["Relation Name"]} if _reads_all(node) else set()
    return own.union(*(_scanned(child) for child in node.get("Plans", ())))

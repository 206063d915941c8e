"""What every sealed request sends finds rows by primary keys, also by a plan made while the tables were empty."""

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection

from devices.models import Device
from sessions import acceptance, session_lookup
from sessions.models import Session

pytestmark = pytest.mark.django_db


@pytest.fixture
def new_tables() -> None:
    """Have tables without rows and statistics, in place of the test database's, until the transaction ends."""
    if connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL keeps plans")
    with connection.cursor() as cursor:
        for model in (Session, Device):
            table = model._meta.db_table
            cursor.execute(f"CREATE TEMP TABLE {table} (LIKE public.{table} INCLUDING ALL) ON COMMIT DROP")
        cursor.execute("SET LOCAL plan_cache_mode = force_generic_plan")


def kept_plan(statement: str) -> dict[str, Any]:
    """Return the plan that PostgreSQL would keep for a statement."""
    places = itertools.count(1)
    numbered = re.sub("%s", lambda _: f"${next(places)}", statement)
    values = ", ".join(["NULL"] * statement.count("%s"))
    with connection.cursor() as cursor:
        cursor.execute(f"PREPARE kept AS {numbered}")
        cursor.execute(f"EXPLAIN (FORMAT JSON) EXECUTE kept({values})")
        plan = cursor.fetchone()[0]
        cursor.execute("DEALLOCATE kept")
    return (json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]


def scans(node: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield of each table that a plan reads how it looks for rows."""
    if "Scan" in node["Node Type"]:
        yield node["Relation Name"], node.get("Index Cond", node["Node Type"])
    for child in node.get("Plans", ()):
        yield from scans(child)


@pytest.mark.usefixtures("new_tables")
@pytest.mark.parametrize("module", [session_lookup, acceptance])
def test_a_plan_made_on_empty_tables_looks_rows_up_by_their_primary_keys(module: Any) -> None:
    found = dict(scans(kept_plan(module._statement())))
    assert set(found) == {Session._meta.db_table, Device._meta.db_table}
    assert re.fullmatch(r"\(id = \$\d+\)", found[Session._meta.db_table])
    assert found[Device._meta.db_table] == "(id = s.device_id)"

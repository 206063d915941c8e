"""Each process' role may do what its work needs and nothing else; the table of grants is complete."""

from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import ProgrammingError, connection, transaction
from django.utils import timezone

from audit.models import Checkpoint, Event
from audit.retention import archive_disclosures
from audit.services import erase_disclosures, record_event, sequence_log
from qflare_site.checks import check_database_role
from qflare_site.database_roles import COLUMN_UPDATES, GRANTEES, GRANTS, RolesError, role_names, tables_of_models
from tests.audit.conftest import first_keys_are_not_told
from tests.database.roles import acting_as

__all__ = ["first_keys_are_not_told"]

pytestmark = pytest.mark.django_db


def happened() -> None:
    with transaction.atomic():
        record_event("device.suspended", actor="operator:olga", payload={"device": "edge-9", "reason": "lost"})


def refused(statement: str) -> bool:
    """Return whether the database refuses the statement for want of a right."""
    with pytest.raises(ProgrammingError, match="permission denied|must be owner"), transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(statement)
    return True


def test_every_table_of_a_model_has_its_line_of_grants_and_no_line_is_left_over() -> None:
    assert set(GRANTS) == tables_of_models()
    assert all(len(letters) == len(GRANTEES) and set("".join(letters)) <= set("SIUD") for letters in GRANTS.values())


def test_nobody_but_the_audit_role_writes_the_log_and_nobody_changes_it() -> None:
    for table in ("audit_entry", "audit_tile", "audit_checkpoint"):
        assert GRANTS[table] == ("S", "S", "SI")
    assert not any("U" in letters or "D" in letters for letters in GRANTS["audit_event"])
    assert {role for _, role in COLUMN_UPDATES} == {"audit"}


@pytest.mark.parametrize("role", ["web", "worker"])
@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO audit_entry (index) VALUES (7)",
        "INSERT INTO audit_checkpoint (size) VALUES (7)",
        "INSERT INTO audit_tile (level) VALUES (7)",
        "UPDATE audit_entry SET kind = 'x'",
        "DELETE FROM audit_checkpoint",
        "UPDATE audit_event SET sequenced = true",
        "UPDATE audit_event SET actor = 'erased'",
        "DELETE FROM audit_event",
        "TRUNCATE audit_event CASCADE",
        "ALTER TABLE audit_entry DISABLE TRIGGER ALL",
        "ALTER TABLE devices_devicekey NO FORCE ROW LEVEL SECURITY",
        "DROP TABLE audit_entry",
        "CREATE TABLE public.mine (id int)",
    ],
)
def test_web_and_worker_touch_neither_the_log_nor_any_tables_form(roles: Any, role: str, statement: str) -> None:
    with acting_as(role):
        assert refused(statement)


def test_the_audit_role_marks_events_and_changes_nothing_else_of_them(roles: Any) -> None:
    happened()
    with acting_as("audit"):
        assert refused("UPDATE audit_event SET kind = 'x'")
        assert refused("UPDATE audit_event SET commitment = ''")
        assert refused("DELETE FROM audit_event")
        assert refused("UPDATE audit_entry SET kind = 'x'")
        assert refused("SELECT * FROM devices_devicekey")


def test_web_writes_into_the_inbox_and_the_audit_role_makes_the_log_of_it(roles: Any) -> None:
    with acting_as("web"):
        happened()
    with acting_as("audit"):
        assert sequence_log() == 1
        assert erase_disclosures([Event.objects.get().id], reason="asked for", actor="operator:ada") == 1
    assert Checkpoint.objects.get().size == 1
    assert set(Event.objects.values_list("actor", flat=True)) == {"erased", "operator:ada"}


def test_the_audit_role_archives_and_erases_what_has_had_its_time(roles: Any, settings: Any, tmp_path: Path) -> None:
    settings.QFLARE_RETENTION = {"session_days": 1, "disclosure_days": 1}
    settings.QFLARE_ARCHIVE_DIR = tmp_path
    happened()
    sequence_log()
    with acting_as("audit"):
        assert archive_disclosures(now=timezone.now() + timedelta(days=2)) == 1


def test_workers_do_not_read_operators_passwords_or_sessions(roles: Any) -> None:
    for role in ("worker", "audit"):
        with acting_as(role):
            assert refused("SELECT password FROM auth_user")
            assert refused("SELECT session_data FROM django_session")


def test_no_role_is_bound_by_less_than_grants_and_policies(roles: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT bool_or(rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolcanlogin) "
            "FROM pg_roles WHERE rolname = ANY(%s)",
            [list(roles.values())],
        )
        assert cursor.fetchone() == (False,)


def test_the_owner_of_every_table_is_the_migration_role(roles: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'")
        assert cursor.fetchall() == [(roles["migration"],)]


def _printed(**options: Any) -> str:
    output = StringIO()
    call_command("setup_database_roles", stdout=output, **options)
    return output.getvalue()


def test_a_second_run_makes_no_role_and_moves_no_table(roles: Any) -> None:
    planned = _printed(dry_run=True)
    assert "CREATE ROLE" not in planned
    assert "OWNER TO" not in planned
    assert 'GRANT SELECT, INSERT ON "public"."audit_entry"' in planned
    assert "have what" in _printed()


def test_a_right_that_was_given_by_hand_is_taken_back(roles: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f'GRANT DELETE, UPDATE (kind) ON audit_entry TO "{roles["web"]}"')
    call_command("setup_database_roles", verbosity=0)
    with acting_as("web"):
        assert refused("DELETE FROM audit_entry")
        assert refused("UPDATE audit_entry SET kind = 'x'")


def test_a_table_without_a_line_is_named_instead_of_left_open(roles: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE public.forgotten (id int)")
    with pytest.raises(CommandError, match="forgotten has no line in qflare_site.database_roles.GRANTS"):
        call_command("setup_database_roles")


def test_a_role_with_a_password_logs_in_and_the_password_is_printed_nowhere(roles: Any, tmp_path: Path) -> None:
    file = tmp_path / "web"
    file.write_text("correct horse battery\n")
    option = f"web={file}"
    assert "correct horse" not in _printed(dry_run=True, password=[option])
    call_command("setup_database_roles", password=[option], verbosity=0)
    with connection.cursor() as cursor:
        cursor.execute("SELECT rolcanlogin, rolpassword FROM pg_authid WHERE rolname = %s", [roles["web"]])
        can_log_in, kept = cursor.fetchone()
    assert can_log_in
    assert kept.startswith("SCRAM-SHA-256$")


@pytest.mark.parametrize("option", ["web", "root=/tmp/x", "web="])
def test_a_password_option_out_of_form_is_refused(option: str) -> None:
    with pytest.raises(CommandError, match="ROLE=FILE"):
        call_command("setup_database_roles", password=[option])


@pytest.mark.parametrize("content", [None, "\n"])
def test_a_password_file_that_says_nothing_is_refused(roles: Any, tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "web"
    if content is not None:
        file.write_text(content)
    with pytest.raises(CommandError, match="password file"):
        call_command("setup_database_roles", password=[f"web={file}"])


def test_sqlite_is_told_that_it_has_no_roles() -> None:
    if connection.vendor == "postgresql":
        pytest.skip("this is about SQLite")
    with pytest.raises(CommandError, match="Roles are PostgreSQL's"):
        call_command("setup_database_roles")


def test_a_database_whose_name_leaves_no_room_for_a_role_is_refused() -> None:
    with pytest.raises(RolesError, match="longer than the 63 bytes"):
        role_names("d" * 60)


def test_a_process_that_no_policy_binds_is_warned_of(roles: Any) -> None:
    assert [message.id for message in check_database_role(databases=["default"])] == ["qflare_site.W011"]
    with acting_as("web"):
        assert check_database_role(databases=["default"]) == []

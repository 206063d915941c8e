"""The roles of the PostgreSQL database and what each may do: one table to read, and the SQL that makes it so.

`migration` owns every table and alone may change their form. `web` serves the API and the admin, `worker` is
the Celery workers and beat, `audit` the worker of the queue `audit`. Whoever takes over a process has what its
role has: the web server can write into the log's inbox and not into the log.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from django.apps import apps
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

MIGRATION = "migration"
GRANTEES = ("web", "worker", "audit")
ROLES = (MIGRATION, *GRANTEES)
_VERBS = {"S": "SELECT", "I": "INSERT", "U": "UPDATE", "D": "DELETE"}
_LONGEST_NAME = 63
_SCHEMA = sql.Identifier("public")

GRANTS: dict[str, tuple[str, str, str]] = {
    # table: what web, worker and audit may do. U is also what SELECT ... FOR UPDATE asks for.
    "audit_event": ("SI", "SI", "SI"),  # and the columns below
    "audit_entry": ("S", "S", "SI"),
    "audit_tile": ("S", "S", "SI"),
    "audit_checkpoint": ("S", "S", "SI"),
    "audit_sequencer": ("S", "S", "SIU"),
    "audit_witnesscosignature": ("SI", "S", "S"),
    "audit_anchorreceipt": ("S", "S", "SIU"),
    "audit_witnesssighting": ("SIU", "S", "S"),
    # The first use of a purpose makes its key, in whatever process that is. To destroy one is the owner's.
    "keyring_serverkey": ("SIU", "SIU", "SIU"),
    "keyring_datakey": ("SIU", "SIU", "SIU"),
    "keyring_kekrotation": ("S", "S", "S"),
    "keyring_escrowsplit": ("S", "S", "S"),
    "devices_device": ("SIU", "SU", ""),  # worker: the monitor suspends a device
    "devices_devicekey": ("SIU", "S", ""),
    "enrollment_enrolmenttoken": ("SIU", "S", ""),
    "enrollment_enrolmentattempt": ("SIU", "SD", ""),
    # A session goes by the worker's sweep alone; an exchange with every 64 that follow it.
    "device_sessions_session": ("SIU", "SUD", ""),
    "device_sessions_exchange": ("SID", "SD", ""),
    "device_sessions_keyrotationattempt": ("SIUD", "SD", ""),
    "device_sessions_reservedqkdkey": ("SIU", "SD", ""),
    "device_sessions_qkdpolicy": ("SIU", "S", ""),
    "enclave_enclaveinstance": ("SU", "SIU", ""),  # web: cancelling a round retires its enclave
    "training_federation": ("SIU", "SU", ""),
    "training_modelversion": ("SIU", "SIU", ""),  # web: an operator releases one
    "training_round": ("SIU", "SIU", ""),
    "training_participation": ("SIU", "SIU", ""),
    "training_update": ("SI", "SD", ""),  # worker: a round that begins anew asks for them again
    "training_versionevaluation": ("SI", "S", ""),
    "training_upload": ("SIUD", "SD", ""),
    "training_privacyrelease": ("S", "SIU", ""),
    "training_carriedrow": ("SD", "SIUD", ""),
    "training_roundstep": ("S", "SIU", ""),
    "training_rangestep": ("SD", "SIUD", ""),
    "training_rangeoutput": ("SD", "SIUD", ""),
    # Operators tune rules and work on incidents; the monitor, in the worker, does the rest.
    "monitor_rulesetting": ("SIU", "SI", ""),
    "monitor_incident": ("SU", "SIU", ""),
    "monitor_sighting": ("S", "SIUD", ""),
    "monitor_timelineentry": ("SI", "SI", ""),
    "monitor_response": ("SU", "SIU", ""),
    "monitor_notificationchannel": ("SIUD", "S", ""),
    "monitor_delivery": ("SID", "SIUD", ""),
    "monitor_monitorposition": ("S", "SIU", ""),
    "operator_api_apikey": ("SIU", "", ""),
    "qflare_site_processheartbeat": ("S", "SIUD", "SIUD"),
    "qflare_site_taskfailure": ("S", "SID", "SID"),
    # Operators, their sessions and what they did in the admin.
    "auth_user": ("SIUD", "", ""),
    "auth_group": ("SIUD", "", ""),
    "auth_permission": ("S", "", ""),
    "auth_user_groups": ("SIUD", "", ""),
    "auth_user_user_permissions": ("SIUD", "", ""),
    "auth_group_permissions": ("SIUD", "", ""),
    "django_content_type": ("S", "", ""),
    "django_session": ("SIUD", "", ""),
    "django_admin_log": ("SID", "", ""),
    "django_migrations": ("S", "S", "S"),
    "account_emailaddress": ("SD", "", ""),  # allauth's; no addresses are kept here
    "account_emailconfirmation": ("SD", "", ""),
    "mfa_authenticator": ("SIUD", "", ""),
    "operator_access_factorsecret": ("SIUD", "", ""),
    "operator_access_approvalrequest": ("SIU", "SU", ""),  # worker: those that nobody answered
    "axes_accessattempt": ("SIUD", "", ""),
    "axes_accessattemptexpiration": ("SIUD", "", ""),
    "axes_accessfailurelog": ("SIUD", "", ""),
    "axes_accesslog": ("SIUD", "", ""),
    # Beat writes its schedule and when it last ran; operators edit it.
    "django_celery_beat_periodictask": ("SIUD", "SIU", ""),
    "django_celery_beat_periodictasks": ("SIU", "SIU", ""),
    "django_celery_beat_intervalschedule": ("SIUD", "SI", ""),
    "django_celery_beat_crontabschedule": ("SIUD", "SI", ""),
    "django_celery_beat_clockedschedule": ("SIUD", "SI", ""),
    "django_celery_beat_solarschedule": ("SIUD", "SI", ""),
}

COLUMN_UPDATES: dict[tuple[str, str], tuple[str, ...]] = {
    # The sequencer's mark and an erasure, which the table's trigger holds to their form.
    ("audit_event", "audit"): ("sequenced", "actor", "payload", "payload_bytes", "salt", "erased_at"),
}


class RolesError(Exception):
    """The roles cannot be set up; the message says why."""


@dataclass(frozen=True)
class Found:
    """What is there already: roles of the server, and the owner of each table and function of the schema."""

    database: str
    roles: frozenset[str]
    tables: Mapping[str, str]
    functions: Mapping[str, str]


def role_names(database: str) -> dict[str, str]:
    """Return the name of each role: roles belong to the server, so they carry the database's name.

    Raises `RolesError` where that is longer than PostgreSQL takes.
    """
    names = {role: f"{database}_{role}" for role in ROLES}
    too_long = [name for name in names.values() if len(name.encode()) > _LONGEST_NAME]
    if too_long:
        raise RolesError(f"{too_long[0]} is longer than the {_LONGEST_NAME} bytes of a role's name.")
    return names


def tables_of_models() -> set[str]:
    """Return every table that Django's models have, those of many-to-many fields too, and its own of migrations."""
    models = apps.get_models(include_auto_created=True)
    managed = {model._meta.db_table for model in models if model._meta.managed and not model._meta.proxy}
    return managed | {"django_migrations"}


def look_around(connection: BaseDatabaseWrapper) -> Found:
    """Return what is there. Raises `RolesError` on another database than PostgreSQL, or before `migrate`."""
    if connection.vendor != "postgresql":
        raise RolesError("Roles are PostgreSQL's; SQLite knows none, and whoever opens its file may do everything.")
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_database()")
        database = cursor.fetchone()[0]
        cursor.execute("SELECT rolname FROM pg_roles")
        roles = frozenset(name for (name,) in cursor.fetchall())
        cursor.execute("SELECT tablename, tableowner FROM pg_tables WHERE schemaname = 'public'")
        tables = dict(cursor.fetchall())
        cursor.execute(
            "SELECT proname, pg_get_userbyid(proowner) FROM pg_proc "
            "WHERE pronamespace = 'public'::regnamespace AND pronargs = 0 AND probin IS NULL"
        )
        functions = dict(cursor.fetchall())
    missing = tables_of_models() - set(tables)
    if missing:
        raise RolesError(f"The database has no table {min(missing)}; run manage.py migrate first.")
    return Found(database, roles, tables, functions)


def statements(found: Found, passwords: Mapping[str, str]) -> Iterator[sql.Composed]:
    """Yield the SQL that makes the roles and gives each what the table says, and nothing else.

    `passwords` holds SCRAM verifiers by role; a role without one keeps what it has, a new one cannot log in.
    Raises `RolesError` for a table that no line here speaks of.
    """
    names = role_names(found.database)
    unknown = set(found.tables) - set(GRANTS)
    if unknown:
        raise RolesError(f"{min(unknown)} has no line in qflare_site.database_roles.GRANTS; add one.")
    yield from _roles(found, names, passwords)
    yield from _schema(found, names)
    yield from _owners(found, names[MIGRATION])
    for table in sorted(found.tables):
        yield from _grants_on(table, names)


def _roles(found: Found, names: Mapping[str, str], passwords: Mapping[str, str]) -> Iterator[sql.Composed]:
    for role, name in names.items():
        if name not in found.roles:
            # An administrator may still be made a member, to act as the role; it inherits nothing itself.
            yield sql.SQL("CREATE ROLE {} NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS NOINHERIT").format(
                sql.Identifier(name)
            )
        if role in passwords:
            yield sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), sql.Literal(passwords[role]))


def _schema(found: Found, names: Mapping[str, str]) -> Iterator[sql.Composed]:
    database, everyone = sql.Identifier(found.database), _identifiers(names.values())
    yield sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database)
    yield sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, everyone)
    yield sql.SQL("REVOKE CREATE ON SCHEMA {} FROM PUBLIC").format(_SCHEMA)
    yield sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(_SCHEMA, everyone)
    yield sql.SQL("GRANT CREATE ON SCHEMA {} TO {}").format(_SCHEMA, sql.Identifier(names[MIGRATION]))


def _owners(found: Found, owner: str) -> Iterator[sql.Composed]:
    for table, now in sorted(found.tables.items()):
        if now != owner:
            yield sql.SQL("ALTER TABLE {} OWNER TO {}").format(_qualified(table), sql.Identifier(owner))
    for function, now in sorted(found.functions.items()):
        if now != owner:
            yield sql.SQL("ALTER FUNCTION {}() OWNER TO {}").format(_qualified(function), sql.Identifier(owner))


def _grants_on(table: str, names: Mapping[str, str]) -> Iterator[sql.Composed]:
    grantees = [names[role] for role in GRANTEES]
    yield sql.SQL("REVOKE ALL ON {} FROM PUBLIC, {}").format(_qualified(table), _identifiers(grantees))
    for role, letters in zip(GRANTEES, GRANTS[table], strict=True):
        grantee = sql.Identifier(names[role])
        if letters:
            verbs = sql.SQL(", ").join(sql.SQL(_VERBS[letter]) for letter in letters)
            yield sql.SQL("GRANT {} ON {} TO {}").format(verbs, _qualified(table), grantee)
        columns = COLUMN_UPDATES.get((table, role))
        if columns:
            yield sql.SQL("GRANT UPDATE ({}) ON {} TO {}").format(_identifiers(columns), _qualified(table), grantee)


def _qualified(name: str) -> sql.Composed:
    return sql.SQL("{}.{}").format(_SCHEMA, sql.Identifier(name))


def _identifiers(names: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))

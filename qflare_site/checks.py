"""System checks of the site: what would make a deployment unsafe or unable to work."""

import os
import pwd
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register, run_checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connection

from qflare_protocol.pqc.registry import ENVIRONMENT_VARIABLE, engine_faults
from qflare_protocol.suites import unavailable_suites

MINIMUM_SECRET_KEY_LENGTH = 50
CRYPTOGRAPHY = "cryptography"
"""The tag of the checks that a web process runs too, before it answers its first request."""


@register(Tags.security)
def check_debug(**_kwargs: Any) -> list[CheckMessage]:
    """DEBUG shows settings and source to strangers; it has no place where services are shared."""
    if settings.DEBUG and settings.PROFILE == "services":
        return [Error("DEBUG is on in the services profile.", hint="Unset DEBUG.", id="qflare_site.E001")]
    return []


@register(Tags.compatibility)
def check_time_zone(**_kwargs: Any) -> list[CheckMessage]:
    """Epochs, deadlines and the log count in UTC."""
    if settings.TIME_ZONE != "UTC" or not settings.USE_TZ:
        return [Error("The site does not run in UTC.", hint='Set TIME_ZONE = "UTC".', id="qflare_site.E002")]
    return []


@register(Tags.files)
def check_data_dir(**_kwargs: Any) -> list[CheckMessage]:
    """Every process of the host writes into the data directory, and nobody else may read it."""
    folder: Path = settings.QFLARE_DATA_DIR
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        hint = f"It is {describe(folder)}; give it to the user that runs QFLARE."
        return [Error(f"{folder} is not a writable folder.", hint=hint, id="qflare_site.E003")]
    if folder.stat().st_mode & 0o077:
        hint = f"It is {describe(folder)}; run chmod 700 {folder}."
        return [Warning(f"Other users may look into {folder}.", hint=hint, id="qflare_site.W004")]
    return []


@register(Tags.database)
def check_database_profile(databases: Iterable[str] | None = None, **_kwargs: Any) -> list[CheckMessage]:
    """SQLite serves one host; with several, each would have a truth of its own."""
    if settings.PROFILE == "services" and "sqlite" in settings.DATABASES["default"]["ENGINE"]:
        hint = "Set DATABASE_URL=postgres://... or leave the services profile."
        return [Error("The services profile runs on SQLite.", hint=hint, id="qflare_site.E005")]
    return []


@register(Tags.database)
def check_database_role(databases: Iterable[str] | None = None, **_kwargs: Any) -> list[CheckMessage]:
    """A superuser, and a role that bypasses row security, is bound by no policy; only a migration should run as one."""
    if "default" not in (databases or ()) or connection.vendor != "postgresql":
        return []
    with connection.cursor() as cursor:
        cursor.execute("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user")
        if not cursor.fetchone()[0]:
            return []
    hint = "Run manage.py setup_database_roles, and give each process the DATABASE_URL of its role."
    return [Warning("No policy of the database binds this process' role.", hint=hint, id="qflare_site.W011")]


@register(Tags.security)
def check_secret_key(**_kwargs: Any) -> list[CheckMessage]:
    """The secret key signs operators' sessions."""
    if len(settings.SECRET_KEY) < MINIMUM_SECRET_KEY_LENGTH:
        message = f"SECRET_KEY has fewer than {MINIMUM_SECRET_KEY_LENGTH} characters."
        hint = "Make one with: python -c 'import secrets; print(secrets.token_urlsafe(50))'"
        return [Error(message, hint=hint, id="qflare_site.E006")]
    return []


@register(CRYPTOGRAPHY)
def check_suites(**_kwargs: Any) -> list[CheckMessage]:
    """A suite in use that no engine can serve would fail in a device's request; it is found here instead."""
    hint = "manage.py pqc_status shows what is missing; install it, or leave the suite out of QFLARE_SUITES."
    return [
        Error(f"The suite {name} is in use and cannot be served. {reason}", hint=hint, id="qflare_site.E008")
        for name, reason in unavailable_suites(settings.QFLARE_SUITES).items()
    ]


@register(CRYPTOGRAPHY)
def check_default_suite(**_kwargs: Any) -> list[CheckMessage]:
    """Tokens are issued for suites in use only."""
    if settings.QFLARE_DEFAULT_SUITE in settings.QFLARE_SUITES:
        return []
    hint = f"Add it to QFLARE_SUITES, or choose one of {', '.join(settings.QFLARE_SUITES)}."
    message = f"The default suite {settings.QFLARE_DEFAULT_SUITE} is not in use."
    return [Error(message, hint=hint, id="qflare_site.E009")]


@register(CRYPTOGRAPHY)
def check_engines(**_kwargs: Any) -> list[CheckMessage]:
    """An engine that the operator names has to be here; no other one steps in for it."""
    hint = f"Install the engine, or take the algorithm out of {ENVIRONMENT_VARIABLE}."
    return [
        Error(f"{name} is not served by the engine named. {reason}", hint=hint, id="qflare_site.E010")
        for name, reason in engine_faults().items()
    ]


def require_cryptography() -> None:
    """Run the checks of cryptography. Raises `ImproperlyConfigured` with every error and its hint."""
    errors = [message for message in run_checks(tags=[CRYPTOGRAPHY]) if message.is_serious()]
    if errors:
        raise ImproperlyConfigured("\n".join(f"{error.id}: {error.msg} {error.hint}" for error in errors))


@register(Tags.security, deploy=True)
def check_transport(**_kwargs: Any) -> list[CheckMessage]:
    """Operators' cookies need TLS; devices' requests are sealed with or without it."""
    if settings.QFLARE_INSECURE_HTTP:
        hint = "Unset QFLARE_INSECURE_HTTP and put a TLS proxy in front."
        return [Warning("Operators sign in over plain HTTP.", hint=hint, id="qflare_site.W007")]
    return []


def describe(path: Path) -> str:
    """Return the owner and mode of a path in words, such as `owned by root, mode 755`."""
    if not path.exists():
        return "absent"
    status = path.stat()
    try:
        owner = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        owner = str(status.st_uid)
    return f"owned by {owner}, mode {status.st_mode & 0o777:o}"

"""A site for a benchmark: Django on SQLite in a folder that is thrown away, one enrolled device, a signed log."""

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator

import django
from django.core.management import call_command

_ENVIRONMENT = {"QFLARE_INSECURE_HTTP": "1", "QFLARE_ACKNOWLEDGE_FILE_KEK": "1", "DATABASE_URL": "", "REDIS_URL": ""}


@contextlib.contextmanager
def bare_site() -> Iterator[None]:
    """Set Django up for this process and migrate; models and services can be imported from then on."""
    with tempfile.TemporaryDirectory(prefix="qflare-bench-") as folder:
        os.environ |= {**_ENVIRONMENT, "QFLARE_DATA_DIR": folder, "SECRET_KEY": secrets.token_urlsafe(50)}
        os.environ["DJANGO_SETTINGS_MODULE"] = "qflare_site.settings"
        django.setup()
        call_command("migrate", verbosity=0)
        try:
            yield
        finally:
            from django.db import connection

            connection.close()

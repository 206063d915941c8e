"""Settings are shown without their secrets, and the enclave's evidence in the health."""

from datetime import timedelta

import pytest
from django.utils import timezone

from qflare_site.console.status import settings_in_effect, shown_value
from qflare_site.health import examine
from tests.factories import make_enclave


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("SECRET_KEY", "abc", "set, not shown"),
        ("SECRET_KEY", "", "not set"),
        ("DATABASE_URL", "postgres://me:secret@db:5432/qflare?password=secret", "postgres://db:5432/qflare"),
        ("REDIS_URL", "redis://:s@cr@t@cache:6379/0", "redis://cache:6379/0"),
        ("QFLARE_SMTP_URL", "smtps://us:s@cr@t@mail.example", "smtps://mail.example"),
        ("BLOB_URL", "file:///srv/blobs", "file:///srv/blobs"),
        ("ALLOWED_HOSTS", ["a", "b"], "a, b"),
        ("QFLARE_TRUSTED_PROXIES", [], "not set"),
        ("DEBUG", False, "False"),
        ("QFLARE_ENCLAVE_UID", 0, "0"),
    ],
)
def test_what_is_shown_of_a_setting(name, value, shown):
    assert shown_value(name, value) == shown


def test_every_setting_is_listed_and_no_secret_among_them(settings):
    rows = dict(settings_in_effect())
    assert set(settings.ENVIRONMENT) < set(rows)
    assert settings.SECRET_KEY not in rows.values()


@pytest.mark.django_db
def test_health_tells_of_the_newest_evidence():
    now = timezone.now()
    assert examine(now)["parts"]["evidence"] == {"status": "ok", "detail": "No round has needed an enclave yet."}
    instance = make_enclave("3b5a2c1e-0000-4000-8000-000000000000")
    type(instance).objects.filter(pk=instance.pk).update(prepared_at=now - timedelta(minutes=1))
    detail = examine(now)["parts"]["evidence"]["detail"]
    assert detail == "The newest enclave gave software evidence, appraised as warning."

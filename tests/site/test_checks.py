"""System checks, logs and headers: what an operator is told before harm is done."""

import logging
from pathlib import Path

import pytest
from django.core.checks import run_checks
from django.test import Client

from qflare_site import checks
from qflare_site.logs import STRUCK_OUT, strike_out_secrets


def ids(messages):
    return [message.id for message in messages]


def test_the_site_has_no_findings():
    assert [message for message in run_checks() if not message.is_silenced()] == []


def test_debug_is_refused_where_services_are_shared(settings):
    settings.DEBUG, settings.PROFILE = True, "services"
    assert ids(checks.check_debug()) == ["qflare_site.E001"]
    settings.PROFILE = "embedded"
    assert checks.check_debug() == []


@pytest.mark.parametrize(("zone", "aware"), [("Europe/Berlin", True), ("UTC", False)])
def test_another_time_zone_is_refused(settings, zone, aware):
    settings.TIME_ZONE, settings.USE_TZ = zone, aware
    assert ids(checks.check_time_zone()) == ["qflare_site.E002"]
    settings.TIME_ZONE, settings.USE_TZ = "UTC", True


def test_an_absent_data_directory_is_refused(settings, tmp_path):
    settings.QFLARE_DATA_DIR = tmp_path / "absent"
    (finding,) = checks.check_data_dir()
    assert finding.id == "qflare_site.E003"
    assert "absent" in finding.hint


def test_a_data_directory_that_others_can_read_is_named_with_owner_and_mode(settings, tmp_path):
    settings.QFLARE_DATA_DIR = tmp_path
    tmp_path.chmod(0o755)
    (finding,) = checks.check_data_dir()
    assert finding.id == "qflare_site.W004"
    assert "mode 755" in finding.hint
    tmp_path.chmod(0o700)
    assert checks.check_data_dir() == []


def test_a_path_is_described_by_owner_and_mode(tmp_path):
    tmp_path.chmod(0o750)
    assert checks.describe(tmp_path) == f"owned by {tmp_path.owner()}, mode 750"
    assert checks.describe(Path("/nowhere/at/all")) == "absent"


def test_sqlite_is_refused_where_services_are_shared(monkeypatch, settings):
    settings.PROFILE = "services"
    monkeypatch.setitem(settings.DATABASES["default"], "ENGINE", "django.db.backends.sqlite3")
    assert ids(checks.check_database_profile()) == ["qflare_site.E005"]
    monkeypatch.setitem(settings.DATABASES["default"], "ENGINE", "django.db.backends.postgresql")
    assert checks.check_database_profile() == []


def test_a_short_secret_key_is_refused(settings):
    settings.SECRET_KEY = "x" * 49
    assert ids(checks.check_secret_key()) == ["qflare_site.E006"]


def test_plain_http_is_named_before_a_deployment(settings):
    settings.QFLARE_INSECURE_HTTP = True
    assert ids(checks.check_transport()) == ["qflare_site.W007"]
    settings.QFLARE_INSECURE_HTTP = False
    assert checks.check_transport() == []


@pytest.mark.parametrize("name", ["token", "enrolment_token", "SECRET_KEY", "password", "private_key", "Authorization"])
def test_a_secret_by_name_is_struck_out_of_the_log(name):
    assert strike_out_secrets(None, "info", {"event": "x", name: "hunter2"})[name] == STRUCK_OUT


def test_a_password_in_a_url_is_struck_out_of_the_log():
    event = strike_out_secrets(None, "info", {"event": "connecting to postgres://alice:hunter2@db/qflare"})
    assert event["event"] == f"connecting to postgres://alice:{STRUCK_OUT}@db/qflare"


def test_standard_loggers_write_one_json_object_a_line(settings):
    import json

    (handler,) = [
        h for h in logging.getLogger().handlers if h.formatter and "structlog" in type(h.formatter).__module__
    ]
    record = logging.LogRecord("django.request", logging.WARNING, __file__, 1, "Not Found: %s", ("/x",), None)
    line = json.loads(handler.format(record))
    assert line["event"] == "Not Found: /x"
    assert line["level"] == "warning"
    assert line["timestamp"].endswith("Z")


def test_pages_outside_the_admin_get_the_strict_policy():
    policy = Client().get("/health/live")["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.django_db
def test_only_the_admin_may_evaluate_what_its_theme_needs():
    policy = Client().get("/admin/login/")["Content-Security-Policy"]
    assert "script-src 'self' 'unsafe-eval'" in policy
    assert "default-src 'none'" in policy


def test_other_headers_are_strict():
    answer = Client().get("/health/live")
    assert answer["X-Frame-Options"] == "DENY"
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Referrer-Policy"] == "same-origin"


def test_secure_defaults_hold_unless_plain_http_is_asked_for(tmp_path):
    import json
    import os
    import subprocess
    import sys

    names = ["DEBUG", "SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE", "SECURE_SSL_REDIRECT", "SECURE_HSTS_SECONDS"]
    script = (
        "import json; from django.conf import settings; "
        f"print(json.dumps([getattr(settings, name) for name in {names}]))"
    )
    dropped = ("QFLARE_INSECURE_HTTP", "DATABASE_URL", "REDIS_URL")
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    environment |= {"QFLARE_DATA_DIR": str(tmp_path), "DJANGO_SETTINGS_MODULE": "qflare_site.settings"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True)
    assert json.loads(done.stdout) == [False, True, True, True, 365 * 24 * 3600]

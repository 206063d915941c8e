"""A site that is set up as the documents say is let through by `check --deploy`; what is switched off is named."""

import os
import subprocess
import sys

import pytest
from django.contrib.auth.models import User

from operator_access import checks
from operator_access.roles import Role
from tests.operator_access.conftest import person

DEPLOYED = {"QFLARE_ACKNOWLEDGE_FILE_KEK": "1", "ALLOWED_HOSTS": "qflare.example", "DJANGO_SETTINGS_MODULE": ""}
FROM_TESTS = ("QFLARE_", "DATABASE_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE", "PROMETHEUS_MULTIPROC_DIR")


def checked(folder, **changes):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FROM_TESTS)}
    environment = {
        **kept,
        **DEPLOYED,
        "QFLARE_DATA_DIR": str(folder),
        "SECRET_KEY": "0123456789abcdefghijk" * 4,
        **changes,
    }
    environment.pop("DJANGO_SETTINGS_MODULE")
    command = [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_a_deployed_site_has_no_findings(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    done = checked(folder)
    assert done.returncode == 0, done.stderr


def test_a_site_without_a_second_factor_is_named_and_not_let_through(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    done = checked(folder, QFLARE_REQUIRE_SECOND_FACTOR="0")
    assert done.returncode != 0
    assert "operator_access.W001" in done.stderr


@pytest.mark.parametrize(
    ("check", "setting", "on", "off"),
    [
        (checks.check_second_factor, "QFLARE_REQUIRE_SECOND_FACTOR", True, False),
        (checks.check_fresh_sign_in, "QFLARE_FRESH_SIGN_IN_SECONDS", 300, 0),
    ],
)
def test_what_is_switched_off_is_a_warning(settings, check, setting, on, off):
    setattr(settings, setting, on)
    assert check() == []
    setattr(settings, setting, off)
    assert len(check()) == 1


@pytest.mark.parametrize(("named", "findings"), [
    ([], []), (["revoke", "policy"], ["operator_access.W005"]), (["revoke", "access"], []),
])  # fmt: skip
def test_a_second_person_whom_one_makes_alone_is_a_warning(settings, named, findings):
    settings.QFLARE_SECOND_PERSON = named
    assert [message.id for message in checks.check_second_person()] == findings


def found():
    return [message.id for message in checks.check_roles(databases=["default"])]


def test_people_without_a_role_and_a_second_superuser_are_named():
    assert found() == []
    User.objects.create_superuser("root")
    person("olga", Role.OPERATOR)
    assert found() == []
    User.objects.create_superuser("toor")
    User.objects.create_user("eve", is_staff=True)
    assert found() == ["operator_access.W003", "operator_access.W004"]
    assert checks.check_roles(databases=None) == []

"""The screen of the system: versions, what the checks say, and settings without their secrets."""

import platform
import re

import django
import pytest
from django.core.checks import Error, Info, Warning
from django.urls import reverse

from qflare_site.console import system
from qflare_site.console.status import shown_value
from qflare_site.console.system import read_findings, read_versions
from tests.admin.conftest import signed_in
from tests.factories import make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def reader(db):
    """The browser of somebody who may look at the system and nothing else."""
    return signed_in(make_user("rita", "view_processheartbeat"))


def words_of(browser, **query):
    answer = browser.get(reverse("console:system"), query)
    assert answer.status_code == 200
    return " ".join(re.sub(r"<[^>]+>", " ", answer.content.decode()).split())


def test_versions_are_those_that_run(settings):
    versions = dict(read_versions()["versions"])
    assert versions["QFLARE"] == settings.SPECTACULAR_SETTINGS["VERSION"]
    assert versions["Python"] == platform.python_version()
    assert versions["Django"] == django.__version__
    assert versions["Profile"] == settings.PROFILE


def test_a_package_without_metadata_is_said_to_be_none():
    assert system._version_of("no-such-package") == "not installed as a package"


def test_findings_come_worst_first_with_their_hints(monkeypatch, settings):
    settings.SILENCED_SYSTEM_CHECKS = ["x.W002"]
    messages = [
        Info("a note", id="x.I001"), Warning("a warning", hint="Mend it.", id="x.W001"), Warning("silent", id="x.W002"),
        Error("an error", id="x.E001"),
    ]  # fmt: skip
    monkeypatch.setattr(system, "run_checks", lambda **_named: messages)
    findings = read_findings()["findings"]
    assert [(one.word, one.tone, one.id) for one in findings] == [
        ("Error", "danger", "x.E001"), ("Warning", "warning", "x.W001"), ("Note", "info", "x.I001"),
    ]  # fmt: skip
    assert findings[1].hint == "Mend it."


def test_the_screen_says_what_the_deployment_lacks(reader):
    words = words_of(reader)
    assert "Operators sign in over plain HTTP. Unset QFLARE_INSECURE_HTTP" in words
    assert "qflare_site.W007" in words


def test_a_site_without_findings_says_so(reader, monkeypatch):
    monkeypatch.setattr(system, "run_checks", lambda **_named: [])
    assert "Nothing found" in words_of(reader, panel="checks")


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("QFLARE_OTLP_ENDPOINT", "http://user:secret@collector:4318", "http://collector:4318"),
        ("QFLARE_QKD_KME_URL", "https://kme.example?key=secret", "https://kme.example"),
        (
            "QFLARE_ANCHORS",
            '[{"name": "chain", "kind": "evm", "url": "https://rpc.example/v3/secret", "account": "0x00"}]',
            "chain (evm)",
        ),
    ],
)
def test_addresses_are_shown_without_what_may_be_a_secret(name, value, shown):
    assert shown_value(name, value) == shown


def test_no_permission_no_system(newcomer):
    assert newcomer.get(reverse("console:system")).status_code == 403


def test_the_screen_shows_suites_and_settings(reader):
    words = words_of(reader)
    assert "QF1-F640 in use FrodoKEM-640-AES" in words
    assert "SECRET_KEY set, not shown" in words

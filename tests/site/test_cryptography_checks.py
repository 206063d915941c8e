"""Suites and engines that a site names are there before it answers, or it does not start."""

import os
import subprocess
import sys

import pytest
from django.core.exceptions import ImproperlyConfigured

from qflare_protocol.pqc import liboqs_engine, pqcrypto_engine, registry
from qflare_site import checks
from qflare_site.environment import read_environment
from tests.site.test_checks import ids

ROOT = checks.Path(__file__).resolve().parents[2]


@pytest.fixture
def no_optional_engine(monkeypatch):
    registry.forget_tests()
    monkeypatch.setattr(liboqs_engine, "load_oqs", lambda: None)
    monkeypatch.setattr(pqcrypto_engine, "_present", lambda: False)
    yield
    registry.forget_tests()


@pytest.fixture
def engines():
    yield registry.use_engines
    registry.use_engines({})


def test_the_default_suites_have_no_findings(no_optional_engine):
    checks.require_cryptography()


def test_a_suite_in_use_that_no_engine_serves_is_an_error_with_reason_and_hint(settings, no_optional_engine):
    settings.QFLARE_SUITES = ["QF1-F640", "QF1-M"]
    (finding,) = checks.check_suites()
    assert finding.id == "qflare_site.E008"
    assert "QF1-M" in finding.msg
    assert "pqcrypto is not installed here" in finding.msg
    assert "pqc_status" in finding.hint
    with pytest.raises(ImproperlyConfigured, match="qflare_site.E008"):
        checks.require_cryptography()


def test_an_unknown_suite_in_use_is_an_error(settings):
    settings.QFLARE_SUITES = ["QF1-F640", "QF1-F641"]
    (finding,) = checks.check_suites()
    assert "There is no suite QF1-F641" in finding.msg


def test_the_default_suite_has_to_be_in_use(settings):
    settings.QFLARE_DEFAULT_SUITE = "QF1-M"
    (finding,) = checks.check_default_suite()
    assert finding.id == "qflare_site.E009"
    assert "QF1-F640" in finding.hint


def test_a_named_engine_that_is_not_here_is_an_error(no_optional_engine, engines):
    engines({"ML-KEM-1024": "liboqs"})
    (finding,) = checks.check_engines()
    assert finding.id == "qflare_site.E010"
    assert "liboqs is not installed here" in finding.msg
    assert "QFLARE_PQC_ENGINES" in finding.hint
    assert ids(checks.check_suites()) == ["qflare_site.E008"] * 4  # all but QF1-H1024 need ML-KEM-1024


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("QFLARE_SUITES", "QF1-F640,QF1-F640"),
        ("QFLARE_SUITES", "all"),
        ("QFLARE_DEFAULT_SUITE", "fast"),
        ("QFLARE_PQC_ENGINES", "numpy"),
        ("QFLARE_PQC_ENGINES", "ML-KEM-1024=numpy"),
        ("QFLARE_PQC_ENGINES", "Kyber1024=liboqs"),
    ],
)
def test_a_choice_that_cannot_be_read_is_reported_with_the_variable(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ImproperlyConfigured, match=f"  {name}: "):
        read_environment()


def test_suites_and_engines_are_read(monkeypatch):
    monkeypatch.setenv("QFLARE_SUITES", "QF1-K1024,QF1-F1344")
    monkeypatch.setenv("QFLARE_PQC_ENGINES", "FrodoKEM-1344-AES=numpy")
    values = read_environment()
    assert values["QFLARE_SUITES"] == ["QF1-K1024", "QF1-F1344"]
    assert values["QFLARE_PQC_ENGINES"] == "FrodoKEM-1344-AES=numpy"


def test_a_web_process_does_not_start_without_its_suites(tmp_path):
    environment = {**os.environ, "QFLARE_DATA_DIR": str(tmp_path), "QFLARE_SUITES": "QF1-F640,QF1-NONE"}
    environment |= {"DJANGO_SETTINGS_MODULE": "qflare_site.settings", "QFLARE_INSECURE_HTTP": "1"}
    command = [sys.executable, "-c", "import qflare_site.wsgi"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "qflare_site.E008: The suite QF1-NONE is in use and cannot be served." in done.stderr

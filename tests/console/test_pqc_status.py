"""`manage.py pqc_status`."""

import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from qflare_protocol import status_report
from qflare_protocol.pqc import pqcrypto_engine, registry, self_test
from qflare_protocol.pqc.status import engine_status
from qflare_protocol.suites import DEFAULT_SUITE, SUITES


@pytest.fixture(autouse=True)
def no_codes(monkeypatch):
    registry.forget_tests()
    monkeypatch.setattr(pqcrypto_engine, "_present", lambda: False)  # Classic McEliece takes seconds to test
    yield
    registry.forget_tests()


def run(*arguments):
    out = StringIO()
    call_command("pqc_status", "--no-rates", *arguments, stdout=out)
    return out.getvalue()


def test_the_table_names_suites_algorithms_engines_candidates_and_display_aliases():
    shown = run()
    assert "FrodoKEM-640-AES, ML-KEM-1024 (Kyber1024), ML-DSA-44 (Dilithium2) (default)" in shown
    for row in engine_status():
        assert row.algorithm in shown
        assert f"{row.engine} {row.version}".strip() in shown
    assert shown.count("passed") == sum(row.self_test_passed for row in engine_status())
    assert all(name in shown for name in SUITES)
    assert "per second" not in shown


def test_json_is_for_machines():
    report = json.loads(run("--json"))
    assert report["default_suite"] == DEFAULT_SUITE
    assert [suite["name"] for suite in report["suites"] if suite["in_use"]] == [
        "QF1-F640", "QF1-K1024", "QF1-F976", "QF1-F1344", "QF1-H1024",
    ]  # fmt: skip
    rows = {row["algorithm"]: row for row in report["engines"]}
    assert set(rows) == {*registry.KEM_NAMES, *registry.SIGNATURE_NAMES}
    assert rows["ML-DSA-44"]["candidates"][0] == {"engine": "cryptography", "reason": None}
    assert all(row["per_second"] is None for row in rows.values())


def test_rates_are_measured_for_what_is_served(monkeypatch):
    rates = {"keygen": 1234.5, "sign": 12.0, "verify": 1.25}
    monkeypatch.setattr(status_report, "measure_rates", lambda name: rates)
    out = StringIO()
    call_command("pqc_status", stdout=out)
    line = next(line for line in out.getvalue().splitlines() if line.endswith("1.2"))
    assert line.split()[-3:] == ["1,234", "12", "1.2"]


def test_a_suite_in_use_with_a_failing_engine_fails_the_command(monkeypatch):
    monkeypatch.setitem(self_test._KNOWN_ANSWERS, "FrodoKEM-976-AES", "0" * 64)
    with pytest.raises(CommandError, match="failed its self-test for FrodoKEM-976-AES"):
        run()


def test_a_suite_that_is_not_in_use_fails_nothing(monkeypatch, settings):
    monkeypatch.setitem(self_test._KNOWN_ANSWERS, "FrodoKEM-976-AES", "0" * 64)
    settings.QFLARE_SUITES = ["QF1-F640"]
    assert "unavailable: The engine" in run()


def test_an_unknown_suite_in_use_is_shown_and_fails_the_command(settings):
    settings.QFLARE_SUITES = ["QF1-F640", "QF1-X"]
    with pytest.raises(CommandError, match="There is no suite QF1-X"):
        run()

"""`manage.py pqc_status`."""

import json
from dataclasses import replace
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from qflare_protocol.pqc.status import engine_status
from qflare_protocol.suites import DEFAULT_SUITE
from qflare_site.management.commands import pqc_status


def run(*arguments):
    out = StringIO()
    call_command("pqc_status", *arguments, stdout=out)
    return out.getvalue()


def test_the_table_names_suite_algorithms_engines_and_display_aliases():
    shown = run()
    assert f"Suite {DEFAULT_SUITE} (default): FrodoKEM-640-AES, ML-KEM-1024 (Kyber1024)" in shown
    for row in engine_status():
        assert row.algorithm in shown
    assert shown.count("passed") == len(engine_status())


def test_json_is_for_machines():
    report = json.loads(run("--json"))
    assert report["default_suite"] == DEFAULT_SUITE
    assert {row["algorithm"] for row in report["engines"]} == {row.algorithm for row in engine_status()}
    assert all(row["self_test_passed"] for row in report["engines"])


def test_an_engine_that_fails_its_self_test_fails_the_command(monkeypatch):
    first, *others = engine_status()
    broken = [replace(first, failure="The engine is broken."), *others]
    monkeypatch.setattr(pqc_status, "engine_status", lambda: broken)
    with pytest.raises(CommandError, match=first.algorithm):
        run()

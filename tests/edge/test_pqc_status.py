"""`qflare-edge pqc-status`, and a device that is told which engines to use."""

import json

import pytest

from edge_client import cli
from qflare_protocol.pqc import liboqs_engine, pqcrypto_engine, registry, self_test

QUICK = ["pqc-status", "--no-rates"]


@pytest.fixture(autouse=True)
def own_choice(monkeypatch):
    monkeypatch.delenv("QFLARE_PQC_ENGINES", raising=False)
    monkeypatch.setattr(pqcrypto_engine, "_present", lambda: False)  # Classic McEliece takes seconds to test
    yield
    registry.use_engines({})


def test_the_table_is_printed(capsys):
    assert cli.main(QUICK) == 0
    shown = capsys.readouterr().out
    assert "FrodoKEM-640-AES" in shown
    assert "QF1-F640" in shown


def test_json_is_printed_and_nothing_else(capsys):
    assert cli.main([*QUICK, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["default_suite"] == "QF1-F640"


def test_a_suite_asked_for_that_cannot_be_served_fails(capsys, monkeypatch):
    registry.forget_tests()
    monkeypatch.setitem(self_test._KNOWN_ANSWERS, "X-Wing", "0" * 64)
    assert cli.main([*QUICK, "--suite", "QF1-K1024"]) == 0
    assert cli.main([*QUICK, "--suite", "QF1-H1024"]) == 4
    assert cli.main([*QUICK, "--suite", "QF1-NONE"]) == 4


def test_the_engines_named_serve(capsys, monkeypatch):
    monkeypatch.setenv("QFLARE_PQC_ENGINES", "FrodoKEM-640-AES=numpy")
    assert cli.main([*QUICK, "--json"]) == 0
    rows = {row["algorithm"]: row for row in json.loads(capsys.readouterr().out)["engines"]}
    assert rows["FrodoKEM-640-AES"]["engine"] == "numpy"


@pytest.mark.parametrize("choice", ["ML-KEM-1024=numpy", "numpy", "Kyber1024=liboqs"])
def test_a_choice_that_cannot_be_read_ends_every_command_with_a_sentence(capsys, monkeypatch, choice):
    monkeypatch.setenv("QFLARE_PQC_ENGINES", choice)
    assert cli.main(QUICK) == cli.EXIT_REFUSED
    assert "QFLARE_PQC_ENGINES: " in capsys.readouterr().err


def test_an_engine_named_that_is_not_here_ends_every_command(capsys, monkeypatch):
    monkeypatch.setattr(liboqs_engine, "load_oqs", lambda: None)
    monkeypatch.setenv("QFLARE_PQC_ENGINES", "ML-KEM-1024=liboqs")
    assert cli.main(QUICK) == cli.EXIT_REFUSED
    assert "liboqs is not installed here" in capsys.readouterr().err

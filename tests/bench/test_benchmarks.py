"""Every benchmark runs, measures what it says, and compares each figure with a reference of the same run."""

import json
import math
import subprocess
import sys

import pytest

from audit.models import Event
from bench import crypto, handshake, sealing
from bench.django_time import DjangoTime
from qflare_protocol.pqc import registry
from tests.docs.reading import ROOT

PARTS = ("handshake", "challenge", "authenticate")


def assert_sound(figures):
    assert figures
    for figure in figures:
        assert math.isfinite(figure.ratio), figure
        assert min(figure.seconds, figure.reference_seconds) > 0, figure


def test_every_algorithm_that_is_served_is_measured(monkeypatch):
    monkeypatch.setattr(registry, "KEM_NAMES", ("ML-KEM-1024", "FrodoKEM-640-AES"))
    monkeypatch.setattr(registry, "SIGNATURE_NAMES", ("ML-DSA-44",))
    figures, notes = crypto.measure(1)
    assert_sound(figures)
    assert len(figures) == 9
    assert notes == []
    assert {figure.name.split(" (")[0] for figure in figures} == {
        f"{name} {operation}"
        for name, operations in {
            "ML-KEM-1024": ("keygen", "encapsulate", "decapsulate"),
            "FrodoKEM-640-AES": ("keygen", "encapsulate", "decapsulate"),
            "ML-DSA-44": ("keygen", "sign", "verify"),
        }.items()
        for operation in operations
    }


def test_an_algorithm_without_an_engine_is_named_and_not_measured(monkeypatch):
    monkeypatch.setattr(registry, "KEM_NAMES", ("ML-KEM-1024",))
    monkeypatch.setattr(registry, "SIGNATURE_NAMES", ("ML-DSA-44",))
    monkeypatch.setattr(registry, "failure_of", lambda name: "absent" if name == "ML-DSA-44" else None)
    figures, notes = crypto.measure(1)
    assert [figure.name.split()[0] for figure in figures] == ["ML-KEM-1024"] * 3
    assert notes == ["No engine here serves ML-DSA-44."]


def test_every_published_target_is_of_an_algorithm_there_is():
    names = {name for name, _ in crypto.TARGET_MILLISECONDS}
    assert names <= {*registry.KEM_NAMES, *registry.SIGNATURE_NAMES}


def test_sealing_is_measured_against_its_primitives():
    figures = [*sealing.measure_requests(1), *sealing.measure_streams(1, chunks=32)]
    assert_sound(figures)
    assert [figure.name for figure in figures if figure.most_times] == [
        *["seal a request of 64 KiB"] * 2,
        *["open a request of 64 KiB"] * 2,
        "seal a stream of 2 MiB",
        "open a stream of 2 MiB",
    ]


def test_a_recorder_notes_statements_by_part_and_leaves_transactions_out():
    recorder, sent = handshake.Recorder(), []

    def execute(sql, params, many, context):
        sent.append(sql)
        return "rows"

    recorder.begin("challenge")
    assert recorder(execute, "SELECT 1", (), False, {}) == "rows"
    recorder(execute, "SAVEPOINT s1", None, False, {})
    recorder.begin("authenticate")
    recorder(execute, "UPDATE t SET a = %s", (1,), False, {})
    assert recorder.statements == {
        "challenge": [("SELECT 1", ())],
        "authenticate": [("UPDATE t SET a = %s", (1,))],
    }
    assert sent == ["SELECT 1", "SAVEPOINT s1", "UPDATE t SET a = %s"]


@pytest.mark.slow
def test_the_handshake_is_measured_on_a_site_of_its_own():
    command = [sys.executable, "-m", "bench.handshake", "--repetitions", "1", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=240)
    report = json.loads(done.stdout)
    figures = {(figure["name"], figure["reference"]): figure for figure in report["figures"]}
    assert [name for name, _ in figures] == [
        *["handshake"] * 2,
        *["challenge", "authenticate"],
        *["sealed request of 1 KiB"] * 2,
        "check a model's signature",
    ]
    assert all(math.isfinite(figure["ratio"]) and figure["ratio"] > 0 for figure in report["figures"])
    whole, challenge, authenticate = (figures[name, "primitives, bare SQL"] for name in PARTS)
    assert whole["milliseconds"] == pytest.approx(challenge["milliseconds"] + authenticate["milliseconds"])
    assert figures["handshake", "primitives, statements by Django"]["ratio"] < whole["ratio"]
    assert figures["check a model's signature", "ML-DSA verify"]["most_milliseconds"] == 10
    assert len(report["notes"]) == len(handshake.PRIMITIVES) + 6


@pytest.mark.django_db
def test_the_time_inside_the_mapper_is_counted_once_and_only_while_asked():
    django = DjangoTime()
    with django.running():
        assert not Event.objects.filter(kind="x").exists()
        once = django.seconds
        sum(range(200_000))
    assert django.seconds == once > 0
    Event.objects.exists()
    assert django.seconds == once

"""What `manage.py enclave_status` says of this host, and of hosts that give less."""

import json
import sys
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from enclave import sealing_status
from enclave.core.measurement import measure
from enclave.sealing_status import REMEDIES, SealingStatus, status_as_map, status_lines
from qflare_protocol.aggregation_policy import PROTECTIONS
from qflare_protocol.sealing_tier import tier_of

COMMAND = "enclave.management.commands.enclave_status"


def status(*refused, abi=7):
    return SealingStatus(b"m" * 64, {name: name not in refused for name in PROTECTIONS}, abi)


def shown(*arguments):
    answer = StringIO()
    call_command("enclave_status", *arguments, stdout=answer)
    return answer.getvalue()


def given(monkeypatch, found):
    monkeypatch.setattr(f"{COMMAND}.probe_sealing", lambda host: found)


def test_the_command_really_seals_a_process_on_this_host():
    report = json.loads(shown("--json"))
    assert set(report["protections"]) == set(PROTECTIONS)
    assert report["sealing_tier"] == tier_of(report["protections"]).name
    assert report["measurement"] == measure().hex()


def test_the_probe_needs_nothing_of_the_hosts_directory(tmp_path, settings):
    settings.QFLARE_ENCLAVE_DIR = tmp_path / "absent"
    assert "Sealing tier:" in shown()
    assert not (tmp_path / "absent").exists()


def test_a_probe_that_fails_is_an_error(monkeypatch):
    monkeypatch.setattr("enclave.courier._command", lambda *given: [sys.executable, "-c", "raise SystemExit(1)"])
    with pytest.raises(CommandError, match="ended with status 1"):
        shown()


def test_what_is_refused_is_shown_with_the_way_to_get_it(monkeypatch):
    given(monkeypatch, status("landlock", "namespaces"))
    text = shown()
    assert "Sealing tier: process" in text
    assert f"To have landlock: {REMEDIES['landlock']}." in text
    assert f"To have namespaces: {REMEDIES['namespaces']}." in text
    assert "To have seccomp" not in text
    assert "landlock              REFUSED   needed from tier separate" in text


def test_below_the_demanded_tier_the_command_fails(monkeypatch):
    given(monkeypatch, status("namespaces"))
    assert "separate" in shown("--demand", "separate")
    with pytest.raises(CommandError, match="tier full is not reached: namespaces missing"):
        shown("--demand", "full")


def test_for_every_higher_tier_it_says_what_is_missing():
    report = status_as_map(status("own-uid", "namespaces"))
    assert report["sealing_tier"] == "process"
    assert {name: set(missing) for name, missing in report["missing"].items()} == {
        "separate": {"own-uid"},
        "full": {"own-uid", "namespaces"},
    }


def test_every_protection_has_a_way_to_get_it():
    assert set(REMEDIES) == set(PROTECTIONS)


@pytest.mark.parametrize(
    ("abi", "text"),
    [
        (0, "none"),
        (1, "1 (keeps from files)"),
        (4, "4 (keeps from files, TCP)"),
        (6, "6 (keeps from files, TCP, abstract sockets, signals)"),
    ],
)
def test_what_the_kernels_landlock_can_keep_it_from_is_said(abi, text):
    assert f"Landlock ABI: {text}" in list(status_lines(status(abi=abi)))


def test_a_kernel_without_landlock_has_version_zero(monkeypatch):
    def absent():
        raise OSError

    monkeypatch.setattr(sealing_status, "abi_version", absent)
    assert sealing_status._landlock_abi() == 0

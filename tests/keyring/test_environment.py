"""Settings of the KEK come from the environment, and its PIN goes nowhere else."""

import json
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.views.debug import get_default_exception_reporter_filter

from qflare_site.console.status import settings_in_effect
from qflare_site.environment import read_environment
from qflare_site.logs import STRUCK_OUT, strike_out_secrets

PIN = "31415926"


@pytest.fixture(autouse=True)
def no_other_pin(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("QFLARE_KEK_PROVIDER", "QFLARE_PKCS11_PIN", "QFLARE_PKCS11_KEY", "QFLARE_PKCS11_PIN_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("provider", ["", "File", "hsm", "pkcs 11"])
def test_a_provider_that_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch, provider: str) -> None:
    monkeypatch.setenv("QFLARE_KEK_PROVIDER", provider)
    with pytest.raises(ImproperlyConfigured, match="QFLARE_KEK_PROVIDER: Must be file or pkcs11"):
        read_environment()


@pytest.mark.parametrize("label", ["", "a b", "kek.2", "x" * 25, "k/e"])
def test_a_label_to_which_no_number_can_be_added_is_refused(monkeypatch: pytest.MonkeyPatch, label: str) -> None:
    monkeypatch.setenv("QFLARE_PKCS11_KEY", label)
    with pytest.raises(ImproperlyConfigured, match="QFLARE_PKCS11_KEY: Must be 1 to 24"):
        read_environment()


def test_the_pin_can_come_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pin").write_text(f"{PIN}\n")
    monkeypatch.setenv("QFLARE_PKCS11_PIN_FILE", str(tmp_path / "pin"))
    assert read_environment()["QFLARE_PKCS11_PIN"] == PIN


@pytest.mark.parametrize("name", ["pin", "QFLARE_PKCS11_PIN", "user_pin"])
def test_a_pin_is_struck_out_of_the_log(name: str) -> None:
    assert strike_out_secrets(None, "info", {"event": "x", name: PIN})[name] == STRUCK_OUT


def test_a_pinned_key_is_no_pin() -> None:
    assert strike_out_secrets(None, "info", {"event": "x", "pinned": "abc"})["pinned"] == "abc"


def test_the_debug_page_shows_no_pin_and_no_password_in_a_url(settings: Any) -> None:
    settings.QFLARE_PKCS11_PIN = PIN
    settings.ENVIRONMENT = {"QFLARE_PKCS11_PIN": PIN, "DATABASE_URL": "postgres://a:hunter2@db/q"}
    shown = json.dumps(get_default_exception_reporter_filter().get_safe_settings(), default=repr)
    assert PIN not in shown
    assert "hunter2" not in shown
    assert "QFLARE_PKCS11_PIN" in shown


def test_the_console_shows_that_there_is_a_pin_and_not_which(settings: Any) -> None:
    settings.ENVIRONMENT = {**settings.ENVIRONMENT, "QFLARE_PKCS11_PIN": PIN}
    shown = dict(settings_in_effect())
    assert shown["QFLARE_PKCS11_PIN"] == "set, not shown"
    assert PIN not in str(shown)

"""What a device is told about QKD, by flags and by the environment."""

import argparse

import pytest

from edge_client.qkd import OFF, add_qkd_arguments, device_kme_client, qkd_settings
from qflare_protocol.errors import Refusal
from qflare_protocol.qkd import QkdUse
from tests.qkd.conftest import ALICE, SERVER


@pytest.fixture
def flags(files):
    """The flags of a device with a KME, by name."""
    return {
        "--qkd-kme": "https://127.0.0.1:1",
        "--qkd-sae": ALICE,
        "--qkd-certificate": str(files.certificate(ALICE)),
        "--qkd-private-key": str(files.private_key(ALICE)),
        "--qkd-ca": str(files.ca),
    }


def settings_of(flags, environment=None):
    parser = argparse.ArgumentParser()
    add_qkd_arguments(parser)
    arguments = [word for pair in flags.items() for word in pair]
    return qkd_settings(parser.parse_args(arguments), environment or {})


def test_without_a_kme_qkd_is_off():
    assert settings_of({}) == OFF
    assert device_kme_client(OFF) is None


def test_naming_a_kme_prefers_it(flags, files):
    settings = settings_of(flags)
    assert settings.use is QkdUse.PREFERRED
    assert (settings.sae_id, settings.ca) == (ALICE, files.ca)


@pytest.mark.parametrize("use", ["preferred", "required"])
def test_the_policy_can_be_stated(flags, use):
    assert settings_of(flags | {"--qkd": use}).use == use


def test_off_needs_no_files_and_wins_over_a_named_kme(flags):
    assert settings_of(flags | {"--qkd": "off", "--qkd-ca": "/nowhere"}) == OFF


def test_the_environment_stands_in_for_absent_flags(flags):
    variables = {f"QFLARE_EDGE_QKD_{name.removeprefix('--qkd-').replace('-', '_').upper()}": value
                 for name, value in flags.items()}  # fmt: skip
    settings = settings_of({"--qkd-kme": "https://other"}, variables | {"QFLARE_EDGE_QKD": "required"})
    assert settings.use is QkdUse.REQUIRED
    assert settings.kme_url == "https://other"
    assert settings.sae_id == ALICE


@pytest.mark.parametrize("absent", ["--qkd-kme", "--qkd-sae", "--qkd-certificate", "--qkd-private-key", "--qkd-ca"])
def test_incomplete_settings_are_refused_by_name(flags, absent):
    del flags[absent]
    with pytest.raises(Refusal, match=absent):
        settings_of(flags)


def test_required_without_a_kme_is_refused():
    with pytest.raises(Refusal, match="--qkd-kme"):
        settings_of({"--qkd": "required"})


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--qkd-kme", "http://kme"), ("--qkd-sae", ".."), ("--qkd-certificate", "/nowhere"), ("--qkd-ca", "/nowhere")],
)
def test_a_mistaken_setting_is_refused(flags, flag, value):
    with pytest.raises(Refusal) as refusal:
        settings_of(flags | {flag: value})
    assert refusal.value.code == "malformed-message"


def test_a_misspelt_policy_in_the_environment_is_refused(flags):
    with pytest.raises(Refusal, match="QFLARE_EDGE_QKD"):
        settings_of(flags, {"QFLARE_EDGE_QKD": "sometimes"})


def test_a_private_key_that_others_can_read_is_refused(flags, files, tmp_path):
    open_key = tmp_path / "open.key"
    open_key.write_bytes(files.private_key(ALICE).read_bytes())
    open_key.chmod(0o640)
    with pytest.raises(Refusal) as refusal:
        settings_of(flags | {"--qkd-private-key": str(open_key)})
    assert refusal.value.code == "invalid-key"


def test_the_device_reaches_its_kme(flags, simulator, server):
    client = device_kme_client(settings_of(flags | {"--qkd-kme": simulator.device_url}))
    (key,) = server.enc_keys(ALICE)
    assert client.dec_keys(SERVER, [key.key_id]) == [key]

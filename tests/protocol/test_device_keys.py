"""Device keys: whole suites only, lengths checked, private parts hidden."""

import pytest

from qflare_protocol.device_keys import RegisteredKeys, generate_device_keypair
from qflare_protocol.errors import Refusal
from qflare_protocol.suites import SUITES, choose_suite, suite_by_name

KEYS = generate_device_keypair("QF1-F640")


def refused(code, call, *arguments, **options):
    with pytest.raises(Refusal) as caught:
        call(*arguments, **options)
    assert caught.value.code == code


@pytest.mark.parametrize("name", ["", "QF1", "qf1-f640", None, 1, b"QF1-F640", ["QF1-F640"]])
def test_a_suite_that_is_not_in_the_table_is_refused(name):
    refused("suite-refused", suite_by_name, name)
    refused("suite-refused", generate_device_keypair, name)


@pytest.mark.parametrize(
    "kem", [lambda key: key[:-1], lambda key: key + b"\0", lambda key: bytes(len(key)), lambda _: b"", str]
)
def test_a_key_of_the_wrong_form_is_not_registered(kem):
    refused("invalid-key", RegisteredKeys, "QF1-F640", kem(KEYS.kem.public), KEYS.signer.public)
    refused("invalid-key", RegisteredKeys, "QF1-F640", KEYS.kem.public, kem(KEYS.signer.public))


def test_swapped_keys_are_not_registered():
    refused("invalid-key", RegisteredKeys, "QF1-F640", KEYS.signer.public, KEYS.kem.public)


def test_registered_keys_check_the_devices_signatures():
    registered = RegisteredKeys("QF1-F640", KEYS.kem.public, KEYS.signer.public)
    assert registered.verifier == KEYS.signer.verifier
    assert len(registered.kem_fingerprint) == 32
    assert registered.kem_fingerprint != registered.verifier.fingerprint


@pytest.mark.parametrize("offered", [None, "QF1-F640", [1], [b"QF1-F640"], {"QF1-F640": 1}])
def test_an_offer_out_of_form_is_refused(offered):
    refused("malformed-message", choose_suite, offered, registered="QF1-F640")


def test_the_registered_suite_is_taken_and_no_other():
    assert choose_suite(["x", "QF1-F640"], registered="QF1-F640") is SUITES["QF1-F640"]
    refused("suite-refused", choose_suite, ["QF1-K1024"], registered="QF1-F640")
    refused("suite-refused", choose_suite, [], registered="QF1-F640")


def test_private_keys_do_not_show():
    for private in (KEYS.kem.private, KEYS.signer.private):
        assert repr(private)[2:20] not in repr(KEYS)

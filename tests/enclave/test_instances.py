"""Enclave instances of every attester: how their own host appraises and shows them."""

import dataclasses
import uuid
from datetime import UTC, datetime

import pytest
from django.contrib.admin.sites import site as admin_site

from audit.models import Event
from enclave import services
from enclave.api import describe_instance
from enclave.core.measurement import measure
from enclave.courier import PreparedRound
from enclave.models import EnclaveInstance
from qflare_protocol.attestation import encode_hardware_evidence
from qflare_protocol.attestation.limits import left_open
from qflare_protocol.attestation.roots import CLASSICAL_REASON
from qflare_protocol.errors import Refusal
from tests.fake_evidence import CLAIMS, PINS, given_by
from tests.fake_hardware import NOW, ROOTS

pytestmark = pytest.mark.django_db
AT = datetime.fromtimestamp(NOW, UTC)
ROUND, FEDERATION = uuid.UUID(bytes=CLAIMS.round_id), uuid.UUID(bytes=CLAIMS.federation_id)


@pytest.fixture(autouse=True)
def host(settings, tmp_path, monkeypatch):
    settings.QFLARE_ENCLAVE_DIR = tmp_path
    monkeypatch.setattr(services, "VENDOR_ROOTS", ROOTS)


def recorded(attester, claims=None):
    claims = claims or dataclasses.replace(CLAIMS, measurement=measure())
    evidence = encode_hardware_evidence(claims, given_by(attester, claims.report_data))
    return services.record_instance(PreparedRound(evidence, b"wrapped", claims), ROUND, FEDERATION, now=AT)


@pytest.mark.parametrize("attester", sorted(PINS))
def test_hardware_is_recorded_as_what_it_is(settings, attester):
    settings.QFLARE_ENCLAVE_PLATFORMS = [PINS[attester]]
    instance = recorded(attester)
    assert (instance.attester, instance.tier) == (attester, "affirming" if attester == "nitro" else "warning")
    assert CLASSICAL_REASON in instance.appraisal["reasons"]
    assert describe_instance(instance)["not_protected_against"] == " ".join(left_open(attester))


@pytest.mark.parametrize("attester", sorted(PINS))
def test_a_host_that_pins_no_image_never_calls_it_affirming(attester):
    instance = recorded(attester)
    assert instance.tier == "warning"
    assert instance.appraisal["reasons"][0] == services.NO_REFERENCE
    assert instance.appraisal["ear.trustworthiness-vector"]["executables"] == 32


def test_a_host_refuses_evidence_of_another_image_than_it_pins(settings):
    settings.QFLARE_ENCLAVE_PLATFORMS = [PINS["tdx"].replace("dd", "de")]
    with pytest.raises(Refusal, match="image that is not pinned"):
        recorded("tdx")
    assert not EnclaveInstance.objects.exists()


def test_a_host_refuses_hardware_of_no_vendor(monkeypatch):
    monkeypatch.setattr(services, "VENDOR_ROOTS", type(ROOTS)())
    with pytest.raises(Refusal, match="not end in a root"):
        recorded("sgx")


def test_the_log_names_what_was_launched():
    recorded("sgx")
    payload = Event.objects.get(kind="enclave.prepared").payload
    assert payload["registers"]["MRENCLAVE"] == "bb" * 32


@pytest.mark.parametrize("attester", sorted(PINS))
def test_the_console_gives_the_pin_that_devices_need(attester):
    admin, instance = admin_site.get_model_admin(EnclaveInstance), recorded(attester)
    assert admin.platform_pin(instance) == PINS[attester]
    assert admin.not_protected_against(instance) == " ".join(left_open(attester))
    assert services.NO_REFERENCE in admin.tier_reasons(instance)
    assert CLASSICAL_REASON not in admin.tier_reasons(instance)
    assert "executables: warning" in admin.aspects(instance)


def test_the_setting_chooses_the_attester(settings):
    assert services.enclave_host().attester == "software"
    settings.QFLARE_ENCLAVE_ATTESTER = "tsm"
    assert services.enclave_host().attester == "tsm"
